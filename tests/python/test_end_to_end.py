"""The promise: after any sequence of loads, every table equals a full rebuild, and every number its definition."""

import csv
import random
import re
import shlex
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest

from scripts import bootstrap, pipeline
from scripts import server as embedded
from scripts.errors import Exit, WarehouseError
from scripts.settings import ROOT, connect, export_environment, settings, write_whole
from tests.python import oracle
from tests.python.conftest import Home, forget_caches

pytestmark = pytest.mark.slow

ZONE = "America/New_York"
STORED = ("staging", "marts", "marts_pii", "ml")
START = datetime(2026, 3, 6, tzinfo=UTC)  # the clocks change in New York on the 8th

Row = dict[str, Any]


class Warehouse:
    """A warehouse of its own in this process: settings, SQLMesh context and caches point at it while it is entered.

    All have one `key` of personal data, so that they can be compared.
    """

    key = "the key of the tests"

    def __init__(self, home: Path, drops: Path, zone: str = ZONE, currency: str = "USD") -> None:
        self.home, self.drops, self.batches = Home(home), drops, 0
        self.reporting = {"REPORTING_TIMEZONE": zone, "REPORTING_CURRENCY": currency}

    def __enter__(self) -> "Warehouse":
        self.patch = pytest.MonkeyPatch()
        self.patch.setenv("WAREHOUSE_HOME", str(self.home.path))
        for name, value in self.reporting.items():
            self.patch.setenv(name, value)
        forget_caches()
        pipeline.deployed.cache_clear()
        embedded.up()
        if self.key and not settings().pii_key_file.exists():
            write_whole(settings().pii_key_file, self.key, 0o600)
        bootstrap.apply()
        export_environment()
        return self

    def __exit__(self, *_: object) -> None:
        pipeline.deployed().close()
        pipeline.deployed.cache_clear()
        self.patch.undo()
        forget_caches()

    @contextmanager
    def built(self) -> Iterator["Warehouse"]:
        """Entered, with an empty prod; removed at the end."""
        try:
            with self:
                pipeline.init()
                yield self
        finally:
            self.home.remove()

    def drop(self, **tables: list[Row]) -> Path:
        """Write one batch; rows may leave out columns."""
        self.batches += 1
        folder = self.drops / f"batch_{self.batches:03d}"
        folder.mkdir(parents=True)
        for table, rows in tables.items():
            columns = sorted({name for row in rows for name in row})
            with (folder / f"{table}.csv").open("w", newline="") as file:
                writer = csv.DictWriter(file, columns)
                writer.writeheader()
                writer.writerows(rows)
        return folder

    def read(self, query: str, login: str = "sqlmesh_user") -> oracle.Rows:
        with closing(connect(login)) as session, session.cursor() as cursor:
            cursor.execute(query)
            return cursor.fetchall()

    def differences(self, scratch: Path) -> dict[str, tuple[oracle.Rows, oracle.Rows]]:
        """Mart -> rows that are only here, rows that only the oracle has. Empty when all is right."""
        with closing(connect("sqlmesh_user")) as session:
            expected = oracle.expected(session, scratch, settings().reporting_timezone, settings().reporting_currency)
        found = {}
        for mart, (columns, rows) in expected.items():
            here = oracle.canonical(self.read(f"SELECT {', '.join(columns)} FROM {mart}"))
            if here != rows:
                found[mart] = ([row for row in here if row not in rows], [row for row in rows if row not in here])
        return found

    def report_in(self, zone: str, currency: str) -> None:
        """What an operator does for another zone and currency: set two variables, and deploy."""
        pipeline.context().close()
        self.patch.setenv("REPORTING_TIMEZONE", zone)
        self.patch.setenv("REPORTING_CURRENCY", currency)
        forget_caches()
        pipeline.deployed.cache_clear()
        export_environment()
        pipeline.apply("the zone and the currency were not changed")

    def content(self) -> dict[str, oracle.Rows]:
        """Every stored table of prod, row for row."""
        tables = self.read(
            "SELECT table_schema || '.' || table_name FROM information_schema.tables"
            f" WHERE table_schema IN {STORED} AND table_name !~ '_(changes|touches|versions)$' ORDER BY 1"
        )
        return {name: oracle.canonical(self.read(f"SELECT * FROM {name}")) for (name,) in tables}


