from sqlglot import exp
from sqlmesh.core.linter.rule import Rule, RuleViolation
from sqlmesh.core.model import Model


class GrainDeclared(Rule):
    """Every model but the raw views declares its grain: the columns that tell its rows apart."""

    def check_model(self, model: Model) -> RuleViolation | None:
        if model.kind.is_external or (model.schema_name == "raw" and model.kind.is_view):
            return None
        if not model.grains:
            return self.violation("no grain: add `grain <column>` or `grain (<columns>)` to the header")
        known = model.columns_to_types
        named = {column.name for grain in model.grains for column in grain.find_all(exp.Column)}
        if known and (unknown := sorted(named - set(known))):
            return self.violation(
                f"the grain names {', '.join(unknown)}, which the model does not return: correct the grain"
            )
        return None
