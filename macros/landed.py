from sqlglot import exp
from sqlmesh import macro
from sqlmesh.core.macros import MacroEvaluator
from sqlmesh.utils.date import to_datetime, to_timestamp

from macros.loaded import instant, recorded_intervals


@macro()
def landed(evaluator: MacroEvaluator) -> exp.Expr:
    """Rows that had landed by the end of this run: `_loaded_at <= ...`.

    What is loaded while a run is at work belongs to the next one; so all tables of a run show the same moment, and an
    order that moves meanwhile is not gone from its old day before it is there on the new one. A restatement of a past
    interval still sees what later runs have seen. Vanishes in unit tests, whose rows need no `_loaded_at`.

    Example:
        >>> from macros.landed import landed
        >>> evaluator = MacroEvaluator(dialect="postgres")
        >>> evaluator.locals.update(end_tstz="2026-03-01 10:59:59.999999+00:00")
        >>> print(landed(evaluator).sql("postgres"))
        _loaded_at <= CAST('2026-03-01 10:59:59.999999+00:00' AS TIMESTAMPTZ)
    """
    if evaluator.locals["runtime_stage"] == "testing":
        return exp.true()
    end = evaluator.locals["end_tstz"]
    for _, high in recorded_intervals(evaluator):
        if high > to_timestamp(end):
            end = to_datetime(high).isoformat(sep=" ")
    return exp.LTE(this=exp.column("_loaded_at"), expression=instant(end))
