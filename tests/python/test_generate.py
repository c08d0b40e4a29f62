"""The generator: the same rows every time, within the contract, consistent from batch to batch, and as its manifest says."""

from collections.abc import Callable
from datetime import UTC, date, datetime
from decimal import Decimal
from pathlib import Path
from typing import Any

import duckdb
import pytest

from scripts import pipeline
from scripts.contract import TABLES, checking_sql, stage_columns
from scripts.errors import Exit, WarehouseError
from scripts.generate import DIRT, HISTORY, LAST_DAY, Manifest, generate, write_tickets
from tests.python.conftest import Home
from tests.python.test_end_to_end import Warehouse

Rows = list[tuple[Any, ...]]


class Loaded:
    """All batches of a folder as the loader reads them: tables of typed rows with `batch`, and the `rejects`."""

    def __init__(self, manifest: Manifest) -> None:
        self.manifest, self.db = manifest, duckdb.connect()
        self.db.execute("SET TimeZone = 'UTC'; SET threads = 2")
        for table in TABLES.values():
            columns = ", ".join(f"{name} {type_}" for name, type_ in stage_columns(table).items())
            self.db.execute(f"CREATE TABLE all_{table.name} (batch TEXT, {columns})")
            for batch in manifest.rows:
                for file in sorted((manifest.path / batch).glob(f"{table.name}.*")):
                    reader = "read_parquet('{}')" if file.suffix == ".parquet" else "read_csv('{}', all_varchar = true)"
                    header = [row[0] for row in self.db.execute(f"DESCRIBE FROM {reader.format(file)}").fetchall()]
                    present = {name: f"CAST({name} AS VARCHAR)" for name in header}
                    source = f"(SELECT *, NULL::BIGINT AS line, NULL::VARCHAR AS fault, NULL::VARCHAR AS excerpt FROM {reader.format(file)})"
                    check, names = checking_sql(table, source, present, datetime.now(UTC).replace(tzinfo=None))
                    self.db.execute(
                        f"INSERT INTO all_{table.name} BY NAME"
                        f" SELECT '{batch}' AS batch, * FROM ({check}) AS checked ({', '.join(names)})"
                    )
            self.db.execute(
                f"CREATE VIEW {table.name} AS SELECT * EXCLUDE (_row_number, reject_column, reject_value, reject_reason) FROM all_{table.name} WHERE reject_reason IS NULL;"
                f"CREATE VIEW newest_{table.name} AS FROM {table.name}"
                f" QUALIFY row_number() OVER (PARTITION BY {', '.join(table.version[:-1])} ORDER BY {table.clock} DESC, batch DESC) = 1 AND NOT _deleted"
            )

    def ask(self, query: str) -> Rows:
        return self.db.execute(query).fetchall()

    def one(self, query: str) -> Any:
        return self.ask(query)[0][0]

    def number(self, query: str) -> float:
        return float(self.one(query))


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Loaded:
    return Loaded(generate(tmp_path_factory.mktemp("made") / "shop", 20_000, days=3))


@pytest.fixture(scope="module")
def dirty(tmp_path_factory: pytest.TempPathFactory) -> Loaded:
    return Loaded(generate(tmp_path_factory.mktemp("dirty") / "shop", 3_000, days=2, dirt=True))


def contents(manifest: Manifest) -> dict[str, bytes]:
    files = manifest.path.glob("*/*")
    return {str(file.relative_to(manifest.path)): file.read_bytes() for file in files}


