"""`make export` and `make profile`: every value as it is, whole files or none, and clear words for mistakes."""

import csv
from collections.abc import Iterator
from contextlib import closing
from datetime import UTC, date, datetime
from decimal import Decimal
from pathlib import Path

import duckdb
import pytest

from scripts import export as module
from scripts.errors import Exit, WarehouseError
from scripts.export import Format, export, profile
from tests.python.conftest import Home

AWKWARD = [
    ("a", "", Decimal("0.1000"), date(2026, 3, 1), datetime(2026, 3, 1, 23, 30, tzinfo=UTC), True, 1, 0.1, "{1,NULL}"),
    ("b", None, None, None, None, None, None, None, None),
    (
        'c,"\n\\N',
        "NULL",
        Decimal("99999999999999.9999"),
        date(1900, 1, 1),
        datetime(2026, 3, 29, 1, 0, 0, 1, UTC),
        False,
        -(2**63),
        1e300,
        "{}",
    ),
]
NAMES = ["key", "note", "amount", "sold_date", "sold_at", "is_sold", "units", "weight", "parts"]
TYPES = ["TEXT", "TEXT", "DECIMAL(18,4)", "DATE", "TIMESTAMPTZ", "BOOLEAN", "BIGINT", "FLOAT8", "INT[]"]


@pytest.fixture
def mart(server: Home) -> Iterator[None]:
    """marts.awkward, with values that break exports; marts.broken, which fails at its 500,000th row."""
    columns = ", ".join(f"{name}::{type_} AS {name}" for name, type_ in zip(NAMES, TYPES, strict=True))
    rows = ", ".join(["(" + ", ".join(["%s"] * len(NAMES)) + ")"] * len(AWKWARD))
    with closing(server.connect("sqlmesh_user")) as owner, owner.cursor() as cursor:
        cursor.execute(
            f"CREATE TABLE marts.awkward AS SELECT {columns} FROM (VALUES {rows}) AS given ({', '.join(NAMES)})",
            [value for row in AWKWARD for value in row],
        )
        cursor.execute("CREATE VIEW marts.broken AS SELECT 1 / (500000 - n) AS n FROM GENERATE_SERIES(1, 600000) AS n")
        yield
        cursor.execute("DROP TABLE marts.awkward")
        cursor.execute("DROP VIEW marts.broken")


@pytest.mark.usefixtures("mart")
def test_parquet_holds_the_same_values_and_types(tmp_path: Path) -> None:
    said = export("awkward", "parquet", tmp_path / "it's.parquet")
    assert said == f"wrote {tmp_path}/it's.parquet: 3 rows of marts.awkward"
    with duckdb.connect() as engine:
        engine.execute("SET TimeZone = 'Asia/Tokyo'")
        found = engine.execute("FROM read_parquet($1) ORDER BY key", [str(tmp_path / "it's.parquet")]).fetchall()
        described = engine.execute("DESCRIBE FROM read_parquet($1)", [str(tmp_path / "it's.parquet")]).fetchall()
    assert found == AWKWARD
    assert [row[1] for row in described] == [
        "VARCHAR", "VARCHAR", "DECIMAL(18,4)", "DATE", "TIMESTAMP WITH TIME ZONE", "BOOLEAN", "BIGINT", "DOUBLE", "VARCHAR",
    ]  # fmt: skip


@pytest.mark.usefixtures("mart")
def test_csv_tells_an_empty_text_from_nothing(tmp_path: Path) -> None:
    export("marts.awkward", "csv", tmp_path / "a.csv")
    text = (tmp_path / "a.csv").read_text()
    header, *rows = csv.reader(text.splitlines(keepends=True))
    assert header == NAMES
    assert sorted(row[0] for row in rows) == [row[0] for row in AWKWARD]
    assert 'a,"",0.1000,2026-03-01,2026-03-01 23:30:00+00,t,1,0.1,"{1,NULL}"' in text
    assert "b,,,,,,,,\n" in text
    assert 'c,""' in text


