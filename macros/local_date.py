from sqlglot import exp
from sqlmesh import macro
from sqlmesh.core.macros import MacroEvaluator

from macros.engine import require_engine


@macro()
def local_date(evaluator: MacroEvaluator, instant: exp.Expr) -> exp.Expr:
    """The day on which an instant (TIMESTAMPTZ) lies in the variable `reporting_timezone`, as DATE.

    Example:
        >>> from macros.local_date import local_date
        >>> evaluator = MacroEvaluator(dialect="postgres")
        >>> evaluator.locals["__sqlmesh__vars__"] = {"engine": "postgres", "reporting_timezone": "America/New_York"}
        >>> print(local_date(evaluator, exp.column("ordered_at")).sql("postgres"))
        CAST(ordered_at AT TIME ZONE 'America/New_York' AS DATE)
    """
    require_engine(evaluator, "local_date", "postgres", "duckdb")
    zone = evaluator.var("reporting_timezone")
    if not zone:
        raise ValueError("@local_date: the variable reporting_timezone is not set")
    return exp.cast(exp.AtTimeZone(this=instant, zone=exp.Literal.string(zone)), "DATE")
