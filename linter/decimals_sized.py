from sqlglot import exp
from sqlmesh.core.linter.rule import Rule, RuleViolation
from sqlmesh.core.model import Model

from linter import _sql


class DecimalsSized(Rule):
    """Decimals have precision and scale, and nothing that is stored is FLOAT, DOUBLE or REAL."""

    def check_model(self, model: Model) -> list[RuleViolation] | None:
        if model.kind.is_external:
            return None
        faults = []
        for name, kind in (model.columns_to_types or {}).items():
            if _unsized(kind):
                faults.append(f"column {name} is a DECIMAL of no size: cast it to DECIMAL(precision, scale)")
            elif kind.this in _sql.FLOATS:
                faults.append(f"column {name} becomes a {kind.this.value}: cast it to DECIMAL(precision, scale)")
        query = _sql.query(model)
        for cast in query.find_all(exp.Cast) if query else ():
            if _unsized(cast.to):
                faults.append(f"{_sql.text(cast)}: write DECIMAL(precision, scale)")
            elif cast.to.this in _sql.FLOATS and model.schema_name != "ml":  # models of ml take logarithms
                faults.append(f"{_sql.text(cast)}: money loses cents in it, use DECIMAL(precision, scale)")
        return [self.violation(fault) for fault in faults]


def _unsized(kind: exp.DataType) -> bool:
    return kind.is_type(exp.DType.DECIMAL) and len(kind.expressions) != 2
