"""The loader: what loads, what is rejected and where, exactly once, whole or absent."""

import csv
import gzip
import io
import json
import os
import re
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import closing
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from itertools import count
from pathlib import Path
from typing import Any

import duckdb
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from scripts import load as loader
from scripts.contract import TABLES
from scripts.errors import Exit, WarehouseError
from scripts.load import FileResult, LoadResult, load
from scripts.records import Records, Refused
from scripts.settings import ROOT
from tests.python.conftest import Home

ORDERS = "order_id,customer_id,status,currency,shipping_amount,ordered_at,updated_at"
ORDER = "o1,c1,placed,EUR,4.90,2011-01-02T03:04:05Z,2011-01-02T03:04:05Z"
ITEMS = "order_id,line_number,product_id,quantity,gross_amount,discount_amount,tax_amount,updated_at"
ITEM = "o1,1,p1,2,19.99,1.50,3.80,2011-01-02"
PRODUCTS = "product_id,product_name,updated_at"


@pytest.fixture
def landing(server: Home) -> Iterator["Landing"]:
    """The landing tables, empty."""
    with closing(server.connect("postgres", "warehouse")) as session:
        tables = Landing(session)
        tables.clear()
        yield tables


class Landing:
    """Look into the landing tables."""

    def __init__(self, session: Any) -> None:
        self.session = session

    def all(self, sql: str, *values: object) -> list[tuple[Any, ...]]:
        with self.session.cursor() as cursor:
            cursor.execute(sql, values)
            return cursor.fetchall() if cursor.description else []

    def clear(self) -> None:
        """Delete everything: for few rows that is faster than TRUNCATE."""
        names = [*TABLES, "rejects", "files", "batches"]
        self.all("SET synchronous_commit = off;" + ";".join(f"DELETE FROM landing.{name}" for name in names))

    def one(self, sql: str, *values: object) -> Any:
        return self.all(sql, *values)[0][0]

    def count(self, table: str) -> int:
        return int(self.one(f"SELECT count(*) FROM landing.{table}"))

    def rejects(self) -> list[tuple[Any, ...]]:
        return self.all("SELECT line, column_name, value, reason FROM landing.rejects ORDER BY source_file, line")

    def everything(self) -> dict[str, list[tuple[Any, ...]]]:
        """The content of the seven tables, without when and whence."""
        return {
            name: self.all(f"SELECT {', '.join(table.names)}, _deleted FROM landing.{name} ORDER BY 1, 2, 3, 4, 5, 6")
            for name, table in TABLES.items()
        }


@pytest.fixture
def drop(tmp_path: Path) -> Path:
    (tmp_path / "drop").mkdir()
    return tmp_path / "drop"


def write(drop: Path, path: str, content: str | bytes | list[str]) -> Path:
    """A file of the drop folder; lines get line feeds, and names in .gz are compressed."""
    file = drop / path
    file.parent.mkdir(parents=True, exist_ok=True)
    if isinstance(content, list):
        content = "\n".join(content) + "\n"
    if isinstance(content, str):
        content = content.encode()
    if path.endswith(".gz"):
        content = gzip.compress(content)
    file.write_bytes(content)
    return file


def counts(result: LoadResult | FileResult) -> tuple[int, ...]:
    """Rows read, loaded, duplicate, rejected."""
    files = result.files if isinstance(result, LoadResult) else [result]
    return tuple(sum(getattr(f, name) for f in files) for name in ("read", "loaded", "duplicate", "rejected"))


# What loads -----------------------------------------------------------------------------------------------------------


def test_a_batch_with_all_tables(landing: Landing, drop: Path) -> None:
    rows = {
        "customers": (
            "customer_id,email,full_name,country_code,created_at,updated_at\n"
            "00123,a@b.c,A B, de ,2011-01-01,2011-01-02\n"
        ),
        "products": (
            "product_id,product_name,category,brand,list_price,unit_cost,updated_at\np1,n,c,b,19.99,-7,2011-01-02\n"
        ),
        "orders": f"{ORDERS}\n{ORDER}\n",
        "order_items": f"{ITEMS}\n{ITEM}\n",
        "refunds": (
            "refund_id,order_id,line_number,customer_id,product_id,quantity,amount,reason,refunded_at,updated_at\n"
            "r1,o1,1.0,,,,7,,2011-01-03 10:00+02:00,2011-01-03\n"
        ),
        "tickets": (
            "ticket_id,customer_id,order_id,channel,priority,category,status,created_at,updated_at\n"
            "t1,c1,o1,mail,high,late, Open ,2011-01-04,2011-01-04\n"
        ),
        "ticket_events": (
            "event_id,ticket_id,event_type,actor_type,actor_id,occurred_at\n"
            "e1,t1,AGENT_REPLY,agent,a7,2011-01-04T00:00:00.123456-0530\n"
        ),
    }
    for table, content in rows.items():
        write(drop, f"2011-01-04/{table}.csv", content)
    result = load(drop)
    assert not result.refused
    assert result.exit_code == 0
    assert [file.warnings for file in result.files] == [[]] * 7
    assert counts(result) == (7, 7, 0, 0)

    def day(d: int, hour: int = 0, minute: int = 0, second: int = 0, microsecond: int = 0) -> datetime:
        return datetime(2011, 1, d, hour, minute, second, microsecond, tzinfo=UTC)

    assert landing.everything() == {
        "customers": [("00123", "a@b.c", "A B", "DE", day(1), day(2), False)],
        "products": [("p1", "n", "c", "b", Decimal("19.99"), Decimal(-7), day(2), False)],
        "orders": [("o1", "c1", "placed", "EUR", Decimal("4.9"), day(2, 3, 4, 5), day(2, 3, 4, 5), False)],
        "order_items": [("o1", 1, "p1", Decimal(2), Decimal("19.99"), Decimal("1.5"), Decimal("3.8"), day(2), False)],
        "refunds": [("r1", "o1", 1, None, None, None, Decimal(7), None, day(3, 8), day(3), False)],
        "tickets": [("t1", "c1", "o1", "mail", "high", "late", "open", day(4), day(4), False)],
        "ticket_events": [("e1", "t1", "agent_reply", "agent", "a7", day(4, 5, 30, 0, 123456), False)],
    }
    batches = landing.all("SELECT batch_id, batch_name, loaded_at, drop_folder, loaded_by FROM landing.batches")
    [(batch_id, name, loaded_at, folder, login)] = batches
    assert (name, folder, login) == ("2011-01-04", str(drop), "loader")
    for table in TABLES:
        technical = landing.all(f"SELECT _batch_id, _loaded_at, _source_file, _row_number FROM landing.{table}")
        assert technical == [(batch_id, loaded_at, f"2011-01-04/{table}.csv", 2)]
    assert landing.all("SELECT DISTINCT status, rows_read, rows_loaded, error FROM landing.files") == [
        ("loaded", 1, 1, None)
    ]


