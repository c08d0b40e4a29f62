from sqlglot import exp
from sqlmesh import macro
from sqlmesh.core.macros import MacroEvaluator

from macros.engine import require_engine


@macro()
def fingerprint(evaluator: MacroEvaluator, alias: exp.Column, key: exp.Expr) -> exp.Expr:
    """A number of the keys of a table, each there once; another set of keys has it by chance once in 2^64.

    It is the exclusive or of a hash of each key, in whatever order: it costs one pass, and no memory. NULL of no keys.

    Example:
        >>> from macros.fingerprint import fingerprint
        >>> evaluator = MacroEvaluator(dialect="postgres")
        >>> evaluator.locals["__sqlmesh__vars__"] = {"engine": "postgres"}
        >>> print(fingerprint(evaluator, exp.column("a"), exp.maybe_parse("(order_id, line_number)")).sql("postgres"))
        BIT_XOR(HASHTEXTEXTENDED(CAST(a.line_number AS TEXT), HASHTEXTEXTENDED(CAST(a.order_id AS TEXT), 0)))
    """
    columns = [exp.column(column.name, table=alias.name) for column in key.find_all(exp.Column)]
    if require_engine(evaluator, "fingerprint", "postgres", "duckdb") == "duckdb":
        return exp.func("BIT_XOR", exp.func("HASH", *columns))
    hashed: exp.Expr = exp.Literal.number(0)
    for column in columns:
        hashed = exp.func("HASHTEXTEXTENDED", exp.cast(column, "TEXT"), hashed)
    return exp.func("BIT_XOR", hashed)
