from pathlib import Path

from sqlmesh.core.linter.rule import Rule, RuleViolation
from sqlmesh.core.model import Model

from linter import _layers


class NameMatchesPath(Rule):
    """A model `<layer>.<name>` lies in models/<layer>/[<domain>/]<name>.sql or .py."""

    def check_model(self, model: Model) -> RuleViolation | None:
        if model.kind.is_external or model._path is None:
            return None
        try:
            path = Path(model._path).resolve().relative_to(Path(self.context.path).resolve() / "models")
        except ValueError:
            return self.violation(f"{model._path} lies outside models/: move it to models/<layer>/")
        if path.parts[0] not in _layers.READS or len(path.parts) not in (2, 3):
            return self.violation(
                f"models/{path.as_posix()} is no place for a model: move it to "
                f"models/<layer>/[<domain>/], with a layer of {', '.join(_layers.READS)}"
            )
        expected = f"{path.parts[0]}.{path.stem}"
        if model.name == expected:
            return None
        return self.violation(f"{model.name} lies in models/{path.as_posix()}: name it {expected}, or move the file")
