from sqlmesh.core.linter.rule import Rule, RuleViolation
from sqlmesh.core.model import Model

from linter import _layers


class ColumnsDescribed(Rule):
    """column_descriptions name columns that exist; in marts, marts_pii and ml they name every one."""

    def check_model(self, model: Model) -> list[RuleViolation] | None:
        if model.kind.is_external:
            return None
        # The header alone: without it, SQLMesh takes stray comments of the query for descriptions.
        described = {name: words for name, words in (model.column_descriptions_ or {}).items() if words.strip()}
        must = model.schema_name in _layers.SHOWN
        columns = model.columns_to_types
        if columns is None:
            return [self.violation("its columns cannot be told: list them in the final SELECT")] if must else None
        violations = []
        if must and (missing := [name for name in columns if name not in described]):
            violations.append(self.violation(f"not described: {', '.join(missing)}. Add to column_descriptions"))
        if unknown := [name for name in described if name not in columns]:
            violations.append(
                self.violation(f"described, but no column of the model: {', '.join(unknown)}. Correct or remove")
            )
        return violations