def test_the_same_request_gives_the_same_files(made: Loaded, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """With one thread, and when fewer days follow; another seed gives another shop."""
    connect = duckdb.connect
    monkeypatch.setattr(duckdb, "connect", lambda: connect(config={"threads": 1}))
    first, again = contents(made.manifest), contents(generate(tmp_path / "again", 20_000, days=1))
    assert set(first) - set(again) == {name for name in first if name[:10] in ("2026-09-02", "2026-09-03")}
    assert {name: first[name] for name in again} == again
    small, other = (contents(generate(tmp_path / f"{seed}", 100, days=1, seed=seed)) for seed in (7, 8))
    assert not [name for name in small if small[name] == other.get(name)]


def test_every_row_keeps_the_contract(made: Loaded) -> None:
    for table in TABLES:
        assert (
            made.ask(f"SELECT reject_column, reject_reason FROM all_{table} WHERE reject_reason IS NOT NULL LIMIT 3")
            == []
        )
    assert made.manifest.rejects == {}


def test_the_dirt_is_found_as_planted(dirty: Loaded) -> None:
    for table in TABLES:
        found: dict[str, dict[str, int]] = {}
        for column, reason, rows in dirty.ask(
            f"SELECT reject_column, reject_reason, count(*) FROM all_{table} WHERE reject_reason IS NOT NULL GROUP BY ALL"
        ):
            found.setdefault(column, {})[reason] = rows
        assert found == dirty.manifest.rejects[table], table
        rejected, rows = dirty.ask(f"SELECT count(reject_reason), count(*) FROM all_{table} WHERE batch = '{DIRT}'")[0]
        assert rejected * 2 < rows, f"{table} would be refused"
        columns = ", ".join([*TABLES[table].names, "_deleted"])
        again = dirty.one(
            f"SELECT count(*) FROM (SELECT {columns} FROM {table} WHERE batch = '{DIRT}'"
            f" INTERSECT SELECT {columns} FROM {table} WHERE batch = '{HISTORY}')"
        )
        assert again == dirty.manifest.duplicates.get(table, 0)
    for table, parent, key in (
        ("order_items", "orders", "order_id"),
        ("refunds", "orders", "order_id"),
        ("ticket_events", "tickets", "ticket_id"),
    ):
        waiting = dirty.one(f"SELECT count(*) FROM newest_{table} ANTI JOIN newest_{parent} USING ({key})")
        assert waiting == dirty.manifest.waiting[table]
    late = f"SELECT count(DISTINCT order_id) FROM order_items ANTI JOIN (FROM orders WHERE batch = '{HISTORY}') USING (order_id) WHERE batch = '{HISTORY}'"
    assert dirty.number(late) >= 30


@pytest.mark.parametrize("shop", ["made", "dirty"])
def test_the_manifest_tells_the_truth(shop: str, request: pytest.FixtureRequest) -> None:
    loaded: Loaded = request.getfixturevalue(shop)
    manifest = loaded.manifest
    for table in TABLES:
        rows: dict[str, int] = dict(loaded.ask(f"SELECT batch, count(*) FROM all_{table} GROUP BY batch"))
        assert rows == {batch: tables[table] for batch, tables in manifest.rows.items() if table in tables}
        assert loaded.one(f"SELECT count(*) FROM newest_{table}") == manifest.records[table], table
    counted = "(FROM newest_orders WHERE status <> 'cancelled')"
    assert dict(loaded.ask(f"SELECT currency, count(*) FROM {counted} GROUP BY 1")) == manifest.counted_orders
    lines = loaded.ask(
        "SELECT currency, sum(gross_amount), sum(gross_amount - coalesce(discount_amount, 0))"
        f" FROM newest_order_items INNER JOIN {counted} USING (order_id) GROUP BY 1"
    )
    assert {row[0]: row[1] for row in lines} == manifest.gross_revenue
    assert {row[0]: row[2] for row in lines} == manifest.net_sales
    refunds = loaded.ask(
        f"SELECT currency, sum(amount) FROM newest_refunds INNER JOIN {counted} USING (order_id) GROUP BY 1"
    )
    assert dict(refunds) == {currency: amount for currency, amount in manifest.refunds.items() if amount}
    assert Manifest.read(manifest.path).net_sales == manifest.net_sales


def test_shares_are_those_of_a_shop(made: Loaded) -> None:
    def share(condition: str, table: str) -> float:
        return made.number(f"SELECT avg(({condition})::INT) FROM newest_{table}")

    assert made.manifest.rows[HISTORY]["orders"] == 20_000
    assert share("customer_id IS NULL", "orders") == pytest.approx(0.02, abs=0.004)
    assert share("status = 'cancelled'", "orders") == pytest.approx(0.03, abs=0.005)
    assert made.number("SELECT count(*) / 20000 FROM newest_tickets") == pytest.approx(0.05, abs=0.005)
    assert made.number("SELECT count(*) / 20000 FROM newest_order_items") == pytest.approx(2, abs=0.1)
    # Of lines whose refunds are all over.
    old = f"(FROM newest_orders WHERE ordered_at < DATE '{LAST_DAY}' - 200 AND status <> 'cancelled')"
    assert made.number(
        f"SELECT avg((refund_id IS NOT NULL)::INT) FROM newest_order_items SEMI JOIN {old} USING (order_id)"
        " LEFT JOIN newest_refunds USING (order_id, line_number)"
    ) == pytest.approx(0.06, abs=0.006)
    # A fifth of the customers buys nearly half, December more than November, and each year a fifth more.
    assert made.number(
        "WITH sums AS (SELECT count(*) AS orders, ntile(5) OVER (ORDER BY count(*) DESC) AS fifth FROM newest_orders"
        " WHERE customer_id IS NOT NULL GROUP BY customer_id) SELECT sum(orders) FILTER (fifth = 1) / sum(orders) FROM sums"
    ) == pytest.approx(0.46, abs=0.06)
    months: dict[str, int] = dict(
        made.ask("SELECT strftime(ordered_at, '%Y-%m'), count(*) FROM newest_orders GROUP BY 1")
    )
    assert months["2025-12"] > 1.2 * months["2025-11"]
    assert months["2026-05"] / months["2025-05"] == pytest.approx(1.2, abs=0.1)
    assert made.number("SELECT count(DISTINCT currency) FROM newest_orders") == 9
    assert made.number("SELECT max(versions) FROM (SELECT count(*) AS versions FROM products GROUP BY product_id)") > 4


def test_nothing_is_told_before_it_happens(made: Loaded) -> None:
    """The history ends with its last day, and a single day holds what happened on it."""
    for table in TABLES.values():
        last = made.one(f"SELECT max({table.clock})::DATE::TEXT FROM {table.name} WHERE batch = '{HISTORY}'")
        assert last <= str(LAST_DAY)
        elsewhere = f"SELECT batch FROM {table.name} WHERE batch <> '{HISTORY}' AND {table.clock}::DATE <> batch::DATE"
        assert made.ask(elsewhere) == []
    for name, moment in (("orders", "ordered_at"), ("refunds", "refunded_at"), ("tickets", "created_at")):
        assert made.one(f"SELECT bool_and({moment} <= updated_at) FROM {name}")
    days = made.ask(
        "SELECT batch, count(*) FROM orders WHERE batch <> '0000-history' AND ordered_at::DATE = batch::DATE GROUP BY 1"
    )
    assert len(days) == 3


def test_batches_fit_together(made: Loaded) -> None:
    never = {
        "an order of nobody": "SELECT * FROM orders WHERE customer_id IS NOT NULL AND NOT EXISTS (FROM customers WHERE customers.customer_id = orders.customer_id AND customers.created_at <= orders.ordered_at + INTERVAL 1 DAY)",
        "a line without order": "SELECT * FROM order_items ANTI JOIN orders USING (order_id)",
        "an order without line": "SELECT * FROM orders ANTI JOIN order_items USING (order_id)",
        "a line of no product": "SELECT * FROM order_items ANTI JOIN products USING (product_id)",
        "a refund of nothing": "SELECT * FROM refunds ANTI JOIN order_items USING (order_id, line_number, product_id)",
        "a refund above its line, or too soon or late": "SELECT * FROM refunds INNER JOIN newest_order_items AS lines USING (order_id, line_number) INNER JOIN newest_orders AS orders USING (order_id)"
        " WHERE amount <= 0 OR amount > gross_amount - discount_amount OR refunded_at < ordered_at + INTERVAL 3 DAY OR refunded_at > ordered_at + INTERVAL 202 DAY",
        "a version that is there": "SELECT order_id, updated_at FROM orders GROUP BY ALL HAVING count(*) > 1",
        "a status that goes back": "SELECT * FROM orders AS later INNER JOIN orders AS sooner USING (order_id) WHERE later.updated_at > sooner.updated_at AND later.status = 'placed'",
        "a refund that came twice": "SELECT refund_id FROM refunds GROUP BY 1 HAVING count(*) > 1",
        "an event that came twice": "SELECT event_id FROM ticket_events GROUP BY 1 HAVING count(*) > 1",
        "an event before its ticket": "SELECT * FROM ticket_events INNER JOIN newest_tickets AS tickets USING (ticket_id) WHERE occurred_at < created_at",
        "a ticket without events": "SELECT * FROM tickets ANTI JOIN ticket_events USING (ticket_id)",
        "a ticket before its order": "SELECT * FROM tickets INNER JOIN newest_orders AS orders USING (order_id) WHERE created_at < ordered_at",
        "a status without its event": "SELECT ticket_id, arg_max(event_type, (occurred_at, event_id)) AS last, any_value(status) AS status FROM ticket_events INNER JOIN newest_tickets AS tickets USING (ticket_id)"
        " GROUP BY 1 HAVING status <> CASE WHEN last IN ('pending', 'solved', 'closed') THEN last ELSE 'open' END",
        "more cents than two": "SELECT * FROM order_items WHERE gross_amount <> round(gross_amount, 2) OR discount_amount <> round(discount_amount, 2) OR tax_amount <> round(tax_amount, 2)",
    }  # fmt: skip
    assert {what: rows for what, query in never.items() if (rows := made.ask(f"{query} LIMIT 3"))} == {}


def test_single_days_correct_what_is_old(made: Loaded) -> None:
    """Two a day here: 100 for a million orders."""
    corrected = made.ask(
        f"""
        SELECT batch, count(*) FROM (
          SELECT batch FROM order_items ANTI JOIN (FROM orders WHERE ordered_at::DATE::TEXT = batch) USING (order_id, batch)
          WHERE batch <> '{HISTORY}'
          UNION ALL
          SELECT batch FROM orders WHERE batch <> '{HISTORY}' AND ordered_at::DATE < batch::DATE - 11
        ) GROUP BY batch
        """
    )
    assert {row[1] for row in corrected} == {2} and len(corrected) == 3


def test_a_long_flat_history_has_the_same_days(tmp_path: Path) -> None:
    """Ten times the orders in ten times the days. Before the first exchange rate all is in dollars."""
    short = generate(tmp_path / "short", 1_000, days=7, span=730, growth=0.0)
    long = generate(tmp_path / "long", 10_000, days=7, span=7_300, growth=0.0)

    def per_day(manifest: Manifest) -> float:
        return (manifest.records["orders"] - manifest.rows[HISTORY]["orders"]) / 7

    assert per_day(long) == pytest.approx(per_day(short), rel=0.15)
    assert per_day(short) == pytest.approx(1_000 / 730, rel=0.2)
    assert long.first_day == date(2006, 9, 6)
    orders = f"read_parquet('{long.path / HISTORY}/orders.parquet')"
    assert duckdb.sql(
        f"SELECT min(ordered_at) FILTER (currency <> 'USD')::DATE >= '2009-01-03', count(DISTINCT year(ordered_at)) FROM {orders}"
    ).fetchall() == [(True, 21)]


def test_what_is_there_stays(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    first = generate(tmp_path / "shop", 50)
    again = generate(tmp_path / "shop", 50)
    assert (first.is_new, again.is_new) == (True, False)
    assert (again.rows, again.refunds) == (first.rows, first.refunds)
    assert str(again).startswith("found")
    with pytest.raises(WarehouseError, match=r"holds other data \(orders 50") as refusal:
        generate(tmp_path / "shop", 51)
    assert refusal.value.code == Exit.INPUT_REFUSED
    (tmp_path / "mine").mkdir()
    with pytest.raises(WarehouseError, match="was not generated"):
        generate(tmp_path / "mine", 50)

    def full_disk(*_: object) -> None:
        raise OSError("no space left on device")

    monkeypatch.setattr(Path, "rename", full_disk)
    with pytest.raises(WarehouseError, match="no space left"):
        generate(tmp_path / "other", 50)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["mine", "shop"]


@pytest.mark.parametrize(
    ("orders", "ask", "what"),
    [
        (0, {}, "0 orders"),
        (999, {"dirt": True}, "too few for dirt"),
        (10, {"days": 61}, "the exchange rates last for 60"),
        (10, {"span": 1}, "span of 30"),
        (10, {"growth": -1.0}, "growth of -0.9"),
    ],
)
def test_what_cannot_be_made_is_refused(tmp_path: Path, orders: int, ask: dict[str, Any], what: str) -> None:
    with pytest.raises(WarehouseError, match=what):
        generate(tmp_path / "shop", orders, **ask)
    assert list(tmp_path.iterdir()) == []


def test_the_command(new_home: Callable[[str], Home], tmp_path: Path) -> None:
    printed = new_home("generate").run("generate", str(tmp_path / "shop"), "--orders", "1000", "--days", "1", "--dirt")
    assert printed.startswith(f"wrote {tmp_path / 'shop'}: 3 batches")
    assert "1,000 orders" not in printed  # there are those of the day and the dirt, too


def test_tickets_for_orders_of_others(tmp_path: Path) -> None:
    """They are about an order, by its customer; nothing happens after the last order; what is there stays."""
    orders = tmp_path / "orders.csv"
    duckdb.sql(
        "SELECT 'B' || (30000000000 + n) AS order_id, 'H' || n % 7 AS customer_id, DATE '2017-01-01' + to_hours(n) AS ordered_at"
        " FROM range(4000) AS numbers (n)"
    ).write_csv(str(orders), timestamp_format="%Y-%m-%dT%H:%M:%SZ")
    assert write_tickets(orders, tmp_path / "drop" / "tickets").startswith("wrote")
    assert write_tickets(orders, tmp_path / "drop" / "tickets").startswith("found")
    with duckdb.connect() as db:
        for name in ("orders", "tickets", "ticket_events"):
            file = orders if name == "orders" else tmp_path / "drop" / "tickets" / f"{name}.csv"
            db.execute(f"CREATE TABLE {name} AS FROM '{file}'")
        tickets, early, strangers = db.sql(
            "SELECT count(*), count(*) FILTER (created_at < ordered_at + INTERVAL 1 HOUR),"
            " count(*) FILTER (tickets.customer_id <> orders.customer_id) FROM tickets INNER JOIN orders USING (order_id)"
        ).fetchall()[0]
        assert tickets == pytest.approx(200, abs=40) and not early and not strangers
        assert db.sql(
            "SELECT max(occurred_at) <= (SELECT max(ordered_at) FROM orders) FROM ticket_events"
        ).fetchall() == [(True,)]
        assert db.sql("SELECT max(updated_at) <= (SELECT max(ordered_at) FROM orders) FROM tickets").fetchall() == [
            (True,)
        ]
        assert db.sql("SELECT count(DISTINCT ticket_id) FROM ticket_events").fetchall() == [(tickets,)]


@pytest.mark.slow
def test_the_warehouse_holds_what_the_manifest_says(homes: Path, tmp_path: Path, dirty: Loaded) -> None:
    """With every fault planted: rejects, duplicates, what waits, what counts; and the marts equal the definitions."""
    manifest, home = dirty.manifest, homes / "generated"
    try:
        with Warehouse(home, tmp_path) as warehouse:
            pipeline.init()
            pipeline.refresh(manifest.path)
            rejects: dict[str, dict[str, dict[str, int]]] = {}
            for table, column, reason, rows in warehouse.read(
                "SELECT table_name, column_name, reason, COUNT(*) FROM landing.rejects GROUP BY 1, 2, 3", "loader"
            ):
                rejects.setdefault(table, {}).setdefault(column, {})[reason] = rows
            assert rejects == manifest.rejects
            duplicates = "SELECT table_name, SUM(rows_duplicate)::INT FROM landing.files GROUP BY 1 HAVING SUM(rows_duplicate) > 0"
            assert dict(warehouse.read(duplicates, "loader")) == manifest.duplicates
            for table, rows in manifest.records.items():
                assert warehouse.read(f"SELECT COUNT(*) FROM staging.{table}") == [(rows,)], table
            for fact, child in (("fct_order_items", "order_items"), ("fct_refunds", "refunds")):
                arrived = manifest.records[child] - manifest.waiting[child]
                assert warehouse.read(f"SELECT COUNT(*) FROM marts.{fact}") == [(arrived,)], fact
            sold = warehouse.read(
                "SELECT currency, COUNT(*), SUM(gross_amount), SUM(net_amount) FROM marts.fct_orders WHERE is_counted GROUP BY 1"
            )
            assert {row[0]: row[1] for row in sold} == manifest.counted_orders
            assert {row[0]: row[2] for row in sold} == manifest.gross_revenue
            assert {row[0]: row[3] for row in sold} == manifest.net_sales
            paid_back = warehouse.read(
                "SELECT currency, SUM(amount) FROM marts.fct_refunds WHERE is_counted AND NOT order_id IS NULL GROUP BY 1"
            )
            assert dict(paid_back) == {currency: amount for currency, amount in manifest.refunds.items() if amount}
            assert warehouse.differences(tmp_path) == {}
    finally:
        Home(home).remove()


def test_amounts_are_exact(made: Loaded) -> None:
    assert all(
        isinstance(amount, Decimal) and amount.as_tuple().exponent == -2 for amount in made.manifest.net_sales.values()
    )
