from sqlglot import exp
from sqlmesh import macro
from sqlmesh.core.macros import MacroEvaluator

from macros.engine import require_engine
from macros.ratio import whole_ratio


@macro()
def minutes_between(evaluator: MacroEvaluator, start: exp.Expr, end: exp.Expr) -> exp.Expr:
    """Minutes of wall-clock time from one instant (TIMESTAMPTZ) to another, as DECIMAL(18, 4); negative backwards.

    Example:
        >>> from macros.minutes_between import minutes_between
        >>> evaluator = MacroEvaluator(dialect="postgres")
        >>> evaluator.locals["__sqlmesh__vars__"] = {"engine": "postgres"}
        >>> print(minutes_between(evaluator, exp.column("created_at"), exp.column("replied_at")).sql("postgres"))
        CAST(CAST(EXTRACT(EPOCH FROM (replied_at - created_at)) AS DECIMAL(18, 6)) / 60 AS DECIMAL(18, 4))
    """
    engine = require_engine(evaluator, "minutes_between", "postgres", "duckdb")
    if engine == "postgres":
        seconds = exp.Extract(
            this=exp.Var(this="EPOCH"), expression=exp.paren(exp.Sub(this=end.copy(), expression=start.copy()))
        )
        # SQLGlot takes an epoch for a DOUBLE; PostgreSQL's is a decimal
        return exp.cast(
            exp.Div(this=exp.cast(seconds, "DECIMAL(18, 6)"), expression=exp.Literal.number(60)), "DECIMAL(18, 4)"
        )
    microseconds = exp.Sub(
        this=exp.Anonymous(this="EPOCH_US", expressions=[end.copy()]),
        expression=exp.Anonymous(this="EPOCH_US", expressions=[start.copy()]),
    )
    return whole_ratio(exp.cast(microseconds, "HUGEINT"), exp.Literal.number(60_000_000), 4)
