from sqlglot import exp
from sqlmesh.core.linter.rule import Rule, RuleViolation
from sqlmesh.core.model import Model

AUDIT = "grain_is_unique"


class GrainAudited(Rule):
    """The grain of a stored model is proved by the audit grain_is_unique on the same columns."""

    def check_model(self, model: Model) -> list[RuleViolation] | None:
        if not model.kind.is_materialized or model.kind.is_seed:
            return None
        # A SQL header gives columns, a Python header may give strings.
        audited = [
            {name.name for name in arguments["columns"].find_all(exp.Column, exp.Literal)}
            for audit, arguments in model.audits
            if audit == AUDIT and "columns" in arguments
        ]
        violations = []
        for grain in model.grains:
            columns = [column.name for column in grain.find_all(exp.Column)]
            if set(columns) not in audited:
                written = columns[0] if len(columns) == 1 else f"({', '.join(columns)})"
                violations.append(
                    self.violation(f"nothing proves the grain: add the audit {AUDIT}(columns := {written})")
                )
        return violations
