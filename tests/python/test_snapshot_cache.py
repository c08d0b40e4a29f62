"""That a cache which several states share never says where a model's rows are (scripts/snapshot_cache.py)."""

import inspect
import subprocess
import sys
from pathlib import Path

import pytest
from sqlmesh.core.config import DuckDBConnectionConfig
from sqlmesh.core.dialect import parse
from sqlmesh.core.model import load_sql_based_model
from sqlmesh.core.snapshot import Snapshot, SnapshotChangeCategory
from sqlmesh.core.state_sync.db import EngineAdapterStateSync
from sqlmesh.core.state_sync.db.snapshot import SnapshotState

from scripts import snapshot_cache
from scripts.settings import ROOT
from tests.python.conftest import Home

STOCK = inspect.unwrap(SnapshotState._get_snapshots)


@pytest.fixture(params=[True, False], ids=["checked", "stock"])
def is_checked(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> bool:
    get_snapshots = snapshot_cache._get_snapshots(STOCK) if request.param else STOCK
    monkeypatch.setattr(SnapshotState, "_get_snapshots", get_snapshots)
    return bool(request.param)


def _state(cache: Path) -> EngineAdapterStateSync:
    state = EngineAdapterStateSync(DuckDBConnectionConfig().create_engine_adapter(), "sqlmesh", cache_dir=cache)
    state.migrate()
    return state


def _snapshot(column: str) -> Snapshot:
    model = load_sql_based_model(parse(f"MODEL (name marts.one, dialect postgres); SELECT 1 AS {column}"))
    snapshot = Snapshot.from_node(model, nodes={})
    snapshot.categorize_as(SnapshotChangeCategory.BREAKING)
    return snapshot


def test_the_table_is_that_of_the_state_and_not_of_another_that_shares_the_cache(
    tmp_path: Path, is_checked: bool
) -> None:
    """Stock SQLMesh mixes them up; should it cease to, the module can go."""
    first, second = _state(tmp_path), _state(tmp_path)
    built_anew, changed = _snapshot("a"), _snapshot("a")
    changed.previous_versions = (_snapshot("b").data_version,)
    changed.categorize_as(SnapshotChangeCategory.METADATA)
    assert changed.snapshot_id == built_anew.snapshot_id
    assert changed.table_name() != built_anew.table_name()
    first.push_snapshots([built_anew])
    second.push_snapshots([changed])
    for state, own in ((second, changed), (first, built_anew), (second, changed)):
        table = state.get_snapshots([own.snapshot_id])[own.snapshot_id].table_name()
        assert table == (own if is_checked else built_anew).table_name()


def test_a_snapshot_that_the_state_does_not_know_is_none(tmp_path: Path, is_checked: bool) -> None:
    first, second, snapshot = _state(tmp_path), _state(tmp_path), _snapshot("a")
    first.push_snapshots([snapshot])
    assert second.get_snapshots([snapshot.snapshot_id]) == {}
    assert second.get_snapshots([]) == {}


def test_every_command_checks(server: Home) -> None:
    """Also `sqlmesh plan`, which begins with config.py."""
    code = "import config; from scripts.snapshot_cache import SnapshotState as S; print(S._get_snapshots.__wrapped__)"
    command = [sys.executable, "-c", code]
    done = subprocess.run(command, cwd=ROOT, env=server.environment(), capture_output=True, text=True, check=False)
    assert "_get_snapshots" in done.stdout, done.stderr