@pytest.fixture(scope="module")
def warehouse(homes: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Warehouse]:
    with Warehouse(homes / "end_to_end", tmp_path_factory.mktemp("drops")).built() as made:
        yield made


def at(days: float) -> str:
    return (START + timedelta(days=days)).isoformat()


def order(order_id: str, days: float, **changes: Any) -> Row:
    return {
        "order_id": order_id, "customer_id": "C1", "status": "placed", "currency": "USD", "shipping_amount": 4.99,
        "ordered_at": at(days), "updated_at": at(days),
    } | changes  # fmt: skip


def line(order_id: str, number: int, gross: float, days: float, **changes: Any) -> Row:
    return {
        "order_id": order_id, "line_number": number, "product_id": "P1", "quantity": 2, "gross_amount": gross,
        "discount_amount": 0, "tax_amount": 0.7, "updated_at": at(days),
    } | changes  # fmt: skip


def refund(refund_id: str, order_id: str | None, amount: float, days: float, **changes: Any) -> Row:
    return {
        "refund_id": refund_id, "order_id": order_id, "amount": amount, "refunded_at": at(days), "updated_at": at(days),
    } | changes  # fmt: skip


def test_an_empty_warehouse_is_right(warehouse: Warehouse, tmp_path: Path) -> None:
    assert warehouse.differences(tmp_path) == {}
    assert warehouse.read("SELECT * FROM marts.daily_revenue") == []


