from sqlglot import exp
from sqlmesh import macro
from sqlmesh.core.macros import MacroEvaluator


@macro()
def turned_months(evaluator: MacroEvaluator, model: exp.Expr, *index: exp.Column) -> exp.Expr:
    """Months of `model` that have become complete in marts.dim_dates, or have ceased to be, as a query.

    The rows of a month agree on whether it is over, so the first of them tells: in the order of `index`, the columns
    that follow month in an index of the model.

    Example:
        >>> from macros.turned_months import turned_months
        >>> evaluator = MacroEvaluator(dialect="postgres")
        >>> support = exp.column("customer_support", table="marts")
        >>> print(turned_months(evaluator, support, exp.column("customer_id")).sql("postgres"))
        SELECT spine.month FROM (SELECT DISTINCT month, is_month_complete FROM marts.dim_dates) AS spine
          WHERE spine.is_month_complete <> (SELECT one.is_complete FROM marts.customer_support AS one
          WHERE one.month = spine.month ORDER BY one.customer_id LIMIT 1)
    """
    table = exp.to_table(model.sql(dialect=evaluator.dialect), dialect=evaluator.dialect)
    spine = exp.select("month", "is_month_complete").distinct().from_("marts.dim_dates").subquery("spine")
    tells = (
        exp.select(exp.column("is_complete", table="one"))
        .from_(exp.alias_(table, "one", table=True))
        .where(exp.column("month", table="one").eq(exp.column("month", table="spine")))
        .order_by(*(exp.column(column.name, table="one") for column in index))
        .limit(1)
        .subquery()
    )
    turned = exp.column("is_month_complete", table="spine").neq(tells)
    return exp.select(exp.column("month", table="spine")).from_(spine).where(turned)