@pytest.mark.usefixtures("mart")
def test_without_a_name_the_file_is_called_like_the_table(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    export("awkward", "csv")
    assert [path.name for path in tmp_path.iterdir()] == ["awkward.csv"]


def test_the_longest_text_and_what_no_column_holds(server: Home, tmp_path: Path) -> None:
    with closing(server.connect("sqlmesh_user")) as owner, owner.cursor() as cursor:
        cursor.execute(
            "CREATE VIEW marts.long AS SELECT REPEAT('ä\"', 500000) AS text, 'NaN'::NUMERIC(18, 4) AS amount"
        )
        try:
            with pytest.raises(WarehouseError, match="marts.long holds what a column of its type cannot"):
                export("long", "parquet", tmp_path / "a")
            assert not list(tmp_path.iterdir())
            cursor.execute(
                "CREATE OR REPLACE VIEW marts.long AS SELECT REPEAT('ä\"', 500000) AS text, 1::NUMERIC(18, 4) AS amount"
            )
            export("long", "parquet", tmp_path / "a")
        finally:
            cursor.execute("DROP VIEW marts.long")
    assert duckdb.sql(f"SELECT text = repeat('ä\"', 500000), amount FROM read_parquet('{tmp_path}/a')").fetchone() == (
        True,
        Decimal(1),
    )


@pytest.mark.usefixtures("mart")
@pytest.mark.parametrize("form", ["csv", "parquet"])
def test_a_query_that_fails_leaves_the_old_file(tmp_path: Path, form: Format) -> None:
    (tmp_path / "a").write_text("old")
    with pytest.raises(WarehouseError, match="division by zero") as refusal:
        export("broken", form, tmp_path / "a")
    assert refusal.value.code == Exit.TRANSIENT
    assert [path.read_text() for path in tmp_path.iterdir()] == ["old"]


@pytest.mark.usefixtures("mart")
@pytest.mark.parametrize("form", ["csv", "parquet"])
def test_a_file_that_cannot_be_written(tmp_path: Path, form: Format) -> None:
    with pytest.raises(WarehouseError, match="nowhere/a cannot be written") as refusal:
        export("awkward", form, tmp_path / "nowhere" / "a")
    assert refusal.value.code == Exit.INPUT_REFUSED


@pytest.mark.usefixtures("mart")
def test_an_unknown_table_names_the_nearest_one_may_read(tmp_path: Path) -> None:
    with pytest.raises(WarehouseError, match="no table marts.awkwrd in marts or ml\n  did you mean marts.awkward?"):
        export("marts.awkwrd", "csv", tmp_path / "a")
    with pytest.raises(WarehouseError, match="there are: marts.awkward, marts.broken"):
        profile("zzzzzz")
    with pytest.raises(WarehouseError, match="no table landing.orders"):
        export("landing.orders", "csv", tmp_path / "a")
    assert not list(tmp_path.iterdir())


def test_nothing_is_run_that_stands_in_the_name(server: Home, tmp_path: Path) -> None:
    with pytest.raises(WarehouseError, match="there is no table"):
        export("awkward; SELECT 1", "csv", tmp_path / "a")


def cells(printed: str) -> dict[str, list[str]]:
    """First cell of a row -> the others, in lower case."""
    rows = [[cell.strip() for cell in line.strip("│┃ ").replace("┃", "│").split("│")] for line in printed.splitlines()]
    return {row[0]: row[1:] for row in rows if len(row) == 8}


@pytest.mark.usefixtures("mart")
def test_a_profile_counts_nulls_and_values(capsys: pytest.CaptureFixture[str]) -> None:
    profile("awkward")
    printed = capsys.readouterr().out
    assert "marts.awkward: 3 rows" in printed and "≈" not in printed
    found = cells(printed)
    assert found["note"] == ["1", "2", "", "", "", "", "NULL"]
    assert found["amount"][:5] == ["1", "2", "0.1", "0.1", "0.1"]
    assert found["sold_date"] == ["1", "2", "1900-01-01", "1900-01-01", "1900-01-01", "2026-03-01", "2026-03-01"]
    assert found["sold_at"][2:] == ["2026-03-01 23:30"] * 3 + ["2026-03-29 01:00"] * 2
    assert found["is_sold"] == ["1", "2", "false", "", "", "", "true"]


@pytest.mark.usefixtures("mart")
def test_a_profile_says_what_is_approximate(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "EXACT_ROWS", 2)
    profile("awkward")
    printed = capsys.readouterr().out
    assert "≈ distinct" in printed and "≈ median" in printed and "more than 2 rows" in printed
    assert cells(printed)["key"][:3] == ["0", "3", "a"]


@pytest.mark.usefixtures("mart")
def test_a_profile_of_a_table_that_fails(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(WarehouseError, match="division by zero"):
        profile("broken")
    assert capsys.readouterr().out == ""
