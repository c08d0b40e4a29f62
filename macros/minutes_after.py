from sqlglot import exp
from sqlmesh import macro
from sqlmesh.core.macros import MacroEvaluator

from macros.engine import require_engine


@macro()
def minutes_after(evaluator: MacroEvaluator, instant: exp.Expr, minutes: exp.Expr) -> exp.Expr:
    """The instant (TIMESTAMPTZ) so many whole minutes of wall-clock time after another; NULL where either is.

    Example:
        >>> from macros.minutes_after import minutes_after
        >>> evaluator = MacroEvaluator(dialect="postgres")
        >>> evaluator.locals["__sqlmesh__vars__"] = {"engine": "postgres"}
        >>> print(minutes_after(evaluator, exp.column("created_at"), exp.column("target_minutes")).sql("postgres"))
        created_at + target_minutes * INTERVAL '1 MINUTE'
    """
    require_engine(evaluator, "minutes_after", "postgres", "duckdb")
    minute = exp.Interval(this=exp.Literal.string("1"), unit=exp.Var(this="MINUTE"))
    return exp.Add(this=instant.copy(), expression=exp.Mul(this=minutes.copy(), expression=minute))
