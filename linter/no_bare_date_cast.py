from sqlglot import exp
from sqlmesh.core.dialect import MacroFunc
from sqlmesh.core.linter.rule import Rule, RuleViolation
from sqlmesh.core.model import Model

from linter import _sql


class NoBareDateCast(Rule):
    """The day, month or hour of an instant is that of the reporting time zone: @local_date says it."""

    def check_model(self, model: Model) -> list[RuleViolation] | None:
        query = _sql.query(model)
        if query is None:
            return None
        return [
            self.violation(f"{_sql.text(node)} takes the session's time zone: use @local_date on the instant")
            for node in query.find_all(exp.Cast, exp.Date, exp.TimestampTrunc, exp.Extract, exp.TimeToStr)
            if _reads_an_instant(node)
        ]


def _reads_an_instant(node: exp.Expr) -> bool:
    if isinstance(node, exp.Cast) and not node.to.is_type(exp.DType.DATE):
        return False
    operand = node.expression if isinstance(node, exp.Extract) else node.this
    if not isinstance(operand, exp.Expr):  # DATE() of nothing
        return False
    # What a macro makes of an instant is the macro's affair: @local_date(ordered_at)::DATE is right.
    inner = operand.walk(prune=lambda part: isinstance(part, MacroFunc))
    return any(_sql.is_instant(part) for part in inner)
