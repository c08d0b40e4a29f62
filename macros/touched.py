from sqlglot import exp
from sqlmesh import macro
from sqlmesh.core.macros import MacroEvaluator

STORED_STAGES = ("creating", "evaluating")


@macro()
def touched(evaluator: MacroEvaluator, column: exp.Column, key: exp.Column | None = None) -> exp.Expr:
    """Keep the rows whose key a load has touched: `column IN (SELECT key FROM touched)`; TRUE where the table is empty.

    The model's first CTE is named `touched` and lists those keys. `key` is their name there, where `column` has
    another. Recomputing everything into an empty table is right and far cheaper than asking for each key, so the filter
    vanishes there; it also vanishes in unit tests, which test the CTE by itself.

    Example:
        >>> from macros.touched import touched
        >>> print(touched(MacroEvaluator(dialect="postgres"), exp.column("order_id", table="orders")).sql("postgres"))
        orders.order_id IN (SELECT touched.order_id FROM touched)
    """
    for argument in (column, key or column):
        if not isinstance(argument, exp.Column):
            raise ValueError(f"@touched takes columns, not {argument.sql(dialect=evaluator.dialect)}")
    stage = evaluator.locals["runtime_stage"]
    if stage == "testing" or (stage in STORED_STAGES and _is_empty(evaluator)):
        return exp.true()
    keys = exp.select(exp.column((key or column).name, table="touched")).from_("touched")
    return column.isin(query=keys)


def _is_empty(evaluator: MacroEvaluator) -> bool:
    table = exp.to_table(evaluator.locals["this_model"], dialect=evaluator.dialect)
    adapter = evaluator.engine_adapter
    return not adapter.table_exists(table) or adapter.fetchone(exp.select("1").from_(table).limit(1)) is None
