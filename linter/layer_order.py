from sqlglot import exp
from sqlmesh.core.linter.rule import Rule, RuleViolation
from sqlmesh.core.model import Model

from linter import _layers


class LayerOrder(Rule):
    """Each layer reads the layers that it may: linter/_layers.py."""

    def check_model(self, model: Model) -> list[RuleViolation] | None:
        layer = model.schema_name
        if model.kind.is_external or layer not in _layers.READS:  # another layer is a fault of NameMatchesPath
            return None
        allowed = _layers.READS[layer]
        tables = sorted((exp.to_table(name) for name in model.depends_on or ()), key=lambda table: table.sql())
        return [
            self.violation(
                f"{layer} reads {table.db}.{table.name}: "
                f"{layer} may read {', '.join(allowed) or 'nothing'} only; go through a model of those layers"
            )
            for table in tables
            if table.db not in allowed
        ]
