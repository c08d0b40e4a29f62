from typing import Any

from sqlglot import exp
from sqlmesh import macro
from sqlmesh.core.macros import MacroEvaluator

from macros.loaded import recorded_intervals

STORED_STAGES = ("creating", "evaluating")

TOUCHED = "touched"
"""The first CTE of an incremental model; in the transaction that replaces its rows, a temporary table of that name."""

IS_EMPTY = "is_empty"  # of the evaluator's locals

FIRST_COLUMN = {
    "postgres": "SELECT attname FROM pg_attribute WHERE attrelid = TO_REGCLASS('pg_temp.{name}') AND attnum = 1",
    "duckdb": "SELECT column_name FROM duckdb_columns() WHERE database_name = 'temp' AND table_name = '{name}'",
}


@macro()
def touched(
    evaluator: MacroEvaluator, column: exp.Expr, key: exp.Expr | None = None, may_be_empty: exp.Expr | None = None
) -> exp.Expr:
    """Keep the rows whose key a load has touched: `column IN (SELECT key FROM touched)`; TRUE where the table is empty.

    The model's first CTE is named `touched` and lists those keys. `key` is their name there, where `column` has
    another; both may be several columns, `(product_id, month)`. Recomputing everything into an empty table is right and
    far cheaper than asking for each key, so the filter vanishes there; it also vanishes in unit tests, which test the
    CTE by itself. Where an empty table is nothing unusual, `may_be_empty := TRUE` lets it vanish in a new table alone,
    or every run would recompute everything.

    Example:
        >>> from macros.touched import touched
        >>> print(touched(MacroEvaluator(dialect="postgres"), exp.column("order_id", table="orders")).sql("postgres"))
        orders.order_id IN (SELECT touched.order_id FROM touched)
    """
    names = []
    for argument in (column, key or column):
        columns = argument.expressions if isinstance(argument, exp.Tuple) else [argument]
        if not all(isinstance(one, exp.Column) for one in columns):
            raise ValueError(f"@touched takes columns, not {argument.sql(dialect=evaluator.dialect)}")
        names = [one.name for one in columns]
    if not is_filtered(evaluator, may_be_empty == exp.true()):
        return exp.true()
    keys = exp.select(*(exp.column(name, table=TOUCHED) for name in names)).from_(TOUCHED)
    return exp.In(this=column, query=keys.subquery(copy=False))


def is_filtered(evaluator: MacroEvaluator, may_be_empty: bool = False) -> bool:
    """Whether the query at hand is of the touched keys only."""
    stage = evaluator.locals["runtime_stage"]
    if stage not in STORED_STAGES:
        return bool(stage != "testing")
    return bool(recorded_intervals(evaluator)) if may_be_empty else not _is_empty(evaluator)


def _is_empty(evaluator: MacroEvaluator) -> bool:
    """Asked once while a query is rendered: an answer that changed halfway would filter half of it."""
    if IS_EMPTY not in evaluator.locals:
        table = exp.to_table(evaluator.locals["this_model"], dialect=evaluator.dialect)
        adapter = evaluator.engine_adapter
        evaluator.locals[IS_EMPTY] = (
            not adapter.table_exists(table) or adapter.fetchone(exp.select("1").from_(table).limit(1)) is None
        )
    return bool(evaluator.locals[IS_EMPTY])


def replaced_key(adapter: Any) -> str | None:
    """Name of the key that this transaction has replaced rows by; None where it has not, or not only those."""
    return first_column(adapter, TOUCHED)


def first_column(adapter: Any, name: str) -> str | None:
    """Of a temporary table of this session; None where there is no such table."""
    found = adapter.fetchone(FIRST_COLUMN[adapter.dialect].format(name=name))
    return found and str(found[0])
