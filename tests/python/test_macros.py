"""The macros: their documented examples, what they render, and how they refuse wrong arguments."""

import doctest
import importlib
from datetime import date
from typing import Any

import duckdb
import pytest
from sqlglot import exp, parse_one
from sqlmesh.core.macros import MacroEvaluator, RuntimeStage
from sqlmesh.utils.errors import SQLMeshError

from scripts.settings import ROOT

MACROS = sorted(path.stem for path in (ROOT / "macros").glob("*.py") if path.stem != "__init__")


@pytest.mark.parametrize("name", MACROS)
def test_documented_examples_hold(name: str) -> None:
    module = importlib.import_module(f"macros.{name}")
    results = doctest.testmod(module, optionflags=doctest.NORMALIZE_WHITESPACE)
    assert results.failed == 0


@pytest.mark.parametrize("name", [name for name in MACROS if name != "engine"])
def test_a_file_holds_the_macro_of_its_name_with_types_and_a_docstring(name: str) -> None:
    module = importlib.import_module(f"macros.{name}")
    function = getattr(module, name)
    assert function.__doc__
    assert function.__annotations__["return"]


def evaluator(stage: RuntimeStage = RuntimeStage.LOADING, engine: str = "postgres", **names: Any) -> MacroEvaluator:
    made = MacroEvaluator(dialect="postgres", runtime_stage=stage)
    made.locals["__sqlmesh__vars__"] = {"engine": engine, "reporting_timezone": "America/New_York"}
    made.locals.update(names)
    for name in MACROS:
        if name != "engine":
            made.macros[f"@{name.upper()}"] = getattr(importlib.import_module(f"macros.{name}"), name)
    return made


def render(sql: str, **names: Any) -> str:
    rendered = evaluator(**names).transform(parse_one(sql, dialect="postgres"))
    assert isinstance(rendered, exp.Expr)
    return rendered.sql("postgres")


def days(start: str, end: str, grain: str) -> list[date]:
    sql = render(f"SELECT * FROM (@date_spine({start}, {end}, '{grain}')) AS spine ORDER BY 1")
    return [row[0] for row in duckdb.sql(sql.replace("DATE_TRUNC", "date_trunc")).fetchall()]


def test_date_spine_has_every_day_once_over_a_leap_day() -> None:
    assert days("'2024-02-28'", "'2024-03-01'", "day") == [date(2024, 2, 28), date(2024, 2, 29), date(2024, 3, 1)]


def test_date_spine_of_a_whole_century_is_complete() -> None:
    assert len(days("'1970-01-01'", "'2069-12-31'", "day")) == 36_525


@pytest.mark.parametrize(
    ("grain", "expected"),
    [
        ("week", [date(2023, 12, 25), date(2024, 1, 1), date(2024, 1, 8)]),
        ("month", [date(2023, 12, 1), date(2024, 1, 1)]),
        ("quarter", [date(2023, 10, 1), date(2024, 1, 1)]),
    ],
)
def test_date_spine_gives_each_period_by_its_first_day(grain: str, expected: list[date]) -> None:
    assert days("'2023-12-31'", "'2024-01-09'", grain) == expected


@pytest.mark.parametrize(
    ("start", "end"), [("'2024-01-02'", "'2024-01-01'"), ("NULL", "'2024-01-01'"), ("NULL", "NULL")]
)
def test_date_spine_is_empty_without_days(start: str, end: str) -> None:
    assert days(start, end, "month") == []


def test_percentiles_interpolate_and_leave_out_nulls() -> None:
    sql = render("SELECT @percentile_agg(v, [0.25, 0.5, 0.999]) FROM (VALUES (1.0), (2.0), (NULL), (7.0)) AS t (v)")
    # positions 0.5, 1 and 1.998 of 1, 2, 7: 1 + 0.5, 2, 2 + 0.998 * 5
    row = duckdb.sql(sql.replace("DECIMAL(18, 4)", "DECIMAL(18,4)")).fetchall()[0]
    assert [float(value) for value in row] == [1.5, 2.0, 6.99]
    assert "AS p99_9" in sql


def test_percentiles_take_a_prefix() -> None:
    assert "AS reply_minutes_p90" in render("SELECT @percentile_agg(minutes, [0.9], reply_minutes) FROM t")


@pytest.mark.parametrize(
    ("sql", "message"),
    [
        ("SELECT @percentile_agg(v, 0.5) FROM t", "@percentile_agg: levels is a list"),
        ("SELECT @percentile_agg(v, [1.5]) FROM t", "@percentile_agg: 1.5 is not a number between 0 and 1"),
        ("SELECT @percentile_agg(v, [0.5, 0.5]) FROM t", "@percentile_agg: 0.5 is listed twice"),
        ("SELECT * FROM (@date_spine('2024-01-01', '2024-01-02', 'hour')) AS d", "@date_spine: 'hour' is none of"),
        ("SELECT 1 FROM t WHERE @touched(a + b)", "@touched takes columns, not a \\+ b"),
    ],
)
def test_wrong_arguments_are_refused_by_name(sql: str, message: str) -> None:
    with pytest.raises(SQLMeshError, match=message):
        render(sql)


def test_create_index_refuses_expressions() -> None:
    with pytest.raises(SQLMeshError, match="@create_index takes column names"):
        evaluator(stage=RuntimeStage.EVALUATING).transform(parse_one("@create_index(a + b)", dialect="postgres"))


@pytest.mark.parametrize(
    "sql", ["SELECT @local_date(at) FROM t", "SELECT @iso_weekday(d) FROM t", "SELECT @percentile_agg(v, [0.5]) FROM t"]
)
def test_an_unknown_engine_is_refused(sql: str) -> None:
    with pytest.raises(SQLMeshError, match="engine 'oracle' is not known"):
        render(sql, engine="oracle")