def test_columns_in_any_order_unknown_ones_left_out_and_said(landing: Landing, drop: Path) -> None:
    write(drop, "b/products.csv", ["x;y, Updated_At ,PRODUCT_ID,\x1b[31m", "1,2011-01-02,p1,2"])
    [file] = load(drop).files
    assert landing.all("SELECT product_id, product_name FROM landing.products") == [("p1", None)]
    assert file.warnings == ["columns outside the contract, left out: x;y, \\x1b[31m"]


@pytest.mark.parametrize("ending", ["\n", "\r\n"])
@pytest.mark.parametrize("last", [True, False])
@pytest.mark.parametrize("quote", [True, False])
def test_line_endings_byte_order_mark_and_empty_lines(
    landing: Landing, drop: Path, ending: str, last: bool, quote: bool
) -> None:
    lines = [
        PRODUCTS,
        "p1,one,2011-01-01",
        "",
        '"p2","t\nwo",2011-01-01' if quote else "p2,two,2011-01-01",
        "",
        "p3,x,y",
    ]
    write(drop, "b/products.csv", "\ufeff" + ending.join(lines) + (ending if last else ""))
    load(drop)
    rows = landing.all("SELECT product_id, product_name, _row_number FROM landing.products ORDER BY 1")
    assert rows == [("p1", "one", 2), ("p2", "t\nwo" if quote else "two", 4)]
    assert landing.rejects() == [(7 if quote else 6, "updated_at", "y", "not an ISO 8601 timestamp")]


TRAPS = [
    "\\N", "NULL", "null", "\\.", "\\", "\\\\n", "a\nb", "a\r\nb", "\n\\.\n", "\t", "a\tb", " padded ", "00123",
    "😀", "a\u2028b", "\x0b\x0c\x1c\x85", "=cmd|' /C calc'!A0", "'; DROP TABLE landing.orders;--", '"', 'a "quoted" b',
    "a,b", "é", "\x1b[31m", "\x7f", "1e3", "NaN", "infinity", "\ufeff", "x" * 100_000,
]  # fmt: skip


def csv_line(*values: str) -> str:
    return ",".join('"' + value.replace('"', '""') + '"' for value in values)


@pytest.mark.parametrize("kind", ["csv", "csv.gz", "parquet"])
def test_text_survives_unchanged(landing: Landing, drop: Path, kind: str) -> None:
    if kind == "parquet":
        parquet(
            drop / "b/products.parquet", product_id=TRAPS, product_name=TRAPS, updated_at=["2011-01-02"] * len(TRAPS)
        )
        expected = list(enumerate(TRAPS, 1))
    else:
        write(drop, f"b/products.{kind}", [PRODUCTS, *(csv_line(trap, trap, "2011-01-02") for trap in TRAPS)])
        numbers = [2 + sum(1 + 2 * trap.count("\n") for trap in TRAPS[:i]) for i in range(len(TRAPS))]
        expected = list(zip(numbers, TRAPS, strict=True))
    assert not load(drop).refused
    rows = landing.all("SELECT _row_number, product_id, product_name FROM landing.products ORDER BY 1")
    assert rows == [(number, trap, trap) for number, trap in expected if trap != "\t"]
    # A key of blanks alone is no key.
    assert landing.rejects() == [(number, "product_id", trap, "missing") for number, trap in expected if trap == "\t"]


TEXTS = st.lists(
    st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\0"), max_size=20), min_size=1, max_size=50
)


