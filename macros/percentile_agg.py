from sqlglot import exp
from sqlmesh import macro
from sqlmesh.core.macros import MacroEvaluator

from macros.engine import require_engine


@macro()
def percentile_agg(
    evaluator: MacroEvaluator, column: exp.Expr, levels: exp.Expr, prefix: exp.Expr | None = None
) -> list[exp.Expr]:
    """One continuous percentile of `column` per level in [0, 1], as DECIMAL(18, 4): p50, p90, p99_9, or <prefix>_p50.

    Continuous: between two values it interpolates in proportion, as SQL's PERCENTILE_CONT. NULLs do not count; of no
    values it is NULL.

    Example:
        >>> from macros.percentile_agg import percentile_agg
        >>> evaluator = MacroEvaluator(dialect="postgres")
        >>> evaluator.locals["__sqlmesh__vars__"] = {"engine": "postgres"}
        >>> for e in percentile_agg(evaluator, exp.column("v"), exp.convert([0.5, 0.9]), exp.column("reply")):
        ...     print(e.sql("postgres"))
        CAST(CAST(PERCENTILE_CONT(0.5) WITHIN GROUP (ORDER BY CAST(v AS DOUBLE PRECISION)) AS DECIMAL(28, 8))
          AS DECIMAL(18, 4)) AS reply_p50
        CAST(CAST(PERCENTILE_CONT(0.9) WITHIN GROUP (ORDER BY CAST(v AS DOUBLE PRECISION)) AS DECIMAL(28, 8))
          AS DECIMAL(18, 4)) AS reply_p90
    """
    require_engine(evaluator, "percentile_agg", "postgres", "duckdb")
    if not isinstance(levels, exp.Array | exp.Tuple) or not levels.expressions:
        raise ValueError("@percentile_agg: levels is a list such as [0.5, 0.9]")
    aggregates: dict[str, exp.Expr] = {}
    for level in levels.expressions:
        if not (isinstance(level, exp.Literal) and level.is_number and 0 <= float(level.name) <= 1):
            raise ValueError(f"@percentile_agg: {level.sql()} is not a number between 0 and 1")
        name = f"p{float(level.name) * 100:.6g}".replace(".", "_")
        if prefix is not None:
            name = f"{prefix.name}_{name}"
        if name in aggregates:
            raise ValueError(f"@percentile_agg: {level.sql()} is listed twice")
        percentile = exp.WithinGroup(
            this=exp.PercentileCont(this=level.copy()),
            # said aloud, because DuckDB would interpolate a DECIMAL at its own scale
            expression=exp.Order(expressions=[exp.Ordered(this=exp.cast(column.copy(), "DOUBLE"))]),
        )
        # in two steps, because engines differ in how they round a float that lies halfway
        exact = exp.cast(percentile, "DECIMAL(28, 8)")
        aggregates[name] = exp.Cast(this=exact, to=exp.DataType.build("DECIMAL(18, 4)")).as_(name)
    return list(aggregates.values())
