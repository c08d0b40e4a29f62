from sqlglot import exp
from sqlmesh import macro
from sqlmesh.core.macros import MacroEvaluator
from sqlmesh.utils.date import to_datetime, to_timestamp


@macro()
def loaded(evaluator: MacroEvaluator) -> exp.Expr:
    """Rows that were loaded in the interval and that this table has not seen: `_loaded_at BETWEEN ... AND ...`.

    SQLMesh hands out whole hours, so that a second run within an hour would do the first one's work again. What it has
    recorded as done ends at the moment of the last run; the lower bound starts there
    (docs/decisions/0001-replace-what-was-touched.md).

    Example:
        >>> from macros.loaded import loaded
        >>> evaluator = MacroEvaluator(dialect="postgres")
        >>> evaluator.locals.update(start_tstz="2026-03-01 10:00:00+00:00", end_tstz="2026-03-01 10:59:59.999999+00:00")
        >>> print(loaded(evaluator).sql("postgres"))
        _loaded_at BETWEEN CAST('2026-03-01 10:00:00+00:00' AS TIMESTAMPTZ)
          AND CAST('2026-03-01 10:59:59.999999+00:00' AS TIMESTAMPTZ)
    """
    start, end = evaluator.locals["start_tstz"], evaluator.locals["end_tstz"]
    for low, high in recorded_intervals(evaluator):
        if low <= to_timestamp(start) < high < to_timestamp(end):
            start = to_datetime(high).isoformat(sep=" ")
    return exp.column("_loaded_at").between(instant(start), instant(end))


def recorded_intervals(evaluator: MacroEvaluator) -> list[tuple[int, int]]:
    """What SQLMesh has recorded as done for the table at hand: (start, end) in ms since 1970, end exclusive."""
    snapshot = evaluator.locals.get("snapshot")
    if snapshot is None:
        return []
    table = exp.to_table(evaluator.locals["this_model"], dialect="postgres")
    is_preview = table.name == exp.to_table(snapshot.table_name(is_deployable=False)).name
    return list(snapshot.dev_intervals if is_preview else snapshot.intervals)


def instant(text: str) -> exp.Expr:
    """A point in time as a literal."""
    return exp.cast(exp.Literal.string(text), "TIMESTAMPTZ")
