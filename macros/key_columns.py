from sqlglot import exp
from sqlmesh import macro
from sqlmesh.core.macros import MacroEvaluator


@macro()
def key_columns(evaluator: MacroEvaluator, alias: exp.Column, key: exp.Expr) -> list[exp.Expr]:
    """The columns of a key of one column or several, of one alias, for a SELECT list or a PARTITION BY.

    Example:
        >>> from macros.key_columns import key_columns
        >>> [e.sql() for e in key_columns(None, exp.column("a"), exp.maybe_parse("(order_id, line_number)"))]
        ['a.order_id', 'a.line_number']
    """
    return [exp.column(column.name, table=alias.name) for column in key.find_all(exp.Column)]
