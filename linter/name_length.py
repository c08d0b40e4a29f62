from sqlmesh.core.linter.rule import Rule, RuleViolation
from sqlmesh.core.model import Model

# PostgreSQL cuts names at 63 bytes, and SQLMesh's physical and temporary tables add up to 33.
LONGEST = 30


class NameLength(Rule):
    """A table name has at most 30 characters."""

    def check_model(self, model: Model) -> RuleViolation | None:
        length = len(model.view_name)
        if model.kind.is_external or length <= LONGEST:
            return None
        return self.violation(
            f"{model.view_name} has {length} characters: shorten it to {LONGEST}, or PostgreSQL cuts the "
            "names of its physical tables"
        )
