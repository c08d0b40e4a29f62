from sqlglot import exp, parse_one
from sqlmesh import macro
from sqlmesh.core.macros import MacroEvaluator

# SQLMesh has a macro of this name and refuses a second one: docs/decisions/0003-date-spine.md.
registry = macro.get_registry()
registry.pop("date_spine", None)
macro.set_registry(registry)

GRAINS = ("day", "week", "month", "quarter")

# Five digits make 100,000 days. Written without a generator function, which Spark spells differently.
DAYS = """
SELECT CAST(:start AS DATE) + (a.n + 10 * b.n + 100 * c.n + 1000 * d.n + 10000 * e.n) AS date_day
FROM (VALUES (0), (1), (2), (3), (4), (5), (6), (7), (8), (9)) AS a (n)
CROSS JOIN (VALUES (0), (1), (2), (3), (4), (5), (6), (7), (8), (9)) AS b (n)
CROSS JOIN (VALUES (0), (1), (2), (3), (4), (5), (6), (7), (8), (9)) AS c (n)
CROSS JOIN (VALUES (0), (1), (2), (3), (4), (5), (6), (7), (8), (9)) AS d (n)
CROSS JOIN (VALUES (0), (1), (2), (3), (4), (5), (6), (7), (8), (9)) AS e (n)
WHERE CAST(:start AS DATE) + (a.n + 10 * b.n + 100 * c.n + 1000 * d.n + 10000 * e.n) <= CAST(:end AS DATE)
"""
PERIODS = (
    "SELECT DISTINCT CAST(DATE_TRUNC(:grain, CAST(date_day AS TIMESTAMP)) AS DATE) AS {name} FROM ({days}) AS days"
)


@macro()
def date_spine(evaluator: MacroEvaluator, start: exp.Expr, end: exp.Expr, grain: exp.Expr) -> exp.Expr:
    """Every day, week, month or quarter that has a day in [start, end], once, by its first day.

    For `FROM (@date_spine(...)) AS days`. One DATE column: date_day, date_week (Mondays), date_month or date_quarter.
    No rows where start is after end or either is NULL. Why not SQLMesh's own: docs/decisions/0003-date-spine.md.

    Example:
        >>> from macros.date_spine import date_spine
        >>> arguments = (exp.Literal.string(text) for text in ("2017-01-31", "2017-03-01", "month"))
        >>> months = date_spine(MacroEvaluator(), *arguments)
        >>> import duckdb; print([str(row[0]) for row in duckdb.sql(f"{months.sql('duckdb')} ORDER BY 1").fetchall()])
        ['2017-01-01', '2017-02-01', '2017-03-01']
    """
    if grain.name not in GRAINS:
        raise ValueError(f"@date_spine: {grain.sql()} is none of {', '.join(GRAINS)}")
    days = DAYS
    if grain.name != "day":
        days = PERIODS.format(name=f"date_{grain.name}", days=DAYS)
    query = parse_one(days, dialect="postgres")
    return exp.replace_placeholders(query, start=start.copy(), end=end.copy(), grain=exp.Literal.string(grain.name))