def test_first_load_and_corrections_by_hand(
    warehouse: Warehouse, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Load, run, correct, run again: the numbers of a few orders, worked out on paper."""
    warehouse.drop(
        customers=[{"customer_id": "C1", "country_code": "us", "created_at": at(-9), "updated_at": at(-9)}],
        products=[{"product_id": "P1", "product_name": "Tea", "updated_at": at(-9)}],
        # B is ordered at 04:30 UTC on the 8th: the evening of the 7th in New York. G is a guest's.
        orders=[order("A", 0.5), order("B", 2.1875), order("G", 2.5, customer_id=""), order("X", 2.5, status="cancelled")],
        order_items=[
            line("A", 1, 19.99, 0.5, discount_amount=4.5), line("A", 2, 7, 0.5), line("B", 1, 7, 2.1875),
            line("G", 1, 3, 2.5), line("X", 1, 500, 2.5), line("LATE", 1, 11, 0.5),
        ],
        refunds=[refund("R1", "A", 7, 2.5), refund("R2", "LATE", 2, 2.5), refund("R3", None, 1, 2.5, customer_id="C1")],
    )  # fmt: skip
    pipeline.refresh(warehouse.drops)
    assert "waiting: 1 line(s) and 1 refund(s) of 1 order(s) that have not arrived" in capsys.readouterr().out
    assert warehouse.differences(tmp_path) == {}
    days = "SELECT order_date::TEXT, orders, customers, net_sales, refunds, net_revenue FROM marts.daily_revenue ORDER BY 1"
    # 19.99 - 4.50 + 7 on the 6th; 7 on the 7th; 3 of the guest on the 8th, which pays back 7 + 1 (R2 waits for LATE)
    assert [tuple(map(str, row)) for row in warehouse.read(days, "analyst")] == [
        ("2026-03-06", "1", "1", "22.4900", "0.0000", "22.4900"),
        ("2026-03-07", "1", "1", "7.0000", "0.0000", "7.0000"),
        ("2026-03-08", "1", "0", "3.0000", "8.0000", "-5.0000"),
    ]
    warehouse.drop(
        # B moves to the 10th; LATE arrives, in euros, after its line and its refund; A's second line is gone
        orders=[order("B", 4.5, updated_at=at(5)), order("LATE", 0.5, currency="EUR", customer_id="C7")],
        order_items=[line("A", 2, 7, 0.6, _deleted="true")],
    )
    pipeline.refresh(warehouse.drops)
    assert "waiting" not in capsys.readouterr().out.replace("marts.waiting_records", "")
    assert warehouse.differences(tmp_path) == {}
    rate = oracle.rate("EUR", "USD", (START + timedelta(days=0.5)).date())
    assert rate is not None
    net_sales, orders = warehouse.read(
        "SELECT net_sales, orders FROM marts.daily_revenue WHERE order_date = '2026-03-06'"
    )[0]
    assert (net_sales, orders) == (round(rate * 11, 4) + 22_49 * rate / rate / 100 - 7, 2)
    assert warehouse.read("SELECT is_known FROM marts.dim_customers WHERE customer_id = 'C7'") == [(False,)]


def test_the_same_files_again_change_nothing(warehouse: Warehouse, capsys: pytest.CaptureFixture[str]) -> None:
    before = warehouse.content()
    pipeline.refresh(warehouse.drops)
    assert "nothing was loaded since the last run" in capsys.readouterr().out
    assert warehouse.content() == before


def test_rows_that_come_out_the_same_are_not_written_again(warehouse: Warehouse, tmp_path: Path) -> None:
    """A new order of a customer recomputes all days of theirs, and writes one."""
    name = "SELECT MAX(oid)::REGCLASS FROM pg_class WHERE relname ~ '^customer_metrics__[0-9]+$'"
    [(table,)] = warehouse.read(name)
    places = f"SELECT order_date::TEXT, ctid::TEXT, xmin::TEXT FROM {table} WHERE customer_id = 'C1'"
    before = set(warehouse.read(places))
    warehouse.drop(orders=[order("D", 4.6)], order_items=[line("D", 1, 3, 4.6)])
    pipeline.refresh(warehouse.drops)
    after = set(warehouse.read(places))
    assert {day for day, *_ in before - after} == {day for day, *_ in after - before} == {"2026-03-10"}
    assert len(before & after) == 2
    assert warehouse.differences(tmp_path) == {}


class Shop:
    """Random changes to a small shop: few keys, so that they meet often."""

    def __init__(self, seed: int) -> None:
        self.random, self.clock = random.Random(seed), 10.0

    def batch(self) -> dict[str, list[Row]]:
        """Some records of each kind: new, changed, moved, stale, doubled, deleted, before their parents, in any order."""
        pick = self.random
        self.clock += 1
        tables: dict[str, list[Row]] = {
            "customers": [self._customer() for _ in range(pick.randrange(3))],
            "products": [self._product() for _ in range(pick.randrange(3))],
            "orders": [self._order() for _ in range(pick.randrange(5))],
            "order_items": [self._line() for _ in range(pick.randrange(6))],
            "refunds": [self._refund() for _ in range(pick.randrange(4))],
            "tickets": [self._ticket() for _ in range(pick.randrange(2))],
            "ticket_events": [self._event() for _ in range(pick.randrange(2))],
        }
        for rows in tables.values():
            rows += [dict(pick.choice(rows)) for _ in range(pick.randrange(2)) if rows]
            pick.shuffle(rows)
        return {name: rows for name, rows in tables.items() if rows}

    def _stamp(self) -> Row:
        """The version's clock, sometimes of long ago, and whether the record is gone."""
        age = self.random.choice([0, 0, 0, 0.5, 7])
        return {"updated_at": at(self.clock - age), "_deleted": self.random.random() < 0.12}

    def _key(self, letter: str, most: int = 8) -> str:
        return f"{letter}{self.random.randrange(most)}"

    def _money(self, most: int = 900) -> str:
        return f"{self.random.randrange(most) / 7:.4f}"

    def _customer(self) -> Row:
        customer, country = self._key("C"), self.random.choice(["US", "DE", ""])
        address = f" {customer}@{country}.Example.com " if country else ""
        return {
            "customer_id": customer,
            "country_code": country,
            "email": address,
            "full_name": customer,
        } | self._stamp()

    def _product(self) -> Row:
        return {"product_id": self._key("P"), "product_name": self._key("tea ")} | self._stamp()

    def _order(self) -> Row:
        return self._stamp() | {
            "order_id": self._key("O"),
            "customer_id": self.random.choice(["", self._key("C"), self._key("C")]),
            "status": self.random.choice(["placed", "shipped", "delivered", "cancelled"]),
            "currency": self.random.choice(["USD", "EUR", "JPY"]),
            "ordered_at": at(self.random.random() * 70),
        }

    def _line(self) -> Row:
        gross = self.random.randrange(900)
        return self._stamp() | {
            "order_id": self._key("O"),
            "line_number": self.random.randrange(1, 4),
            "product_id": self._key("P"),
            "quantity": self.random.randrange(1, 9),
            "gross_amount": gross,
            "discount_amount": self.random.choice(["", 0, gross / 4]),
            "tax_amount": self.random.choice(["", 0.07]),
        }

    def _refund(self) -> Row:
        return self._stamp() | {
            "refund_id": self._key("R", 6),
            "order_id": self.random.choice(["", self._key("O"), self._key("O")]),
            "line_number": self.random.choice(["", 1]),
            "customer_id": self.random.choice(["", self._key("C")]),
            "product_id": self.random.choice(["", self._key("P")]),
            "amount": self._money(),
            "refunded_at": at(self.random.random() * 90),
        }

    def _ticket(self) -> Row:
        return self._stamp() | {
            "ticket_id": self._key("T", 4), "customer_id": self.random.choice(["", self._key("C", 12)]),
            "status": "open", "created_at": at(1),
        }  # fmt: skip

    def _event(self) -> Row:
        return {
            "event_id": self._key("E", 4), "ticket_id": self._key("T", 4), "event_type": "created",
            "occurred_at": at(self.random.random() * 95), "_deleted": self.random.random() < 0.12,
        }  # fmt: skip


@pytest.mark.parametrize("seed", range(6))
def test_random_changes_leave_every_number_right(warehouse: Warehouse, tmp_path: Path, seed: int) -> None:
    shop = Shop(seed)
    for _ in range(3):  # several loads, one run: an outage of the runner
        warehouse.drop(**shop.batch())
    pipeline.refresh(warehouse.drops)
    assert warehouse.differences(tmp_path) == {}


def test_the_definitions_cover_every_column(warehouse: Warehouse, tmp_path: Path) -> None:
    """No number, date, flag or text of a mart goes without a second opinion."""
    with closing(connect("sqlmesh_user")) as session:
        expected = oracle.expected(session, tmp_path, ZONE, "USD")
    columns = warehouse.read(
        "SELECT table_schema || '.' || table_name, column_name FROM information_schema.columns"
        " WHERE table_schema IN ('marts', 'marts_pii', 'ml')"
    )
    assert {(mart, name) for mart, (names, _) in expected.items() for name in names} == set(columns)


def test_numbers_are_right_in_any_zone_and_currency(warehouse: Warehouse, tmp_path: Path) -> None:
    """Two variables, and no model, decide: for what is there already, for what is loaded then, and on the way back."""
    warehouse.report_in("Australia/Lord_Howe", "EUR")  # its clocks go back on 5 April, at 15:00 UTC, by half an hour
    try:
        assert warehouse.differences(tmp_path) == {}
        warehouse.drop(
            orders=[order(f"H{n}", 29.5 + n / 24, updated_at=at(90), currency="GBP") for n in range(48)],
            order_items=[line(f"H{n}", 1, 7.77, 29.5) for n in range(48)],
            refunds=[refund(f"RH{n}", f"H{n}", 1.11, 30 + n / 12) for n in range(24)],
        )
        pipeline.refresh(warehouse.drops)
        assert warehouse.differences(tmp_path) == {}
    finally:
        warehouse.report_in(ZONE, "USD")
    assert warehouse.differences(tmp_path) == {}


def test_a_load_during_a_run_waits_for_the_next(warehouse: Warehouse, tmp_path: Path) -> None:
    """Half of a move between days must not show: what lands while a run is at work is not in it."""
    warehouse.drop(orders=[order("A", 0.5, updated_at=at(200))])
    pipeline.load(warehouse.drops)
    moved = warehouse.drop(orders=[order("A", 60.5, updated_at=at(210)), order("MEANWHILE", 61.5)])
    loader = threading.Thread(target=_load_when_running, args=(moved,))
    loader.start()
    pipeline.run_missing()
    loader.join(60)
    assert "MEANWHILE" not in str(warehouse.content()["staging.orders"])
    assert warehouse.read("SELECT order_date::TEXT FROM marts.fct_orders WHERE order_id = 'A'") == [("2026-03-06",)]
    pipeline.run_missing()
    assert "MEANWHILE" in str(warehouse.content()["staging.orders"])
    assert warehouse.differences(tmp_path) == {}


def _load_when_running(folder: Path) -> None:
    """Load `folder` in another process as soon as the run lock is taken."""
    with closing(connect("sqlmesh_user")) as session, session.cursor() as cursor:
        session.autocommit = True
        for _ in range(400):
            cursor.execute("SELECT FROM pg_locks WHERE locktype = 'advisory' AND classid = 7274 AND objid = 1")
            if cursor.rowcount:
                break
            time.sleep(0.01)
    subprocess.run([sys.executable, "-m", "scripts", "load", str(folder)], cwd=ROOT, check=True, capture_output=True)


def test_a_second_run_at_the_same_time_is_refused(warehouse: Warehouse) -> None:
    before = warehouse.content()
    warehouse.drop(orders=[order("TWICE", 33)])
    pipeline.load(warehouse.drops)
    with closing(connect("sqlmesh_user", application_name="the other run")) as other, other.cursor() as cursor:
        cursor.execute("SELECT ops.acquire_run_lock(CLOCK_TIMESTAMP())")
        with pytest.raises(
            WarehouseError, match="another sqlmesh plan or run is at work: pid .* the other run"
        ) as refusal:
            pipeline.run_missing()
        assert refusal.value.code == Exit.LOCKED
        plain = subprocess.run(
            [Path(sys.executable).with_name("sqlmesh"), "run", "prod", "--ignore-cron"],
            cwd=ROOT, text=True, capture_output=True, check=False,
        )  # fmt: skip
        assert plain.returncode == 1
        assert "another sqlmesh plan or run is at work" in plain.stdout + plain.stderr
        assert warehouse.content() == before
    pipeline.run_missing()
    assert len(warehouse.content()["staging.orders"]) == len(before["staging.orders"]) + 1


def test_a_missing_rate_is_no_silent_one(warehouse: Warehouse, tmp_path: Path) -> None:
    """The run says which check failed, marts stay as they were, and the correction makes all well."""
    before = warehouse.content()
    warehouse.drop(orders=[order("STRANGE", 30, currency="XXX"), order("GONE", 30, currency="XXX", status="cancelled")])
    with pytest.raises(WarehouseError, match="did not pass their checks") as failure:
        pipeline.refresh(warehouse.drops)
    assert failure.value.code == Exit.DATA_QUALITY
    assert "staging.orders: currency_has_rate found 1 row(s), such as" in failure.value.hint
    assert (
        "order_id STRANGE, currency XXX, order_date 2026-04-04\n  A returned row has a currency" in failure.value.hint
    )
    after = warehouse.content()
    assert {name: rows for name, rows in after.items() if name[:5] == "marts"} == {
        name: rows for name, rows in before.items() if name[:5] == "marts"
    }
    fresh: dict[Any, Any] = dict(warehouse.read("SELECT model, fresh_to FROM meta.freshness", "analyst"))
    assert fresh["marts.fct_orders"] < fresh["marts.dim_product_history"]  # of which no check failed
    warehouse.drop(orders=[order("STRANGE", 30, currency="CHF", updated_at=at(200))])
    pipeline.refresh(warehouse.drops)
    assert warehouse.differences(tmp_path) == {}
    assert len({moment for (moment,) in warehouse.read("SELECT fresh_to FROM meta.freshness", "analyst")}) == 1
    assert warehouse.read("SELECT currency FROM marts.fct_orders WHERE order_id IN ('STRANGE', 'GONE') ORDER BY 1") == [
        ("CHF",),
        ("XXX",),
    ]


# Audit -> a model that has it, and how to make its claim untrue in the table {t}.
FAULTS = {
    "backlog_reconciles": ("marts.ticket_backlog", "UPDATE {t} SET open_tickets = open_tickets + 1"),
    "currency_has_rate": ("staging.orders", "UPDATE {t} SET exchange_rate = NULL"),
    "customers_reconcile": ("marts.new_vs_returning", "UPDATE {t} SET new_customers = new_customers + 1"),
    "foreign_key_holds": ("marts.fct_orders", "UPDATE {t} SET customer_id = 'NOBODY'"),
    "grain_is_unique": ("marts.fct_orders", "DROP INDEX {unique}"),
    "history_is_gapless": (
        "marts.dim_customer_history",
        "UPDATE {t} SET valid_to = valid_from + INTERVAL '1 s' WHERE is_current",
    ),
    "no_facts_lost": ("marts.fct_order_items", "DELETE FROM {t} WHERE ctid = (SELECT MIN(ctid) FROM {t})"),
    "no_rows_lost": ("staging.order_items", "DELETE FROM {t} WHERE ctid = (SELECT MIN(ctid) FROM {t})"),
    "rates_are_recent": (
        "staging.orders",
        "UPDATE {t} SET currency = 'CHF', ordered_at = '2099-01-01', order_date = '2099-01-01' WHERE is_counted",
    ),
    "retention_consistency": ("marts.cohort_retention", "UPDATE {t} SET customers = cohort_size + 1"),
    "revenue_consistency": ("marts.fct_orders", "UPDATE {t} SET gross_revenue = -1"),
    "revenue_reconciles": ("marts.daily_revenue", "UPDATE {t} SET refunds = refunds + 0.01"),
    "tickets_reconcile": ("marts.support_daily", "UPDATE {t} SET tickets_created = tickets_created + 1"),
    "revenue_spike": (
        "marts.daily_revenue",
        "INSERT INTO {t} (order_date, gross_revenue)"
        " SELECT DATE '2030-01-01' + n, CASE WHEN n < 9 THEN 900000 ELSE 0 END FROM GENERATE_SERIES(0, 400) AS n",
    ),
}


OTHER_FAULTS = [
    ("no_facts_lost", ("marts.fct_order_items", "INSERT INTO {t} (order_id, line_number) VALUES ('NOBODY', 7)")),
]
"""Of audits that claim two things."""


def test_every_audit_has_a_planted_fault() -> None:
    assert {path.stem for path in (ROOT / "audits").glob("*.sql")} == set(FAULTS)


@pytest.mark.parametrize(("audit", "planted"), [*FAULTS.items(), *OTHER_FAULTS])
def test_audits_find_what_they_claim_to(warehouse: Warehouse, audit: str, planted: tuple[str, str]) -> None:
    """More rows with the fault than before, and as many as before when the rows are back."""
    name, fault = planted
    schema, plain = pipeline.context().table_name(name, "prod").replace('"', "").split(".")[-2:]
    table = f"{schema}.{plain}"

    def found() -> int:
        state = pipeline.context().state_reader
        environment = state.get_environment("prod")
        assert environment
        snapshots = {s.name: s for s in state.get_snapshots(environment.snapshots).values()}
        snapshot = next(s for s in snapshots.values() if s.name == pipeline.context().get_model(name, True).fqn)
        results = pipeline.context().snapshot_evaluator.audit(
            snapshot, snapshots=snapshots, start=START, end=datetime.now(UTC), execution_time=datetime.now(UTC)
        )
        return sum(result.count or 0 for result in results if result.audit.name == audit)

    with closing(connect("postgres", "warehouse")) as admin, admin.cursor() as cursor:
        admin.autocommit = True
        cursor.execute(
            "SELECT schemaname || '.' || indexname, indexdef FROM pg_indexes"
            " WHERE schemaname = %s AND tablename = %s AND indexdef LIKE 'CREATE UNIQUE%%'",
            [schema, plain],
        )
        index, definition = cursor.fetchall()[0]
        cursor.execute(f"CREATE TEMP TABLE kept AS SELECT * FROM {table}")
        before = found()
        cursor.execute(fault.format(t=table, unique=index))
        assert found() > before
        cursor.execute(f"TRUNCATE {table}; INSERT INTO {table} SELECT * FROM kept")
        cursor.execute(definition.replace("CREATE UNIQUE INDEX", "CREATE UNIQUE INDEX IF NOT EXISTS"))
        assert found() == before


def test_incremental_equals_a_full_rebuild(warehouse: Warehouse, homes: Path) -> None:
    """The same batches, loaded in the same order into a new warehouse and built once, give the same tables."""
    incremental = warehouse.content()
    assert all(incremental[f"marts.{name}"] for name in ("fct_orders", "fct_refunds", "daily_revenue", "dim_products"))
    rebuilt = Warehouse(homes / "rebuilt", warehouse.drops)
    try:
        with rebuilt:
            pipeline.load(rebuilt.drops)
            pipeline.deploy()
            assert rebuilt.content() == incremental
    finally:
        rebuilt.home.remove()


def test_a_server_that_is_down_is_told(new_home: Callable[[str], Home]) -> None:
    """No trace: what happened, and what to do."""
    home = new_home("down")
    home.run("up")
    home.bootstrap()
    home.run("down")
    for command in (["refresh"], ["deploy"], ["load", "seeds"]):
        assert "run `make up`" in home.run(*command, code=Exit.SERVICE_DOWN)


def test_the_commands_of_the_readme(warehouse: Warehouse) -> None:
    """The shell of the README's pages for engineers and analysts, in one go, as they would type it."""
    example = re.findall(r"```sql\n(.*?)```", (ROOT / "README.md").read_text(), re.DOTALL)[0]
    script = f"""
        set -e
        eval "$({sys.executable} -m scripts env)"
        sqlmesh environments
        psql --username analyst warehouse --no-psqlrc --tuples-only --command {shlex.quote(example)}
        psql --username analyst warehouse --no-psqlrc --command '\\d+ marts.daily_revenue'
    """
    environment = warehouse.home.environment(REPORTING_TIMEZONE=ZONE)
    done = subprocess.run(
        ["bash", "-c", script], cwd=ROOT, env=environment, text=True, capture_output=True, check=False
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert "prod" in done.stdout
    assert "2026-03-01" in done.stdout
    assert "Distinct customers with a counted order; guests are not customers." in done.stdout


def test_a_deployment_that_died_is_finished(warehouse: Warehouse, capsys: pytest.CaptureFixture[str]) -> None:
    """SQLMesh alone would wait for six hours; the next refresh finishes what was begun, as the same code is here."""
    with closing(connect("sqlmesh_state_user")) as state, state.cursor() as cursor:
        cursor.execute("UPDATE sqlmesh._environments SET finalized_ts = NULL WHERE name = 'prod'")
        state.commit()
    pipeline.deployed.cache_clear()
    pipeline.refresh()
    assert "a deployment of prod did not finish" in capsys.readouterr().out
    pipeline.refresh()
    assert "nothing was loaded since the last run" in capsys.readouterr().out


def test_analysts_views_survive_a_promotion(warehouse: Warehouse) -> None:
    """A changed model is promoted by a plan; the view that somebody built on it is still there, and reads the new rows."""
    model = pipeline.context().get_model("marts.daily_revenue", raise_if_missing=True)
    with closing(connect("postgres", "warehouse")) as admin, admin.cursor() as cursor:
        cursor.execute("CREATE SCHEMA own; GRANT USAGE, CREATE ON SCHEMA own TO analyst")
        cursor.execute(
            "SET ROLE analyst; CREATE VIEW own.best AS SELECT MAX(net_sales) AS best FROM marts.daily_revenue"
        )
        admin.commit()
    pipeline.context().upsert_model(model, description=f"{model.description} Changed.")
    pipeline.deploy()
    assert warehouse.read("SELECT OBJ_DESCRIPTION('marts.daily_revenue'::REGCLASS)")[0][0].endswith("Changed.")
    said = warehouse.read("SELECT description FROM meta.models WHERE model = 'marts.daily_revenue'", "analyst")
    assert said[0][0].endswith("Changed.")
    with closing(connect("analyst")) as session, session.cursor() as cursor:
        cursor.execute("SELECT best FROM own.best")
        assert cursor.fetchall() == warehouse.read("SELECT MAX(net_sales) FROM marts.daily_revenue")
