"""Three batches with every kind of dirt: what was planted is found, the rest is loaded, and the marts equal the definitions."""

import csv
import random
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from scripts import pipeline
from scripts.errors import Exit, WarehouseError
from tests.python.test_end_to_end import Row, Warehouse, at, line, order, refund

pytestmark = pytest.mark.slow

TRAPS = (
    "a\nb", 'say "tea"', "\\N", "NULL", "N/A", "a\tb", "tea \U0001f375", "  padded  ", "c:\\new", "'; DROP TABLE x; --",
    "שלום", "e\u0301", "0042", "-", "a,b;c",
)  # fmt: skip

# Table, what is wrong with an otherwise good row, the column and the reason that must be told.
DIRT: list[tuple[str, Row, str, str]] = [
    ("orders", {"order_id": ""}, "order_id", "missing"),
    ("orders", {"status": ""}, "status", "missing"),
    ("orders", {"status": "lost"}, "status", "not one of placed, shipped, delivered, cancelled"),
    ("orders", {"currency": "EURO"}, "currency", "not 3 letters"),
    ("orders", {"ordered_at": "2011-02-30T00:00:00Z"}, "ordered_at", "not a date"),
    ("orders", {"ordered_at": "now"}, "ordered_at", "not an ISO 8601 timestamp"),
    ("orders", {"updated_at": "infinity"}, "updated_at", "not an ISO 8601 timestamp"),
    ("orders", {"ordered_at": "01/02/2011"}, "ordered_at", "not an ISO 8601 timestamp"),
    ("orders", {"ordered_at": "2099-01-01T00:00:00Z"}, "ordered_at", "more than a day after the load"),
    ("order_items", {"line_number": "1.5"}, "line_number", "not a whole number"),
    ("order_items", {"product_id": ""}, "product_id", "missing"),
    ("order_items", {"quantity": "0"}, "quantity", "not more than 0"),
    ("order_items", {"gross_amount": "NaN"}, "gross_amount", "not a number"),
    ("order_items", {"gross_amount": "12,50"}, "gross_amount", "not a number"),
    ("order_items", {"gross_amount": "-1"}, "gross_amount", "less than 0"),
    ("order_items", {"gross_amount": "1.00001"}, "gross_amount", "more than 4 decimals"),
    ("order_items", {"gross_amount": "7", "discount_amount": "7.01"}, "discount_amount", "more than gross_amount"),
    ("refunds", {"amount": ""}, "amount", "missing"),
    ("refunds", {"amount": "-0.01"}, "amount", "less than 0"),
    ("refunds", {"refunded_at": "2026-02-30T07:00:00Z"}, "refunded_at", "not a date"),
    ("tickets", {"status": "new"}, "status", "not one of open, pending, solved, closed"),
    ("ticket_events", {"event_type": "exploded"}, "event_type", "not one of created"),
    ("customers", {"country_code": "USA"}, "country_code", "not 2 letters"),
    ("products", {"unit_cost": "cheap"}, "unit_cost", "not a number"),
]


@pytest.fixture(scope="module")
def warehouse(homes: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Warehouse]:
    with Warehouse(homes / "dirty", tmp_path_factory.mktemp("dirty"), "Pacific/Kiritimati", "EUR").built() as made:
        yield made


def clean(number: int) -> dict[str, list[Row]]:
    """What the shop means to say in a batch; the second corrects the first, the third brings parents that were missing."""
    day = number * 2.0
    rows: dict[str, list[Row]] = {
        "customers": [{"customer_id": f"C{n}", "country_code": "DE", "created_at": at(0), "updated_at": at(day)} for n in range(9)],
        "products": [{"product_id": f"P{number}{n}", "product_name": text, "brand": text, "unit_cost": "1.5", "updated_at": at(day)}
                     for n, text in enumerate(TRAPS)],
        "orders": [order(f"O{number}{n}", day, customer_id=f"C{n}", currency="EUR" if n % 2 else "USD") for n in range(24)],
        "order_items": [line(f"O{number}{n}", 1, 19.99, day, product_id=f"P{number}{n}") for n in range(24)],
        "refunds": [refund(f"R{number}{n}", f"O{number}{n}", 7, day + 1, reason=text) for n, text in enumerate(TRAPS[:9])],
        "tickets": [{"ticket_id": f"T{number}{n}", "customer_id": f"C{n}", "priority": "high", "status": "open",
                     "created_at": at(day), "updated_at": at(day), "channel": TRAPS[n]} for n in range(9)],
        "ticket_events": [{"event_id": f"E{number}{n}", "ticket_id": f"T{number}{n}", "event_type": "agent_reply",
                           "occurred_at": at(day + 0.1)} for n in range(9)],
    }  # fmt: skip
    rows["order_items"].append(line("LATE", 1, 11, day, line_number=number))  # its order comes with the third batch
    if number == 2:  # moves, a cancellation, a deletion, and a version that is older than what is there
        rows["orders"] += [
            order("O11", 5, customer_id="C7", updated_at=at(9)), order("O12", 2, status=" Cancelled ", updated_at=at(9)),
            order("O13", 2, updated_at=at(9), _deleted="true"), order("O14", 44, updated_at=at(0.5)),
        ]  # fmt: skip
    if number == 3:
        rows["orders"].append(order("LATE", 1))
    return rows


