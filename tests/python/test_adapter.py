"""The adapter: what SQLMesh's private methods must still do, and what of a DataFrame and of views must survive."""

import uuid
from collections.abc import Iterator
from datetime import UTC, date, datetime, timedelta
from decimal import Decimal
from typing import Any

import duckdb
import numpy as np
import pandas as pd
import pytest
from hypothesis import HealthCheck, given
from hypothesis import settings as hypothesis_settings
from hypothesis import strategies as st
from psycopg2 import errors
from sqlglot import exp

from scripts.adapter import FEW_ROWS, WarehouseAdapter, WarehouseConnection
from scripts.settings import settings
from tests.python.conftest import Home

Types = dict[str, exp.DataType]


@pytest.fixture(scope="module")
def adapter(server: Home) -> Iterator[WarehouseAdapter]:
    """An adapter on a schema of its own."""
    host, port = settings().address
    connection = WarehouseConnection(
        host=host, port=port, user="sqlmesh_user", password="", database="warehouse", sslmode="require"
    )
    made = connection.create_engine_adapter()
    assert isinstance(made, WarehouseAdapter)
    made.execute("CREATE SCHEMA adapter_test")
    yield made
    made.execute("DROP SCHEMA adapter_test CASCADE")
    made.close()


@pytest.fixture(autouse=True, params=[0, FEW_ROWS], ids=["copied", "inserted"])
def few_rows(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """What is true of rows that are copied is true of a few that are inserted."""
    monkeypatch.setattr("scripts.adapter.FEW_ROWS", request.param)


def stored(adapter: WarehouseAdapter, frame: pd.DataFrame, types: dict[str, str]) -> list[tuple[Any, ...]]:
    """What is in a table after SQLMesh has written `frame` into it, in the order of the rows."""
    columns: Types = {name: exp.DataType.build(kind, dialect="postgres") for name, kind in types.items()}
    adapter.drop_table("adapter_test.frame")
    adapter.create_table("adapter_test.frame", {"n": exp.DataType.build("int")} | columns)
    numbered = frame.assign(n=range(len(frame)))
    adapter.insert_append("adapter_test.frame", numbered, {"n": exp.DataType.build("int")} | columns)
    names = ", ".join(types)
    return adapter.fetchall(f"SELECT {names} FROM adapter_test.frame ORDER BY n")


AT = datetime(2026, 3, 8, 6, 59, 59, 123456, tzinfo=UTC)


@pytest.mark.parametrize(
    ("kind", "series", "expected"),
    [
        ("text", pd.Series(["", None, "NULL", "\\N", "\\.", "a\tb\nc\rd\\e", "'\"{}", " padded ", "é😀"]), None),
        ("text", pd.Series(["x", pd.NA], dtype="string"), ["x", None]),
        ("text", pd.Series(["x", None], dtype="category"), ["x", None]),
        ("integer", pd.Series([1.0, np.nan, 3.0]), [1, None, 3]),
        ("bigint", pd.Series([2**62, None], dtype="Int64"), [2**62, None]),
        ("boolean", pd.Series([True, False]), [True, False]),
        ("boolean", pd.Series([True, None], dtype="boolean"), [True, None]),
        ("double precision", pd.Series([0.1, np.nan, np.inf]), [0.1, None, float("inf")]),
        ("decimal(18, 4)", pd.Series([Decimal("12345678901234.5678"), None]), [Decimal("12345678901234.5678"), None]),
        ("date", pd.Series([date(2026, 2, 28), None]), [date(2026, 2, 28), None]),
        ("timestamptz", pd.Series([pd.Timestamp(AT), pd.NaT]), [AT, None]),
        ("timestamptz", pd.Series([pd.Timestamp(AT).tz_convert("Europe/Berlin")]), [AT]),
        ("interval", pd.Series([pd.Timedelta(hours=25)]), [timedelta(hours=25)]),
        ("uuid", pd.Series([uuid.UUID(int=7)]), [str(uuid.UUID(int=7))]),
        ("bytea", pd.Series([b"\x00\\x\xff", None]), [b"\x00\\x\xff", None]),
        ("text[]", pd.Series([["a,b", 'q"\\', None, ""], [], None]), [["a,b", 'q"\\', None, ""], [], None]),
        ("integer[]", pd.Series([np.array([1, 2]), (3,)]), [[1, 2], [3]]),
        ("text", pd.Series(["x", None, ""], dtype="string"), ["x", None, ""]),
        ("text", pd.Series([1, 2.5, None, pd.NaT, b"\x01", True, "x"]), ["1", "2.5", None, None, "\\x01", "True", "x"]),
        ("text", pd.Series([1.0, np.nan]), ["1.0", None]),
        ("text", pd.Series([2**62, None], dtype=object), [str(2**62), None]),
        ("bigint", pd.Series([2.0**62, -1.0, None]), [2**62, -1, None]),
        ("bigint", pd.Series([Decimal("1.0"), 7, "8", None]), [1, 7, 8, None]),
        ("smallint", pd.Series([1, 2], dtype="int8"), [1, 2]),
        ("boolean", pd.Series([True, None], dtype=object), [True, None]),
        ("decimal(18, 4)", pd.Series([0.1, 1e13, np.nan]), [Decimal("0.1"), Decimal(10**13), None]),
        (
            "decimal(18, 4)",
            pd.Series([Decimal("1E+3"), Decimal("NaN"), 7, None]),
            [Decimal(1000), None, Decimal(7), None],
        ),
        ("date", pd.Series([date(1, 1, 1), date(9999, 12, 31), pd.NaT]), [date(1, 1, 1), date(9999, 12, 31), None]),
        ("date", pd.Series([date(2026, 2, 28), "2026-02-28"]), [date(2026, 2, 28)] * 2),
        ("date", pd.Series([pd.Timestamp("2026-02-28")]), [date(2026, 2, 28)]),
        (
            "timestamp",
            pd.Series([pd.Timestamp(AT).tz_convert("Europe/Berlin")]),
            [AT.replace(hour=7, tzinfo=None)],
        ),
        ("timestamptz", pd.Series([AT, pd.NaT], dtype=object), [AT, None]),
        ("timestamptz", pd.Series([pd.Timestamp(AT).as_unit("us")]), [AT]),
        ("interval", pd.Series([timedelta(hours=-1), None]), [timedelta(hours=-1), None]),
        ("jsonb", pd.Series([{"a": [1, None, "x\n'"]}, '{"b": 1}', None]), [{"a": [1, None, "x\n'"]}, {"b": 1}, None]),
    ],
)
def test_values_survive_the_way_into_a_table(
    adapter: WarehouseAdapter, kind: str, series: "pd.Series[Any]", expected: list[Any] | None
) -> None:
    rows = stored(adapter, pd.DataFrame({"v": series}), {"v": kind})
    values = [bytes(row[0]) if isinstance(row[0], memoryview) else row[0] for row in rows]
    assert values == (list(series) if expected is None else expected)


@given(values=st.lists(st.none() | st.text(st.characters(exclude_characters="\x00", exclude_categories=["Cs"]))))
@hypothesis_settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_any_text_survives(adapter: WarehouseAdapter, values: list[str | None]) -> None:
    frame = pd.DataFrame({"v": pd.Series(values, dtype=object)})
    assert [row[0] for row in stored(adapter, frame, {"v": "text"})] == values


def test_a_single_column_keeps_its_empty_rows_and_its_name(adapter: WarehouseAdapter) -> None:
    columns: Types = {"100 %s": exp.DataType.build("text")}
    adapter.drop_table("adapter_test.single")
    adapter.create_table("adapter_test.single", columns)
    adapter.insert_append("adapter_test.single", pd.DataFrame({"100 %s": ["\\.", "", None, "x"]}), columns)
    rows = adapter.fetchall('SELECT "100 %s" FROM adapter_test.single ORDER BY 1')
    assert rows == [("",), ("\\.",), ("x",), (None,)]


@pytest.mark.parametrize("declared", ["text", "bigint"])
def test_a_table_of_other_types_gets_the_same_rows(adapter: WarehouseAdapter, declared: str) -> None:
    """One whose types differ from those of the frame is filled by way of a temporary table, in which they are cast."""
    there: Types = {"v": exp.DataType.build(declared), "w": exp.DataType.build("text")}
    adapter.drop_table("adapter_test.other")
    adapter.create_table("adapter_test.other", there)
    for _ in range(2):
        adapter.replace_query(
            "adapter_test.other", pd.DataFrame({"v": [7.0]}), {"v": exp.DataType.build("bigint"), "w": there["w"]},
            source_columns=["v"],
        )  # fmt: skip
    assert adapter.fetchall("SELECT v::TEXT, w FROM adapter_test.other") == [("7", None)]


def test_what_cannot_be_encoded_leaves_the_table_as_it_was(adapter: WarehouseAdapter) -> None:
    columns: Types = {"v": exp.DataType.build("jsonb", dialect="postgres")}
    adapter.drop_table("adapter_test.kept")
    adapter.create_table("adapter_test.kept", columns)
    adapter.insert_append("adapter_test.kept", pd.DataFrame({"v": ["1"]}), columns)
    circle: list[Any] = []
    circle.append(circle)
    with pytest.raises(ValueError, match="Circular"):
        adapter.replace_query("adapter_test.kept", pd.DataFrame({"v": ["2", circle]}), columns)
    with pytest.raises((duckdb.Error, UnicodeEncodeError), match="invalid UTF-8|surrogates not allowed"):
        adapter.replace_query("adapter_test.kept", pd.DataFrame({"v": ['"\ud800"']}), columns)
    assert adapter.fetchall("SELECT v FROM adapter_test.kept") == [(1,)]


def test_a_fraction_is_no_integer(adapter: WarehouseAdapter) -> None:
    with pytest.raises(errors.InvalidTextRepresentation):
        stored(adapter, pd.DataFrame({"v": [1.5]}), {"v": "integer"})


def test_rows_beyond_one_chunk_arrive(adapter: WarehouseAdapter, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("scripts.adapter.CHUNK_ROWS", 1_000)
    rows = stored(adapter, pd.DataFrame({"v": range(2_500)}), {"v": "integer"})
    assert [row[0] for row in rows] == list(range(2_500))


def test_an_empty_frame_empties_the_table(adapter: WarehouseAdapter) -> None:
    columns = {"v": exp.DataType.build("int")}
    adapter.drop_table("adapter_test.emptied")
    adapter.create_table("adapter_test.emptied", columns)
    adapter.insert_append("adapter_test.emptied", pd.DataFrame({"v": [7]}), columns)
    adapter.replace_query("adapter_test.emptied", pd.DataFrame({"v": []}), columns)
    assert adapter.fetchall("SELECT v FROM adapter_test.emptied") == []


@pytest.fixture
def analysts_view(adapter: WarehouseAdapter) -> Iterator[str]:
    """A mart view as SQLMesh makes it, and an analyst's view on it with a grant."""
    adapter.create_view("adapter_test.mart", exp.select("1 AS a", "2 AS b"))
    adapter.execute("CREATE VIEW adapter_test.own AS SELECT a FROM adapter_test.mart")
    adapter.execute("GRANT SELECT ON adapter_test.mart TO analyst")
    yield "adapter_test.own"
    adapter.execute("DROP VIEW IF EXISTS adapter_test.mart CASCADE")


def test_promotion_keeps_analysts_views_and_grants(adapter: WarehouseAdapter, analysts_view: str) -> None:
    adapter.create_view("adapter_test.mart", exp.select("7 AS a", "8 AS b", "9 AS c"))
    assert adapter.fetchall(f"SELECT a FROM {analysts_view}") == [(7,)]
    assert adapter.fetchone("SELECT HAS_TABLE_PRIVILEGE('analyst', 'adapter_test.mart', 'SELECT')") == (True,)


def test_a_view_whose_columns_change_is_replaced_with_a_warning_that_names_the_victims(
    adapter: WarehouseAdapter, analysts_view: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    warnings: list[str] = []

    class Console:
        def log_warning(self, text: str) -> None:
            warnings.append(text)

    monkeypatch.setattr("scripts.guard.get_console", Console)
    adapter.execute("CREATE VIEW adapter_test.indirect AS SELECT a FROM adapter_test.own")
    adapter.create_view("adapter_test.mart", exp.select("7 AS b"))
    assert adapter.fetchall("SELECT b FROM adapter_test.mart") == [(7,)]
    assert adapter.fetchone("SELECT TO_REGCLASS('adapter_test.own')") == (None,)
    (warning,) = warnings
    assert "view adapter_test.indirect" in warning and "view adapter_test.own" in warning
