from sqlglot import exp
from sqlmesh import macro
from sqlmesh.core.macros import MacroEvaluator

from macros.touched import TOUCHED, replaced_key


@macro()
def replaced(evaluator: MacroEvaluator, rows: exp.Column, column: exp.Expr | None = None) -> exp.Expr:
    """For audits: keep the rows, of this model or of another, that hang on a key which this transaction has replaced.

    `rows` is their alias, `column` what they call the key (NULL: the same); a day hangs on its month. TRUE outside such
    a transaction, so that a first build, and `make audit`, look at everything.

    Example:
        >>> from macros.replaced import replaced
        >>> class Adapter:
        ...     dialect = "postgres"
        ...     def fetchone(self, query):
        ...         return ("month",)
        >>> evaluator = MacroEvaluator(dialect="postgres")
        >>> evaluator.locals.update(runtime_stage="auditing", engine_adapter=Adapter())
        >>> print(replaced(evaluator, exp.column("this")).sql("postgres"))
        this.month IN (SELECT month FROM touched)
        >>> print(replaced(evaluator, exp.column("facts"), exp.column("order_date")).sql("postgres"))
        facts.order_date IN (SELECT date_day FROM marts.dim_dates WHERE month IN (SELECT month FROM touched))
    """
    if evaluator.locals["runtime_stage"] != "auditing" or not (key := replaced_key(evaluator.engine_adapter)):
        return exp.true()
    keys = exp.select(key).from_(TOUCHED)
    name = column.name if isinstance(column, exp.Column) else key
    if key == "month" and name != "month":
        keys = exp.select("date_day").from_("marts.dim_dates").where(exp.column("month").isin(query=keys))
    return exp.column(name, table=rows.name).isin(query=keys)