def drop_dirty(
    warehouse: Warehouse, number: int
) -> tuple[Counter[tuple[str, str, str]], dict[str, int], dict[tuple[str, int], str]]:
    """Write the batch with its dirt, columns shuffled and one of them unknown: rejects and rows to expect, and who is where."""
    pick = random.Random(number)
    tables, expected, lines = clean(number), Counter[tuple[str, str, str]](), {}
    counts = {table: len(rows) for table, rows in tables.items()}
    folder = warehouse.drops / f"batch_{number}"
    folder.mkdir(parents=True)
    for table, rows in tables.items():
        mixed: list[tuple[Row, tuple[str, str] | None]] = [(row, None) for row in rows]
        for _, fault, column, reason in (dirt for dirt in DIRT if dirt[0] == table):
            for _ in range(pick.randrange(1, 3)):
                mixed.append((rows[0] | fault, (column, reason)))
        doubled = dict(pick.choice(rows))  # the same row again is not landed twice
        mixed.append((doubled, None))
        pick.shuffle(mixed)
        columns = sorted({name for row, _ in mixed for name in row} | {"colour"})
        pick.shuffle(columns)
        with (folder / f"{table}.csv").open("w", newline="") as file:
            writer = csv.DictWriter(file, columns)
            writer.writeheader()
            for row, fault_of in mixed:
                at_line = 1 + file_lines(folder / f"{table}.csv", file)
                writer.writerow(row | {"colour": "green"})
                if fault_of:
                    expected[table, *fault_of] += 1
                    lines[table, at_line] = fault_of[0]
    (folder / "notes.txt").write_text("not a table")
    return expected, counts, lines


def file_lines(path: Path, file: Any) -> int:
    file.flush()
    return path.read_bytes().count(b"\n")


def test_what_was_planted_is_found_and_the_rest_is_right(warehouse: Warehouse, tmp_path: Path) -> None:
    landed: Counter[str] = Counter()
    for number in (1, 2, 3):
        expected, counts, lines = drop_dirty(warehouse, number)
        pipeline.refresh(warehouse.drops)
        rejects = warehouse.read(
            "SELECT table_name, column_name, reason, line FROM landing.rejects"
            f" WHERE source_file LIKE 'batch_{number}/%' ORDER BY 1, 4",
            "loader",
        )
        found = Counter(dict.fromkeys(expected, 0))
        for table, column, reason, at_line in rejects:
            key = next(key for key in expected if key[:2] == (table, column) and key[2] in reason)
            found[key] += 1
            assert lines[table, at_line] == column
        assert found == expected
        landed.update(counts)
        for table, rows in landed.items():
            assert warehouse.read(f"SELECT COUNT(*) FROM landing.{table}") == [(rows,)], table
        assert warehouse.differences(tmp_path) == {}
    assert len(DIRT) >= 24


def test_text_survives_unchanged(warehouse: Warehouse) -> None:
    names: dict[str, str] = dict(
        warehouse.read("SELECT product_id, product_name FROM marts.dim_products WHERE is_known")
    )
    brands: dict[str, str] = dict(warehouse.read("SELECT product_id, brand FROM marts.dim_products WHERE is_known"))
    reasons: dict[str, str] = dict(warehouse.read("SELECT refund_id, reason FROM marts.fct_refunds"))
    channels: dict[str, str] = dict(warehouse.read("SELECT ticket_id, channel FROM marts.fct_tickets"))
    for n, text in enumerate(TRAPS):
        assert names[f"P1{n}"] == brands[f"P1{n}"] == text
        assert n >= 9 or reasons[f"R2{n}"] == channels[f"T3{n}"] == text


def test_a_file_that_breaks_the_contract_is_refused_whole(warehouse: Warehouse, tmp_path: Path) -> None:
    """The other files of its batch are loaded and run, and what is loaded is not loaded twice."""
    before = warehouse.read("SELECT COUNT(*) FROM landing.orders")
    folder = warehouse.drop(tickets=[{"ticket_id": "T99", "status": "open", "created_at": at(7), "updated_at": at(7)}])
    (folder / "orders.csv").write_text("order_id,status\nO99,placed\n")
    with pytest.raises(WarehouseError) as refusal:
        pipeline.refresh(warehouse.drops)
    assert refusal.value.code == Exit.INPUT_REFUSED
    assert warehouse.read("SELECT COUNT(*) FROM landing.orders") == before
    assert warehouse.read("SELECT COUNT(*) FROM marts.fct_tickets WHERE ticket_id = 'T99'") == [(1,)]
    assert warehouse.differences(tmp_path) == {}
