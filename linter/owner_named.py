from sqlmesh.core.linter.rule import Rule, RuleViolation
from sqlmesh.core.model import Model


class OwnerNamed(Rule):
    """Every model names its owner: whom to ask, and who hears of its failures."""

    def check_model(self, model: Model) -> RuleViolation | None:
        if model.kind.is_external or model.owner:
            return None
        return self.violation("no owner: add `owner <team>` to the header")
