from sqlglot import exp
from sqlmesh import macro
from sqlmesh.core.macros import MacroEvaluator

from macros.engine import require_engine


@macro()
def iso_weekday(evaluator: MacroEvaluator, day: exp.Expr) -> exp.Expr:
    """Day of the week of a DATE by ISO 8601: 1 is Monday, 7 is Sunday. Engines disagree on every other numbering.

    Example:
        >>> from macros.iso_weekday import iso_weekday
        >>> evaluator = MacroEvaluator(dialect="postgres")
        >>> evaluator.locals["__sqlmesh__vars__"] = {"engine": "postgres"}
        >>> print(iso_weekday(evaluator, exp.column("date_day")).sql("postgres"))
        CAST(EXTRACT(ISODOW FROM date_day) AS INT)
    """
    require_engine(evaluator, "iso_weekday", "postgres", "duckdb")
    return exp.cast(exp.Extract(this=exp.Var(this="ISODOW"), expression=day), "INT")
