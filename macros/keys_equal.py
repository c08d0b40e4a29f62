from sqlglot import exp
from sqlmesh import macro
from sqlmesh.core.macros import MacroEvaluator


@macro()
def keys_equal(evaluator: MacroEvaluator, left: exp.Column, right: exp.Column, key: exp.Expr) -> exp.Expr:
    """That two aliases agree in every column of a key of one column or several.

    Example:
        >>> from macros.keys_equal import keys_equal
        >>> print(keys_equal(None, exp.column("a"), exp.column("b"), exp.maybe_parse("(order_id, line_number)")).sql())
        a.order_id = b.order_id AND a.line_number = b.line_number
    """
    return exp.and_(
        *(
            exp.column(column.name, table=left.name).eq(exp.column(column.name, table=right.name))
            for column in key.find_all(exp.Column)
        )
    )
