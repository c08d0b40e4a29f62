from sqlglot import exp
from sqlmesh import macro
from sqlmesh.core.macros import MacroEvaluator

from macros.touched import TOUCHED, is_filtered


@macro()
def named_keys(evaluator: MacroEvaluator, source: exp.Expr, key: exp.Column) -> exp.Expr:
    """The keys that a table names, each once, as a query: of the touched keys only, where `@touched` would filter.

    There each key costs one look into the index, however many rows name it.

    Example:
        >>> from macros.named_keys import named_keys
        >>> evaluator = MacroEvaluator(dialect="postgres")
        >>> keys = named_keys(evaluator, exp.column("refunds", table="staging"), exp.column("product_id"))
        >>> print(keys.sql("postgres"))
        SELECT product_id FROM touched
          WHERE EXISTS(SELECT 1 FROM staging.refunds AS source WHERE source.product_id = touched.product_id)
    """
    table = exp.to_table(source.sql(dialect=evaluator.dialect), dialect=evaluator.dialect)
    if not is_filtered(evaluator):
        return exp.select(key.name).distinct().from_(table).where(exp.not_(exp.column(key.name).is_(exp.null())))
    names = exp.column(key.name, table="source").eq(exp.column(key.name, table=TOUCHED))
    rows = exp.select("1").from_(exp.alias_(table, "source", table=True)).where(names)
    return exp.select(key.name).from_(TOUCHED).where(exp.Exists(this=rows))
