from sqlglot import exp
from sqlmesh.core.linter.rule import Rule, RuleViolation
from sqlmesh.core.model import Model

READS = {
    "seeds": (),
    "raw": ("landing",),
    "staging": ("raw", "seeds", "staging"),
    "marts": ("staging", "marts"),
    "marts_pii": ("staging", "marts"),
    "ml": ("marts", "staging", "ml"),
}


class LayerOrder(Rule):
    """Each layer reads those in `READS`. Nobody reads marts_pii: from there personal data would go on."""

    def check_model(self, model: Model) -> list[RuleViolation] | None:
        layer = model.schema_name
        if model.kind.is_external or layer not in READS:  # another layer is a fault of NameMatchesPath
            return None
        allowed = READS[layer]
        tables = sorted((exp.to_table(name) for name in model.depends_on or ()), key=lambda table: table.sql())
        return [
            self.violation(
                f"{layer} reads {table.db}.{table.name}: "
                f"{layer} may read {', '.join(allowed) or 'nothing'} only; go through a model of those layers"
            )
            for table in tables
            if table.db not in allowed
        ]