@settings(max_examples=15, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(texts=TEXTS, kind=st.sampled_from(["csv", "csv.gz", "parquet"]))
def test_any_text_survives(
    landing: Landing, tmp_path_factory: pytest.TempPathFactory, texts: list[str], kind: str
) -> None:
    drop = tmp_path_factory.mktemp("drop")
    keys = [f"k{i}" for i in range(len(texts))]
    if kind == "parquet":
        parquet(drop / "b/products.parquet", product_id=keys, product_name=texts, updated_at=["2011-01-02"] * len(keys))
    else:
        lines = [csv_line(key, text, "2011-01-02") for key, text in zip(keys, texts, strict=True)]
        write(drop, f"b/products.{kind}", [PRODUCTS, *lines])
    landing.clear()
    load(drop)
    assert dict(landing.all("SELECT product_id, coalesce(product_name, '') FROM landing.products")) == dict(
        zip(keys, texts, strict=True)
    )


def test_empty_is_null_quoted_or_not(landing: Landing, drop: Path) -> None:
    write(drop, "a/products.csv", [PRODUCTS, "p1,,2011-01-02", 'p2,"",2011-01-02'])
    parquet(
        drop / "b/products.parquet", product_id=["p3", "p4"], product_name=["", None], updated_at=["2011-01-02"] * 2
    )
    load(drop)
    assert landing.all("SELECT DISTINCT product_name FROM landing.products") == [(None,)]
    assert landing.count("products") == 4


def parquet(path: Path, **columns: list[Any]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    with duckdb.connect() as db:
        unnested = ", ".join(f'unnest(${name}) AS "{name}"' for name in columns)
        db.execute(f"COPY (SELECT {unnested}) TO '{path}' (FORMAT parquet)", columns)


def test_parquet_types(landing: Landing, drop: Path) -> None:
    (drop / "b").mkdir()
    target = drop / "b" / "order_items.parquet"
    with duckdb.connect() as db:
        db.execute("SET TimeZone = 'UTC'")
        db.execute(
            f"""
            COPY (
              SELECT 7 AS order_id, i AS line_number, 'p' AS product_id, 2.5::DOUBLE AS quantity,
                19.99::DECIMAL(9, 2) AS gross_amount, NULL::DOUBLE AS discount_amount, i = 3 AS _deleted,
                if(i = 2, '2262-01-01', '2011-01-02 03:04:05')::TIMESTAMP_NS AS updated_at
              FROM range(1, 4) AS t (i)
            ) TO '{target}' (FORMAT parquet)
            """
        )
    assert counts(load(drop)) == (3, 2, 0, 1)
    rows = landing.all(
        "SELECT order_id, line_number, quantity, gross_amount, _deleted, updated_at FROM landing.order_items"
    )
    at = datetime(2011, 1, 2, 3, 4, 5, tzinfo=UTC)
    assert rows == [("7", n, Decimal("2.5"), Decimal("19.99"), n == 3, at) for n in (1, 3)]
    assert landing.rejects() == [(2, "updated_at", "2262-01-01 00:00:00", "more than a day after the load")]


@pytest.mark.parametrize("expression", ["1.0::DOUBLE", "['a']", "{'a': 1}", "MAP {'a': 1}"])
def test_parquet_types_that_are_not_exact_as_text(landing: Landing, drop: Path, expression: str) -> None:
    (drop / "b").mkdir()
    target = drop / "b" / "products.parquet"
    duckdb.execute(
        f"COPY (SELECT {expression} AS product_id, '2011-01-01' AS updated_at) TO '{target}' (FORMAT parquet)"
    )
    [refused] = load(drop).refused
    assert "column product_id has the type" in str(refused.error)


def test_parquet_nul_characters_are_rejected(landing: Landing, drop: Path) -> None:
    parquet(drop / "b/products.parquet", product_id=["a\0b", "c"], updated_at=["2011-01-01"] * 2)
    load(drop)
    assert landing.rejects() == [(1, None, None, "holds a NUL character")]
    assert landing.count("products") == 1


@pytest.mark.parametrize("given_", ["true", "T", "1", " yes "])
def test_a_deleted_row_needs_only_its_key_and_clock(landing: Landing, drop: Path, given_: str) -> None:
    write(drop, "b/order_items.csv", [f"{ITEMS},_deleted", f"o1,1,,-1,x,,,2011-01-02,{given_}"])
    write(
        drop, "b/ticket_events.csv", ["event_id,ticket_id,event_type,occurred_at,_deleted", f"e1,,,2011-01-02,{given_}"]
    )
    assert counts(load(drop)) == (2, 2, 0, 0)
    assert landing.all("SELECT order_id, gross_amount, _deleted FROM landing.order_items") == [("o1", None, True)]
    assert landing.one("SELECT _deleted FROM landing.ticket_events")


# What is rejected -----------------------------------------------------------------------------------------------------

TOMORROW = (datetime.now(UTC) + timedelta(hours=20)).isoformat()
IN_TWO_DAYS = (datetime.now(UTC) + timedelta(days=2)).isoformat()

# Column, value, reason; None: it loads.
TIMES: list[tuple[str, str | None]] = [
    *((text, None) for text in (
        "2011-01-02", "2011-01-02T03:04", "2011-01-02 03:04:05", "2011-01-02T03:04:05.123456", "2011-01-02T03:04Z",
        "2011-01-02T03:04:05+05:45", "2011-01-02T03:04:05-0800", "2011-01-02T03:04:05+02", " 2011-01-02T03:04:05Z ",
        "2011-01-02T03:04:05.123456000Z", "2012-02-29", "1900-01-01", TOMORROW, " 2011-01-02 ",
    )),
    *((text, "not a date") for text in ("2011-02-30", "2011-13-01", "2011-02-29T10:00:00", "2011-00-10")),
    *((text, "not an ISO 8601 timestamp") for text in (
        "now", "today", "infinity", "-infinity", "epoch", "01/02/2011", "20110102", "2011-1-2", "2011-01-02T24:00:00",
        "2011-01-02T23:59:60", "2011-01-02T03", "2011-01-02T03:04:05.1234567", "2011-01-02 03:04:05 Europe/Berlin",
        "2011-01-02 BC", "1293937445", "2011-01-02T03:04:05+99:00", "2011-01-02Z", "2011-01-02 03:04:05\\n", "NULL",
        "2011-01-02T03:04:05z\u00a0", "12011-01-02",
    )),
    ("", "missing"), ("  ", "missing"),
    ("0001-01-01", "before 1900-01-01"), ("1899-12-31T23:59:59Z", "before 1900-01-01"),
    ("9999-12-31", "more than a day after the load"), (IN_TWO_DAYS, "more than a day after the load"),
]  # fmt: skip
NUMBERS: list[tuple[str, str | None]] = [
    *((text, None) for text in ("0", "1.5", "+1", " 7.25 ", "007.5", "1.23450000", "99999999999999.9999")),
    *((text, "not a number") for text in (
        "NaN", "nan", "Infinity", "inf", "1e3", "1E3", "12,50", "1_000", "0x1A", "one", ".5", "5.", "--1", "1 000",
        "$5", "\uff11", "1\t", "NULL", "-", "+",
    )),
    *((text, "more than 4 decimals") for text in ("1.00005", "0.123456789")),
    *((text, "out of range") for text in ("100000000000000", "1" * 300)),
    ("-0.01", "less than 0"), ("", "missing"), (" ", "missing"),
]  # fmt: skip
CASES: list[tuple[str, str, str, list[tuple[str, str | None]]]] = [
    ("orders", "updated_at", f"{ORDERS}", TIMES),
    ("order_items", "gross_amount", f"{ITEMS}", NUMBERS),
    ("order_items", "quantity", ITEMS, [("0", "not more than 0"), ("-1", "not more than 0"), ("0.0001", None)]),
    ("order_items", "discount_amount", ITEMS, [
        ("19.99", None), ("20", "more than gross_amount"), ("-1", "less than 0"), ("", None),
    ]),
    ("order_items", "line_number", ITEMS, [
        ("2", None), (" 3.0 ", None), ("1.5", "not a whole number"), ("3000000000", "out of range"), ("", "missing"),
        ("x", "not a whole number"), ("-1", None),
    ]),
    ("order_items", "order_id", ITEMS, [("", "missing"), ("  ", "missing"), (" a ", None)]),
    ("orders", "status", ORDERS, [
        (" DELIVERED ", None), ("done", "not one of placed, shipped, delivered, cancelled"), ("", "missing"),
        (" ", "missing"),
    ]),
    ("orders", "currency", ORDERS, [
        (" usd ", None), ("US", "not 3 letters"), ("US1", "not 3 letters"), ("€UR", "not 3 letters"), ("", "missing"),
        ("ﬁx", "not 3 letters"), ("EURO", "not 3 letters"),
    ]),
    ("orders", "ordered_at", ORDERS, [("2011-02-30", "not a date"), (IN_TWO_DAYS, "more than a day after the load")]),
    ("orders", "shipping_amount", ORDERS, [("-1", None), ("", None), ("x", "not a number")]),
    ("orders", "_deleted", f"{ORDERS},_deleted", [
        ("", None), ("no", None), ("F", None), ("maybe", "not true or false"), ("2", "not true or false"),
    ]),
]  # fmt: skip


@pytest.mark.parametrize(("table", "column", "header", "values"), CASES, ids=[f"{c[0]}.{c[1]}" for c in CASES])
@pytest.mark.parametrize("quoted", [True, False], ids=["parsed", "plain"])
def test_each_reject_is_reported_with_line_column_value_and_reason(
    landing: Landing,
    drop: Path,
    monkeypatch: pytest.MonkeyPatch,
    table: str,
    column: str,
    header: str,
    values: list[tuple[str, str | None]],
    quoted: bool,
) -> None:
    monkeypatch.setattr(loader, "settings", lambda: type("Lenient", (), {"max_reject_share": 1}))
    good = dict(zip(header.split(","), [*(ORDER if table == "orders" else ITEM).split(","), ""], strict=False))
    lines, expected = [header], []
    number = 1
    for i, (value, reason) in enumerate(values):
        record = good | ({} if column == "order_id" else {"order_id": f"k{i}"}) | {column: value}
        if column == "gross_amount":
            record["discount_amount"] = "0"
        if quoted:
            record["order_id"] = record["order_id"] and f"{record['order_id']}\n"  # the record takes two lines
        lines.append(csv_line(*record.values()) if quoted or "," in value else ",".join(record.values()))
        number += 1
        if reason:
            expected.append((number, column, (record[column] or None), reason))
        number += quoted and "\n" in record["order_id"]
    write(drop, f"b/{table}.csv", lines)
    result = load(drop)
    assert landing.rejects() == [(line, name, value and value[:200], reason) for line, name, value, reason in expected]
    assert counts(result) == (len(values), len(values) - len(expected), 0, len(expected))
    if expected:
        line, name, shown, reason = expected[0]
        shown = "" if shown is None else f" '{loader._excerpt(shown, 60)}'"
        rows = "1 row" if len(expected) == 1 else f"{len(expected)} rows"
        assert result.files[0].warnings == [
            f"{rows} rejected; first: line {line}, {name}{shown}: {reason}; all in landing.rejects"
        ]


def test_the_first_column_at_fault_is_the_one_reported(landing: Landing, drop: Path) -> None:
    write(drop, "b/orders.csv", [ORDERS, ORDER, ",,x,y,z,now,now", "o2,,x,y,z,now,now", "o3,,placed,EUR,,now,now"])
    load(drop).print_summary()
    assert landing.rejects() == []  # 3 of 4 is over the limit
    write(drop, "b/orders.csv", [ORDERS, *[f"g{i}{ORDER}" for i in range(9)], ",,x,y,z,now,now", "o2,,x,y,z,now,now"])
    load(drop)
    assert [row[1] for row in landing.rejects()] == ["order_id", "status"]


STRUCTURE: list[tuple[bytes, list[tuple[int, str]]]] = [
    (b"p1,a\np2,b,2011-01-01", [(2, "2 values under a header of 3")]),
    (b"p1,a,2011-01-01,x\n", [(2, "4 values under a header of 3")]),
    (b"p1,caf\xe9,2011-01-01\n", [(2, "not UTF-8")]),
    (b"p1,\xed\xa0\x80,2011-01-01\n", [(2, "not UTF-8")]),  # half a surrogate pair
    (b'p1,"a"b,2011-01-01\np2,x,2011-01-01\n', [(2, "a quote inside a quoted value")]),
    (b'p1,"a\nb"c,2011-01-01\np2,x,2011-01-01\n', [(2, "a quote inside a quoted value (the record goes to line 3)")]),
    (b"p1,a\rb,2011-01-01\n", [(2, "a carriage return without a line feed outside of quotes")]),
    (b"p1," + b"x" * 1_100_000 + b",2011-01-01\n", [(2, "longer than 1 MiB")]),
    (b"p1," + b"x" * 9_000_000 + b",2011-01-01\np2,\xe9,2011-01-01\n", [(2, "longer than 1 MiB"), (3, "not UTF-8")]),
    (b"   \n\n\np1;a;2011-01-01\n", [(2, "1 values under a header of 3"), (5, "1 values under a header of 3")]),
    (b"\\.\n", [(2, "1 values under a header of 3")]),
]


@pytest.mark.parametrize(("content", "expected"), STRUCTURE, ids=[str(i) for i in range(len(STRUCTURE))])
def test_records_that_are_wrong_as_a_whole(
    landing: Landing, drop: Path, content: bytes, expected: list[tuple[int, str]]
) -> None:
    good = b"".join(b"g%d,x,2011-01-01\n" % i for i in range(20))
    write(drop, "b/products.csv", PRODUCTS.encode() + b"\n" + content.rstrip(b"\n") + b"\n" + good)
    monkey = pytest.MonkeyPatch()
    monkey.setattr(loader, "settings", lambda: type("Lenient", (), {"max_reject_share": 1}))
    with monkey.context():
        result = load(drop)
    monkey.undo()
    assert not result.refused
    assert [(row[0], row[3]) for row in landing.rejects()][: len(expected)] == expected
    assert landing.one("SELECT count(*) FROM landing.products WHERE product_id LIKE 'g%%'") == 20
    read, loaded, duplicate, rejected = counts(result)
    assert read == loaded + duplicate + rejected


PIECES = st.lists(
    st.sampled_from(
        ["a", "b,", ",", '"', '""', "\n", "\r\n", "\r", "\\", "\t", "é", "\u2028", 'x,"y\nz",', "1,2,3\n", "\n\n"]
    ),
    max_size=60,
)


@settings(max_examples=300, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(pieces=PIECES, block=st.integers(1, 40))
def test_records_do_not_depend_on_where_a_block_ends(
    monkeypatch: pytest.MonkeyPatch, pieces: list[str], block: int
) -> None:
    """Against the csv module on the whole file: same records, on the same lines."""
    text = "h,i,j\n" + "".join(pieces)
    expected: list[tuple[int, list[str] | None]] | None = []
    lines = io.StringIO(text, newline="\n")
    reader = csv.reader(lines, strict=True)
    next(reader)
    while expected is not None:
        begin = reader.line_num + 1
        try:
            values = next(reader)
        except StopIteration:
            break
        except csv.Error as error:
            if "unexpected end" in str(error):
                expected = None
            else:
                expected.append((begin, None))
        else:
            if values:
                expected.append((begin, values if len(values) == 3 else None))

    monkeypatch.setattr("scripts.records.BLOCK", block)
    records = Records(io.BufferedReader(io.BytesIO(text.encode())))
    assert records.header == ["h", "i", "j"]
    if expected is None:
        with pytest.raises(Refused, match="never closes"):
            list(records)
        return
    unescaped = {"\\\\": "\\", "\\t": "\t", "\\n": "\n", "\\r": "\r"}
    found: list[tuple[int, list[str] | None]] = []
    for line in b"".join(records).decode().split("\n")[:-1]:
        number, fault, *values = line.split("\t")
        plain = [re.sub(r"\\.", lambda match: unescaped[match[0]], value) for value in values]
        found.append((int(number), None if fault else plain))
    assert found == expected


# What is refused ------------------------------------------------------------------------------------------------------

GOOD = f"{PRODUCTS}\np1,a,2011-01-01\np2,b,2011-01-01\n".encode()
BIG = PRODUCTS.encode() + b"\n" + b"".join(b"p%d,name %d,2011-01-01\n" % (i, i * 7919) for i in range(60_000))
ZIPPED = gzip.compress(BIG, 1)
FLIPPED = ZIPPED[: len(ZIPPED) // 2] + bytes([ZIPPED[len(ZIPPED) // 2] ^ 0xFF]) + ZIPPED[len(ZIPPED) // 2 + 1 :]

UNREADABLE: list[tuple[str, bytes, str]] = [
    ("products.csv", b"", "empty"),
    ("products.csv.gz", b"", "empty"),
    ("products.csv", b"\xef\xbb\xbf", "empty"),
    ("products.csv", b"\n\n", "required column product_id, updated_at is missing"),
    ("products.csv", GOOD.decode().encode("utf-16"), "UTF-16"),
    ("products.csv", GOOD.decode().encode("utf-16-le"), "NUL"),
    ("products.csv", GOOD + b"p3,a\0b,2011-01-01\n", "NUL"),
    ("products.csv", BIG + b"p3,a\0b,2011-01-01\n", "NUL"),
    ("products.csv", GOOD + b'p3,"a\np4,c,2011-01-01\n', "the record of line 4 never closes"),
    ("products.csv", BIG + b'p3,"a', "the record of line 60002 never closes"),
    ("products.csv", GOOD + b'p3,"' + b"a\n" * 600_000, "a quote is missing"),
    ("products.csv", GOOD.replace(b"\n", b"\r"), "its header cannot be read"),
    ("products.csv", ZIPPED, "name it .csv.gz"),
    ("products.csv.gz", GOOD, "damaged"),
    ("products.csv.gz", ZIPPED[: len(ZIPPED) // 2], "damaged or cut short"),
    ("products.csv.gz", ZIPPED[:-4], "damaged or cut short"),
    ("products.csv.gz", ZIPPED[:5], "damaged or cut short"),
    ("products.csv.gz", FLIPPED, "damaged or cut short"),
    ("products.csv.gz", ZIPPED + b"junk", "damaged"),
    ("products.parquet", GOOD, "not a readable parquet file"),
    ("products.parquet", b"", "not a readable parquet file"),
    ("products.csv", GOOD.replace(b",", b";"), "the separator must be a comma"),
    ("products.csv", b"product_id,brand\np1,a\n", "required column updated_at is missing; the header has product_id, brand"),
    ("products.csv", b"product_id,updated_at,Product_ID\np1,2011-01-01,p2\n", "the column product_id twice: at 1 and 3"),
    ("products.csv", b"product_id,updated_at,x,x\np1,2011-01-01,1,2\n", "the column twice: at 3 and 4"),
    ("products.csv", b'product_id,"id"); DROP TABLE landing.orders;--\np1,2011-01-01,1\n', "its header cannot be read"),
    ("products.csv", GOOD.split(b"\n", 1)[1], "required column product_id, updated_at is missing"),
    ("product.csv", GOOD, "did you mean products.csv?"),
    ("PRODUCTS.CSV", GOOD, "did you mean products.csv?"),
    ("order_item.csv.gz", GOOD, "did you mean order_items.csv.gz?"),
    ("stock.parquet", GOOD, "the tables are customers, products"),
    ("products.csv", PRODUCTS.encode() + b"\np1,a,2011-02-30\np2,b,2011-02-30\np3,c,2011-01-01\n",
     "2 of 3 rows rejected, over the limit of 50%; first: line 2, updated_at '2011-02-30': not a date"),
]  # fmt: skip


@pytest.mark.parametrize(("name", "content", "error"), UNREADABLE, ids=[str(i) for i in range(len(UNREADABLE))])
def test_a_file_is_refused_whole_and_the_others_load(
    landing: Landing, drop: Path, capsys: pytest.CaptureFixture[str], name: str, content: bytes, error: str
) -> None:
    (drop / "b").mkdir()
    (drop / "b" / name).write_bytes(content)
    write(drop, "b/orders.csv", [ORDERS, ORDER])
    result = load(drop)
    result.print_summary()
    [refused] = result.refused
    assert error in str(refused.error)
    assert counts(refused) == (0, 0, 0, 0)
    assert result.exit_code == Exit.INPUT_REFUSED
    assert f"refused: b/{name}: {refused.error}" in capsys.readouterr().err
    assert (landing.count("products"), landing.count("rejects"), landing.count("orders")) == (0, 0, 1)
    assert landing.all("SELECT path, error FROM landing.files WHERE status = 'refused'") == [
        (f"b/{name}", refused.error)
    ]


def test_the_corrected_file_alone_loads_after_a_refusal(landing: Landing, drop: Path) -> None:
    write(drop, "b/orders.csv", [ORDERS, ORDER])
    write(drop, "b/products.csv", b"")
    assert len(load(drop).refused) == 1
    assert len(load(drop).refused) == 1
    # A scheduled load meets the bad file again and again; the ledger says it once.
    assert (landing.count("files"), landing.count("batches")) == (2, 1)
    write(drop, "b/products.csv", GOOD)
    result = load(drop)
    assert [(file.status, file.loaded) for file in result.files] == [("known", 0), ("loaded", 2)]


def test_the_share_of_rejects_is_a_setting(landing: Landing, drop: Path, environment: pytest.MonkeyPatch) -> None:
    write(drop, "b/products.csv", GOOD + b"p3,c,now\n")
    environment.setenv("MAX_REJECT_SHARE", "0.3")
    assert "1 of 3 rows rejected, over the limit of 30%" in str(load(drop).refused[0].error)


def test_two_files_for_a_table_are_both_refused(landing: Landing, drop: Path) -> None:
    write(drop, "b/products.csv", GOOD)
    write(drop, "b/products.csv.gz", BIG)
    assert [file.error for file in load(drop).refused] == ["the batch has 2 files for products: make them one"] * 2
    assert landing.count("products") == 0


def test_links_fifos_and_folders_are_refused(landing: Landing, drop: Path, tmp_path: Path) -> None:
    write(drop, "b/orders.csv", [ORDERS, ORDER])
    secret = tmp_path / "secret"
    secret.write_bytes(GOOD)
    (drop / "b/products.csv").symlink_to(secret)
    os.mkfifo(drop / "b/customers.csv")
    (drop / "b/refunds.csv").mkdir()
    (drop / "linked").symlink_to(tmp_path)
    refused = {file.path: file.error for file in load(drop).refused}
    assert refused == {
        "drop/linked": "it is a symbolic link: put the file itself here",
        "b/products.csv": "it is a symbolic link: put the file itself here",
        "b/customers.csv": "it is not a regular file",
        "b/refunds.csv": "it is not a regular file",
    }


def test_hostile_names_are_data(landing: Landing, drop: Path, capsys: pytest.CaptureFixture[str]) -> None:
    batch = "'; DROP TABLE landing.orders;-- \x1b[31m\n[red]*"
    names = ["orders'; DROP TABLE landing.orders;--.csv", "a\nb\x1b]0;x\x07.csv", "x" * 251 + ".csv", "\udcff.csv"]
    for name in names:
        write(drop, f"{batch}/{name}", GOOD)
    write(drop, f"{batch}/orders.csv", [ORDERS, ORDER])
    parquet(tmp := drop / "p.parquet", product_id=["p1"], updated_at=["2011-01-01"])
    tmp.rename(drop / batch / "products.parquet")
    load(drop).print_summary()
    out, err = capsys.readouterr()
    assert "\x1b" not in out + err
    assert (landing.count("orders"), landing.count("products")) == (1, 1)
    shown = r"'; DROP TABLE landing.orders;-- \x1b[31m\n[red]*"
    assert landing.one("SELECT batch_name FROM landing.batches") == shown
    assert landing.all("SELECT _source_file FROM landing.orders") == [(f"{shown}/orders.csv",)]
    assert landing.one("SELECT count(*) FROM landing.files WHERE status = 'refused'") == len(names)
    assert rf"refused: {shown}/a\nb\x1b]0;x\x07.csv: no table has this name" in err


# Which files there are ------------------------------------------------------------------------------------------------


def test_batches_load_in_the_order_of_their_names_and_other_files_are_left_alone(landing: Landing, drop: Path) -> None:
    for day in ("2011-01-10", "2011-01-09"):
        write(drop, f"{day}/products.csv", [PRODUCTS, f"p1,{day},2011-01-01"])
    for other in (
        "readme.txt",
        "2011-01-09/.hidden.csv",
        "2011-01-09/orders.csv.part",
        "2011-01-09/old/orders.csv",
        ".x/orders.csv",
    ):
        write(drop, other, b"x")
    result = load(drop)
    assert not result.refused
    assert [file.path for file in result.files] == ["2011-01-09/products.csv", "2011-01-10/products.csv"]
    assert result.notes == [
        "left alone: .x", "left alone: 2011-01-09/.hidden.csv", "left alone: 2011-01-09/old",
        "left alone: 2011-01-09/orders.csv.part", "left alone: readme.txt",
    ]  # fmt: skip
    names = landing.all("SELECT product_name FROM landing.products ORDER BY _loaded_at")
    assert names == [("2011-01-09",), ("2011-01-10",)]


def test_a_drop_folder_with_table_files_is_one_batch(landing: Landing, drop: Path) -> None:
    write(drop, "products.csv", GOOD)
    write(drop, "order.csv", GOOD)
    write(drop, "archive/orders.csv", [ORDERS, ORDER])
    result = load(drop)
    assert [(file.path, file.status) for file in result.files] == [
        ("drop/order.csv", "refused"),
        ("drop/products.csv", "loaded"),
    ]
    assert result.notes == ["left alone: archive"]


def test_a_misnamed_file_beside_batches_is_refused_and_they_load(landing: Landing, drop: Path) -> None:
    write(drop, "order.csv", [ORDERS, ORDER])
    write(drop, "b/products.csv", GOOD)
    assert [(file.path, file.status) for file in load(drop).files] == [
        ("drop/order.csv", "refused"),
        ("b/products.csv", "loaded"),
    ]


def test_nothing_to_load(landing: Landing, drop: Path, capsys: pytest.CaptureFixture[str]) -> None:
    load(drop).print_summary()
    assert capsys.readouterr().out == "nothing to load\n"
    with pytest.raises(WarehouseError, match=r"there is no folder .*nowhere") as caught:
        load(drop / "nowhere")
    assert caught.value.code == Exit.INPUT_REFUSED
    with pytest.raises(WarehouseError, match="there is no folder"):
        load(write(drop, "file", b""))


def test_a_header_alone_loads_no_rows(landing: Landing, drop: Path) -> None:
    write(drop, "b/products.csv", [PRODUCTS])
    assert counts(load(drop)) == (0, 0, 0, 0)
    assert landing.one("SELECT status FROM landing.files") == "loaded"


def test_the_summary(landing: Landing, drop: Path, capsys: pytest.CaptureFixture[str]) -> None:
    write(drop, "a/products.csv", GOOD + b"p2,b,2011-01-01\np3,c,now\n")
    write(drop, "b/products.csv", b"product_id,updated_at\np2,2011-01-02\n")
    load(drop).print_summary()
    out, err = capsys.readouterr()
    assert out.split() == [
        "products",
        "5",
        "read",
        "3",
        "loaded",
        "1",
        "duplicate",
        "1",
        "rejected",
        out.split()[-2],
        "s",
    ]
    assert err == (
        "warning: a/products.csv: 1 row rejected; first: line 5, updated_at 'now': not an ISO 8601 timestamp; "
        "all in landing.rejects\n"
    )


# Exactly once ---------------------------------------------------------------------------------------------------------


def test_known_content_is_skipped_under_any_name(landing: Landing, drop: Path, tmp_path: Path) -> None:
    content = GOOD + b"p3,c,now\n"
    write(drop, "a/products.csv", content)
    load(drop)
    before = landing.everything(), landing.rejects()
    write(drop, "b/products.csv", content)
    write(tmp_path / "other", "products.csv", content)
    for folder in (drop, tmp_path / "other"):
        result = load(folder)
        assert {file.status for file in result.files} == {"known"}
        read, loaded, duplicate, rejected = counts(result)
        assert (loaded, rejected) == (0, 0)
        assert read == duplicate == 3 * len(result.files)
        assert "already loaded in batch a on " in result.files[0].warnings[0]
    assert (landing.everything(), landing.rejects()) == before
    assert landing.count("batches") == 1


def test_the_same_bytes_may_be_the_file_of_another_table(landing: Landing, drop: Path) -> None:
    both = b"product_id,customer_id,updated_at\nx,x,2011-01-01\n"
    write(drop, "b/products.csv", both)
    write(drop, "b/customers.csv", both)
    assert counts(load(drop)) == (2, 2, 0, 0)


def test_rows_that_are_there_are_dropped_and_every_version_is_kept(landing: Landing, drop: Path) -> None:
    header = f"{ORDERS},_deleted"
    write(drop, "a/orders.csv", [header, ORDER + ",", ORDER.replace("o1", "o2") + ","])
    write(
        drop,
        "b/orders.csv",
        [
            header,
            f"{ORDER},no",  # as landed, in other words
            "o1,c1, PLACED ,eur,4.9000,2011-01-02 04:04:05+01,2011-01-02T03:04:05.000Z,0",  # the same
            f"{ORDER},yes",  # differs in _deleted
            "o1,c1,placed,EUR,,2011-01-02T03:04:05Z,2011-01-02T03:04:05Z,",  # differs in an empty value
            "o1,c1,placed,EUR,,2011-01-02T03:04:05Z,2011-01-02T03:04:05Z,",  # twice in the file
            ORDER.replace(":05Z", ":04Z") + ",",  # an older version
            "o3,,placed,EUR,,now,2011-01-02,",
        ],
    )
    first, second = load(drop).files
    assert counts(first) == (2, 2, 0, 0)
    assert counts(second) == (7, 3, 3, 1)
    assert landing.count("orders") == 5
    assert landing.all("SELECT _row_number FROM landing.orders WHERE _source_file = 'b/orders.csv' ORDER BY 1") == [
        (4,),
        (5,),
        (7,),
    ]


@pytest.mark.parametrize("kind", ["csv", "parquet"])
def test_an_empty_table_gets_the_same_rows_as_one_with_rows(landing: Landing, drop: Path, kind: str) -> None:
    """The way into an empty table is another one: COPY goes straight into it, and rejects are set aside."""
    numbers = range(30_000)
    rows: dict[str, list[Any]] = {
        "product_id": [f"p{i}" for i in numbers],
        "product_name": ["a\\b\t" if i else None for i in numbers],
        "updated_at": ["2011-01-01" if i % 100 else "now" for i in numbers],
    }
    if kind == "parquet":
        parquet(drop / "b/products.parquet", **rows)
    else:
        lines = (",".join(value or "" for value in row) for row in zip(*rows.values(), strict=True))
        write(drop, "b/products.csv", [PRODUCTS, *lines])
    found = []
    for before in (0, 1):
        landing.clear()
        if before:
            landing.all("INSERT INTO landing.products (product_id, updated_at, _batch_id) VALUES ('x', now(), 0)")
        assert counts(load(drop)) == (30_000, 29_700, 0, 300)
        products = landing.all("SELECT *, NULL FROM landing.products WHERE _batch_id > 0 ORDER BY _row_number")
        batch = landing.all("SELECT batch_id, loaded_at FROM landing.batches")
        assert {row[8:10] for row in products} == set(batch)
        found.append(([row[:8] + row[10:] for row in products], landing.rejects()))
    assert found[0] == found[1]


def test_repeats_within_the_first_file(landing: Landing, drop: Path) -> None:
    write(drop, "b/order_items.csv", [ITEMS, *([ITEM] * 3), ITEM.replace("19.99", "20"), ITEM.replace("o1,1", "o1,2")])
    assert counts(load(drop)) == (5, 3, 2, 0)
    assert landing.all("SELECT _row_number FROM landing.order_items ORDER BY 1") == [(2,), (5,), (6,)]


def test_batches_are_stamped_in_order_even_if_the_clock_goes_back(landing: Landing, drop: Path) -> None:
    future = datetime.now(UTC) + timedelta(hours=1)
    landing.all("INSERT INTO landing.batches (batch_name, drop_folder, loaded_at) VALUES ('x', 'x', %s)", future)
    for name in "abc":
        write(drop, f"{name}/products.csv", [PRODUCTS, f"{name},,2011-01-01"])
    load(drop)
    stamps = [row[0] for row in landing.all("SELECT loaded_at FROM landing.batches ORDER BY batch_id")]
    assert stamps == sorted(set(stamps))
    assert stamps[1] > future


# Whole or absent ------------------------------------------------------------------------------------------------------


def two_files(drop: Path) -> None:
    write(drop, "b/orders.csv", [ORDERS, *(f"o{i}{ORDER[2:]}" for i in range(1000))])
    write(drop, "b/products.csv", BIG + b"p,a,now\n")


WHOLE = {"orders": 1000, "products": 60_000, "rejects": 1, "files": 2, "batches": 1}
ABSENT = dict.fromkeys(WHOLE, 0)

POINTS = {
    "before the first file": ("_Loader.stage_file", 1, "before"),
    "between the files": ("_Loader.stage_file", 2, "before"),
    "during the COPY": ("_Counting.read", 2, "before"),
    "during the COPY into landing": ("_Counting.read", 4, "before"),
    "before publishing": ("_Loader.publish", 1, "before"),
    "between two tables of the publishing": ("_Loader.publish_file", 2, "before"),
    "before the commit": ("_Loader.publish_file", 2, "after"),
    "after the commit": ("_Loader.publish", 1, "after"),
}


def crash_at(target: str, call: int, when: str, crash: Callable[[], object], module: Any = loader) -> None:
    """Let the nth call of a method of a module's class crash, before or after it has done its work."""
    owner_name, name = target.split(".")
    owner = getattr(module, owner_name)
    original, calls = getattr(owner, name), count(1)

    def crashing(*args: Any, **kwargs: Any) -> Any:
        is_the_one = next(calls) == call
        if is_the_one and when == "before":
            crash()
        result = original(*args, **kwargs)
        if is_the_one and when == "after":
            crash()
        return result

    setattr(owner, name, crashing)


@pytest.mark.slow
@pytest.mark.parametrize("point", POINTS)
@pytest.mark.parametrize("kill", [True, False], ids=["kill -9", "exception"])
def test_after_a_crash_the_batch_is_whole_or_absent(
    server: Home, landing: Landing, drop: Path, point: str, kill: bool
) -> None:
    two_files(drop)
    # With a row in it, orders goes by way of the temporary table; products is empty, and filled directly.
    landing.all("INSERT INTO landing.orders (order_id, updated_at, _deleted, _batch_id) VALUES ('x', now(), TRUE, 0)")

    def found() -> dict[str, int]:
        return {name: landing.count(name) - (name == "orders") for name in WHOLE}

    program = (
        "import os, signal, sys, pathlib; from tests.python import test_load as t\n"
        "def crash():\n"
        f"    if {kill}: os.kill(os.getpid(), signal.SIGKILL)\n"
        "    raise MemoryError('crash')\n"
        f"t.crash_at(*{POINTS[point]!r}, crash)\n"
        "t.load(pathlib.Path(sys.argv[1]))"
    )
    done = subprocess.run(
        [sys.executable, "-c", program, drop],
        cwd=ROOT,
        env=server.environment(),
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == (-signal.SIGKILL if kill else 1), done.stderr
    # The server finds out by itself that the client is gone.
    deadline = time.monotonic() + 10
    gone = "SELECT count(*) FROM pg_stat_activity WHERE usename = 'loader'"
    while landing.one(gone) and time.monotonic() < deadline:
        time.sleep(0.02)
    assert found() == (WHOLE if point == "after the commit" else ABSENT)
    assert not load(drop).refused
    assert found() == WHOLE


@pytest.mark.parametrize("point", ["during the COPY", "before the commit"])
def test_a_server_that_goes_away_is_said_and_nothing_stays(
    server: Home, landing: Landing, drop: Path, monkeypatch: pytest.MonkeyPatch, point: str
) -> None:
    two_files(drop)
    target = POINTS[point][0].split(".")
    owner = getattr(loader, target[0])
    monkeypatch.setattr(owner, target[1], getattr(owner, target[1]))  # undone at the end
    crash_at(
        *POINTS[point],
        lambda: landing.all("SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE usename = 'loader'"),
    )
    with pytest.raises(WarehouseError, match="the server failed during the load") as caught:
        load(drop)
    assert caught.value.code == Exit.TRANSIENT
    assert {name: landing.count(name) for name in WHOLE} == ABSENT


def test_one_loader_at_a_time(server: Home, landing: Landing, drop: Path) -> None:
    write(drop, "b/products.csv", GOOD)
    with closing(server.connect("loader")) as other, other.cursor() as cursor:
        cursor.execute("SELECT pg_advisory_lock(7274, 3), pg_backend_pid()")
        pid = loader._one(cursor)[1]
        with pytest.raises(WarehouseError, match=f"another loader is at work: pid {pid}, user loader,") as caught:
            load(drop)
    assert caught.value.code == Exit.LOCKED
    assert counts(load(drop)) == (2, 2, 0, 0)


def test_two_loaders_at_once_load_everything_once(server: Home, landing: Landing, drop: Path) -> None:
    two_files(drop)
    program = "import sys, pathlib; from scripts.load import load; load(pathlib.Path(sys.argv[1]))"
    both = [
        subprocess.Popen(
            [sys.executable, "-c", program, drop], cwd=ROOT, env=server.environment(), stderr=subprocess.PIPE
        )
        for _ in range(2)
    ]
    errors = [process.communicate(timeout=60)[1].decode() for process in both]
    assert all(not error or "another loader is at work" in error for error in errors), errors
    assert {name: landing.count(name) for name in WHOLE} == WHOLE


def test_publishing_waits_for_a_run_and_is_stamped_after_it(server: Home, landing: Landing, drop: Path) -> None:
    write(drop, "b/products.csv", GOOD)
    waiting = "SELECT count(*) FROM pg_locks WHERE locktype = 'advisory' AND NOT granted"
    with closing(server.connect("sqlmesh_user")) as run, run.cursor() as cursor:
        cursor.execute("SELECT pg_advisory_lock(7274, 2)")
        thread = threading.Thread(target=load, args=(drop,))
        thread.start()
        deadline = time.monotonic() + 10
        while not landing.one(waiting) and time.monotonic() < deadline:
            time.sleep(0.01)
        assert landing.count("products") == 0
        released = landing.one("SELECT clock_timestamp()")
        cursor.execute("SELECT pg_advisory_unlock(7274, 2)")
        thread.join()
    assert landing.one("SELECT min(_loaded_at) FROM landing.products") > released


def test_whoever_writes_landing_holds_the_publish_lock(server: Home, landing: Landing) -> None:
    with closing(server.connect("loader")) as other, other.cursor() as cursor:
        other.autocommit = False
        for table in TABLES:
            cursor.execute(f"INSERT INTO landing.{table} SELECT * FROM landing.{table} WHERE FALSE")
            held = "SELECT count(*) FROM pg_locks WHERE classid = 7274 AND objid = 2 AND mode = 'ShareLock'"
            assert landing.one(held) == 1
            other.rollback()
            assert landing.one(held) == 0


def test_a_file_that_changes_while_it_is_read_is_refused(
    landing: Landing, drop: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    file = write(drop, "b/products.csv", GOOD)
    original = loader._Loader.pour

    def pour(*args: Any) -> None:
        original(*args)
        with file.open("ab") as more:
            more.write(b"p9,z,2011-01-01\n")

    monkeypatch.setattr(loader._Loader, "pour", pour)
    assert "it changed while it was read" in str(load(drop).refused[0].error)
    assert landing.count("products") == 0


def test_statistics_are_fresh_after_a_big_load(landing: Landing, drop: Path) -> None:
    write(drop, "b/products.csv", BIG)
    load(drop)
    assert landing.one("SELECT reltuples FROM pg_class WHERE oid = 'landing.products'::REGCLASS") == 60_000
    landing.all("SET enable_seqscan = off")
    plan = landing.all("EXPLAIN SELECT FROM landing.products WHERE _loaded_at BETWEEN '2011-01-01' AND '2011-01-02'")
    assert "products_loaded_at" in str(plan)


# Memory ---------------------------------------------------------------------------------------------------------------


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["csv.gz", "parquet"])
def test_memory_does_not_grow_with_the_file(server: Home, landing: Landing, drop: Path, kind: str) -> None:
    """The process stays below 1 GiB; 100 MB here; by hand 2.3 GB, with a peak of 0.13 GiB."""
    (drop / "b").mkdir()
    target = drop / f"b/products.{kind}"
    form = "FORMAT parquet" if kind == "parquet" else "FORMAT csv, HEADER, FORCE_QUOTE (product_name)"
    duckdb.execute(
        f"COPY (SELECT i AS product_id, repeat('text '||i, 200)||chr(10) AS product_name, '2011-01-01' AS updated_at "
        f"FROM range(50000) AS t (i)) TO '{target}' ({form})"
    )
    program = (
        # not getrusage, whose peak is that of the test process where it forked
        "import json, pathlib, sys; from scripts.load import load; result = load(pathlib.Path(sys.argv[1]))\n"
        "peak = pathlib.Path('/proc/self/status').read_text().split('VmHWM:')[1].split()[0]\n"
        "print(json.dumps([result.loaded, int(peak)]))"
    )
    done = subprocess.run(
        [sys.executable, "-c", program, drop],
        cwd=ROOT,
        env=server.environment(),
        capture_output=True,
        text=True,
        check=True,
    )
    loaded, peak_kib = json.loads(done.stdout)
    assert loaded == 50_000
    assert peak_kib < 1 << 20