def test_local_date_needs_a_zone() -> None:
    made = evaluator()
    made.locals["__sqlmesh__vars__"] = {"engine": "postgres"}
    with pytest.raises(SQLMeshError, match="reporting_timezone is not set"):
        made.transform(parse_one("SELECT @local_date(at) FROM t", dialect="postgres"))


def test_touched_filters_by_the_key_of_the_cte() -> None:
    sql = render("SELECT 1 FROM t WHERE @touched(t.date_day, order_date)")
    assert sql == "SELECT 1 FROM t WHERE t.date_day IN (SELECT touched.order_date FROM touched)"


def test_touched_vanishes_in_unit_tests() -> None:
    assert render("SELECT 1 FROM t WHERE @touched(a)", stage=RuntimeStage.TESTING) == "SELECT 1 FROM t WHERE TRUE"


class Table:
    """As much of an engine adapter as @touched asks for."""

    def __init__(self, exists: bool, rows: int) -> None:
        self.exists, self.rows = exists, rows

    def table_exists(self, table: exp.Table) -> bool:
        return self.exists

    def fetchone(self, query: exp.Expr) -> tuple[int] | None:
        return (1,) if self.rows else None


@pytest.mark.parametrize(("exists", "rows", "filtered"), [(False, 0, False), (True, 0, False), (True, 1, True)])
def test_touched_vanishes_for_a_table_without_rows(exists: bool, rows: int, filtered: bool) -> None:
    sql = render(
        "SELECT 1 FROM t WHERE @touched(a)",
        stage=RuntimeStage.EVALUATING,
        engine_adapter=Table(exists, rows),
        this_model=exp.to_table("analytics.t__1"),
    )
    assert ("IN (SELECT touched.a FROM touched)" in sql) is filtered


class Snapshot:
    """As much of a snapshot as @loaded asks for."""

    def __init__(self, intervals: list[tuple[int, int]], dev_intervals: list[tuple[int, int]]) -> None:
        self.intervals, self.dev_intervals = intervals, dev_intervals

    def table_name(self, is_deployable: bool) -> str:
        return "analytics.t__1" if is_deployable else "analytics.t__1__dev"


@pytest.mark.parametrize("intervals", [[], [(0, 7)]])
def test_touched_stays_for_a_table_that_may_be_empty_once_it_has_been_built(intervals: list[tuple[int, int]]) -> None:
    sql = render(
        "SELECT 1 FROM t WHERE @touched(a, may_be_empty := TRUE)",
        stage=RuntimeStage.EVALUATING,
        engine_adapter=Table(exists=True, rows=0),
        this_model=exp.to_table("analytics.t__1"),
        snapshot=Snapshot(intervals, []),
    )
    assert ("IN (SELECT touched.a FROM touched)" in sql) is bool(intervals)


HOUR = 1_772_359_200_000  # 2026-03-01 10:00:00 UTC
HALF = HOUR + 1_800_500  # 10:30:00.5


@pytest.mark.parametrize(
    ("intervals", "table", "start"),
    [
        ([], "t__1", "2026-03-01 10:00:00+00:00"),
        ([(0, HALF)], "t__1", "2026-03-01 10:30:00.500000+00:00"),
        ([(0, HOUR - 1000)], "t__1", "2026-03-01 10:00:00+00:00"),  # a gap: all of the hour
        ([(0, HOUR + 3_600_000)], "t__1", "2026-03-01 10:00:00+00:00"),  # done once, asked for again: restated
        ([(0, HALF)], "t__1__dev", "2026-03-01 10:00:00+00:00"),  # a preview has a table and intervals of its own
    ],
)
def test_loaded_starts_where_the_last_run_ended(intervals: list[tuple[int, int]], table: str, start: str) -> None:
    sql = render(
        "SELECT 1 FROM t WHERE @loaded()",
        start_tstz="2026-03-01 10:00:00+00:00",
        end_tstz="2026-03-01 10:59:59.999999+00:00",
        snapshot=Snapshot(intervals, []),
        this_model=exp.to_table(f"analytics.{table}"),
    )
    assert f"CAST('{start}' AS TIMESTAMPTZ) AND CAST('2026-03-01 10:59:59.999999+00:00' AS TIMESTAMPTZ)" in sql


@pytest.mark.parametrize(
    ("intervals", "end"),
    [
        ([], "2026-03-01 10:59:59.999999+00:00"),
        ([(0, HALF)], "2026-03-01 10:59:59.999999+00:00"),
        (
            [(0, HOUR), (HOUR + 3_600_000, HOUR + 7_200_000)],
            "2026-03-01 12:00:00+00:00",
        ),  # a restatement of 10:00-11:00
    ],
)
def test_landed_ends_with_the_run_or_with_what_later_runs_saw(intervals: list[tuple[int, int]], end: str) -> None:
    sql = render(
        "SELECT 1 FROM t WHERE @landed()",
        end_tstz="2026-03-01 10:59:59.999999+00:00",
        snapshot=Snapshot(intervals, []),
        this_model=exp.to_table("analytics.t__1"),
    )
    assert sql == f"SELECT 1 FROM t WHERE _loaded_at <= CAST('{end}' AS TIMESTAMPTZ)"


def test_landed_vanishes_in_unit_tests() -> None:
    assert render("SELECT 1 FROM t WHERE @landed()", stage=RuntimeStage.TESTING) == "SELECT 1 FROM t WHERE TRUE"
