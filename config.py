"""SQLMesh's configuration: the settings are in config/gateways.yaml and warehouse.yaml, each key in one file."""

import warnings
from pathlib import Path

from sqlmesh.core.config import Config, load_config_from_yaml
from sqlmesh.utils.errors import ConfigError

from scripts import adapter, evaluator, guard, recorder, renderer, snapshot_cache
from scripts.errors import WarehouseError
from scripts.settings import export_environment

try:
    export_environment()  # a variable that is missing would render as the text 'None'
except WarehouseError as error:
    raise ConfigError(str(error)) from None
adapter.register()
evaluator.register()
recorder.register()
renderer.register()
guard.register()
snapshot_cache.register()
warnings.filterwarnings("ignore", module=r"sqlmesh\.")  # of its own use of pandas, pages of them
config = Config(
    **{
        key: value
        for name in ("gateways", "warehouse")
        for key, value in load_config_from_yaml(Path(__file__).parent / "config" / f"{name}.yaml").items()
    }
)
