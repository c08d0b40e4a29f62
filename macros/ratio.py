from sqlglot import exp
from sqlmesh import macro
from sqlmesh.core.macros import MacroEvaluator

from macros.engine import require_engine

INPUT = "DECIMAL(28, 6)"


@macro()
def ratio(evaluator: MacroEvaluator, numerator: exp.Expr, denominator: exp.Expr, scale: int = 4) -> exp.Expr:
    """numerator / denominator as DECIMAL(18, scale), halves away from zero; NULL where the denominator is 0 or NULL.

    Both sides may have up to 6 decimals. Exact on every engine: PostgreSQL divides decimals as decimals, DuckDB would
    divide floats, and 0.00005 is no float.

    Example:
        >>> from macros.ratio import ratio
        >>> evaluator = MacroEvaluator(dialect="postgres")
        >>> evaluator.locals["__sqlmesh__vars__"] = {"engine": "postgres"}
        >>> print(ratio(evaluator, exp.column("net_sales"), exp.column("orders")).sql("postgres"))
        CAST(CAST(net_sales AS DECIMAL(28, 6)) / NULLIF(orders, 0) AS DECIMAL(18, 4))
    """
    engine = require_engine(evaluator, "ratio", "postgres", "duckdb")
    target = f"DECIMAL(18, {scale})"
    nullable = exp.func("NULLIF", denominator.copy(), exp.Literal.number(0))
    if engine == "postgres":
        # a quotient has at least as many decimals as its numerator; with too few it would be rounded twice
        exact = INPUT if scale <= 4 else f"DECIMAL(38, {scale + 6})"
        return exp.cast(exp.Div(this=exp.cast(numerator.copy(), exact), expression=nullable), target)
    return whole_ratio(_millionths(numerator.copy()), _millionths(nullable), scale)


def _millionths(value: exp.Expr) -> exp.Expr:
    return exp.cast(exp.Mul(this=exp.cast(value, INPUT), expression=exp.Literal.number(1_000_000)), "HUGEINT")


def whole_ratio(numerator: exp.Expr, denominator: exp.Expr, scale: int) -> exp.Expr:
    """DuckDB: one whole number by another as DECIMAL(18, scale), halves away from zero, without a float on the way."""
    size = exp.func("ABS", exp.paren(numerator.copy()))
    divisor = exp.func("ABS", exp.paren(denominator.copy()))
    doubled = exp.Mul(this=size, expression=exp.Literal.number(2 * 10**scale))
    rounded = exp.Anonymous(
        this="DIVIDE",
        expressions=[
            exp.Add(this=doubled, expression=divisor.copy()),
            exp.Mul(this=divisor, expression=exp.Literal.number(2)),
        ],
    )
    sign = exp.Mul(this=exp.func("SIGN", numerator.copy()), expression=exp.func("SIGN", denominator.copy()))
    unit = exp.cast(exp.Literal.number(f"{10**-scale:.{scale}f}"), f"DECIMAL({scale + 1}, {scale})")
    whole = exp.cast(exp.Mul(this=exp.paren(sign), expression=rounded), "DECIMAL(18, 0)")
    return exp.cast(exp.Mul(this=whole, expression=unit), f"DECIMAL(18, {scale})")
