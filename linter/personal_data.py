from sqlglot import exp
from sqlmesh.core.linter.rule import Rule, RuleViolation
from sqlmesh.core.model import Model

from linter import _sql
from scripts.contract import PERSONAL, is_personal


class PersonalData(Rule):
    """marts and ml neither show nor read personal data: analysts see hashes, analyst_pii reads marts_pii."""

    def check_model(self, model: Model) -> list[RuleViolation] | None:
        if model.schema_name not in ("marts", "ml") or model.kind.is_external:
            return None
        shown = [name for name in model.columns_to_types_ or {} if is_personal(name) and not name.endswith("_hash")]
        query = _sql.query(model)
        read = [column.name for column in query.find_all(exp.Column) if column.name in PERSONAL] if query else []
        return [
            self.violation(f"{name} is personal data: show email_hash, or move the model to marts_pii")
            for name in dict.fromkeys([*shown, *read])
        ]
