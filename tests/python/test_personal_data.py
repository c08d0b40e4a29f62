"""Personal data: what is planted shows nowhere but where it may, hashes are HMAC, and who is forgotten is gone for good."""

import csv
import gzip
import hashlib
import hmac
import io
import re
import time
from collections.abc import Iterator
from contextlib import closing, suppress
from pathlib import Path
from typing import Any

import duckdb
import psycopg2
import pytest
from psycopg2 import errors

from macros.keyed_hash import FORMULAS
from scripts import bootstrap, pipeline
from scripts.errors import Exit, WarehouseError
from scripts.forget import forget
from scripts.settings import ROOT, check_pii_key, connect, hashing_options, hmac_pads, pii_key, settings
from tests.python import oracle
from tests.python.conftest import forget_caches
from tests.python.test_end_to_end import Row, Shop, Warehouse, at, line, order, refund

pytestmark = pytest.mark.slow

PLANTED = "plantagenet"  # in every address and name below, and nowhere else
ANN, NAME = "Zq.Ann@plantagenet.example", "Zqann von Plantagenet"
ID = "zqC1"  # who will be forgotten
COLUMNS = ["customer_id", "email", "full_name", "country_code", "created_at", "updated_at"]


@pytest.fixture(scope="module")
def warehouse(homes: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Warehouse]:
    made = Warehouse(homes / "personal", tmp_path_factory.mktemp("personal"))
    made.key = ""  # `make init` makes one
    try:
        with made:
            yield made
    finally:
        made.home.remove()


def person(customer_id: str, day: float, **changes: Any) -> Row:
    return {
        "customer_id": customer_id, "email": ANN, "full_name": NAME, "country_code": "DE", "created_at": at(day),
        "updated_at": at(day),
    } | changes  # fmt: skip


def write(file: Path, rows: list[list[Any]]) -> None:
    file.parent.mkdir(exist_ok=True)
    with file.open("w", newline="") as lines:
        csv.writer(lines).writerows(rows)


def plant(warehouse: Warehouse) -> set[str]:
    """Addresses and names in good rows, in every wrong place of bad ones, and in files that are refused: their names."""
    shop = Shop(3)
    for _ in range(3):
        warehouse.drop(**shop.batch())
    warehouse.drop(
        customers=[
            person(ID, 1), person(ID, 2, email=f"  {ANN.upper()} "), person("C1", 1, email=f"{ANN.lower()} "),
            person("C2", 1, email="other@plantagenet.example"), person("C3", 1, email=" ", full_name=None),
        ],
        orders=[
            order("A", 0.5, customer_id=ID), order("B", 3, customer_id=ID), order("B", 3, customer_id="C2"),
            order("C", 4, customer_id="C2"), order("C", 4.5, customer_id=ID), order("D", 33, customer_id=ID),
        ],
        order_items=[line(name, 1, 700, 1) for name in "ABCD"],
        refunds=[refund("RA", "A", 7, 8, customer_id=ID), refund("RN", None, 7, 8, customer_id=ID)],
        tickets=[{"ticket_id": "TA", "customer_id": ID, "order_id": "A", "status": "open", "created_at": at(1), "updated_at": at(1)}],
        ticket_events=[
            {"event_id": "EA", "ticket_id": "TA", "event_type": "created", "actor_type": "Customer", "actor_id": ID, "occurred_at": at(1)},
            {"event_id": "EB", "ticket_id": "TA", "event_type": "agent_reply", "actor_type": "agent", "actor_id": ID, "occurred_at": at(2)},
        ],
    )  # fmt: skip
    drops = warehouse.drops
    good = list(person("C4", 1).values())
    bad = [
        good[:5],  # too few values, too many, and shifted by one
        [*good, NAME],
        ["C4", *good[2:], ANN],
        ["C4", *good[:5]],
        ["", *good[1:]],
        [*good[:4], NAME, good[5]],
        [*good[:5], ANN],
        [*good[:3], "D E", "2011-02-30T00:00:00Z", good[5]],
        [*good[:4], "2011-02-30T00:00:00Z", good[5]],
    ]
    write(drops / "m_bad" / "customers.csv", [COLUMNS, *[[f"C5{n}", *good[1:]] for n in range(12)], *bad])
    with (drops / "m_bad" / "customers.csv").open("ab") as file:
        file.write(
            b'C6,"a"plantagenet,\xff,DE,,2026-03-01\nC7,\xffplantagenet@plantagenet.example,Plantagenet,DE,,2026-03-01\n'
        )
    duckdb.sql(
        f"SELECT 'C8' || n AS customer_id, '{ANN}' AS email, '{NAME}' AS full_name, IF(n = 7, '{NAME}', 'DE') AS country_code,"
        f" IF(n = 8, '{ANN}', '2026-03-01') AS created_at, '2026-03-02' AS updated_at FROM range(9) AS t (n)"
    ).write_parquet(str(drops / "n.parquet"))
    (drops / "n").mkdir()
    (drops / "n.parquet").rename(drops / "n" / "customers.parquet")
    # a shifted row brings an address into a table that has none
    orders = [["order_id", "status", "currency", "ordered_at", "updated_at", "customer_email"]]
    orders += [[f"X{n}", "placed", "USD", at(1), at(1), ANN] for n in range(3)]
    write(drops / "o" / "orders.csv", [*orders, ["X9", ANN, "placed", "USD", at(1), at(1)], ["X8", "placed", ANN]])
    write(drops / "r_header" / "customers.csv", [good, good])
    write(drops / "r_table" / "orders.csv", [good, good])
    write(drops / "r_share" / "customers.csv", [COLUMNS, *[[*good[:3], NAME, *good[4:]]] * 9])
    write(drops / "r_twice" / "customers.csv", [[NAME, NAME, "customer_id"]])
    write(drops / "r_quote" / "customers.csv", [COLUMNS, good])
    with (drops / "r_quote" / "customers.csv").open("a") as file:
        file.write(f'C9,"{ANN},{NAME}\n')
    (drops / "r_parquet").mkdir()
    (drops / "r_parquet" / "customers.parquet").write_text(f"PAR1{ANN}{NAME}")
    (drops / "r_gzip").mkdir()
    (drops / "r_gzip" / "customers.csv.gz").write_bytes(gzip.compress((ANN * 9999).encode())[:60])
    (drops / "r_nul").mkdir()
    (drops / "r_nul" / "customers.csv").write_text(f"{','.join(COLUMNS)}\nC,{ANN},\0\n")
    return {folder.name for folder in drops.glob("r_*")}


@pytest.fixture(scope="module")
def said(warehouse: Warehouse) -> str:
    """All that commands print while planted data are loaded and built, one of them failing."""
    from _pytest.capture import MultiCapture, SysCapture

    refused = plant(warehouse)
    capture: Any = MultiCapture(in_=None, out=SysCapture(1), err=SysCapture(2))
    capture.start_capturing()
    try:
        with pytest.raises(WarehouseError) as refusal:
            pipeline.load(warehouse.drops)
        pipeline.deploy()
    finally:
        out, err = capture.readouterr()
        capture.stop_capturing()
    found = {path.split("/")[0] for path in re.findall(r"refused: (\S+)", err)}
    assert found == refused
    return f"{out}{err}{refusal.value}"


def everything(warehouse: Warehouse, where: str = "TRUE") -> dict[str, list[str]]:
    """Table -> its rows as text, of every table and view of the databases, for the administrator."""
    found = {}
    for database in ("warehouse", "sqlmesh_state"):
        with closing(warehouse.home.connect("postgres", database)) as session, session.cursor() as cursor:
            cursor.execute(
                "SELECT FORMAT('%I.%I', nspname, relname) FROM pg_class JOIN pg_namespace ON pg_namespace.oid = relnamespace"
                " WHERE relkind IN ('r', 'v', 'm') AND nspname NOT IN ('pg_catalog', 'information_schema', 'pg_toast')"
                f" AND {where}"
            )
            for (name,) in cursor.fetchall():
                cursor.execute(f"SELECT t::TEXT FROM {name} AS t")
                found[f"{database}.{name}"] = [row[0] for row in cursor.fetchall()]
    return found


def holding(text: str, tables: dict[str, list[str]]) -> set[str]:
    return {name for name, rows in tables.items() if any(text.lower() in row.lower() for row in rows)}


def files_since(moment: float) -> str:
    """What was written to logs/ and to the cache of SQLMesh since."""
    paths = [path for folder in ("logs", ".cache") for path in (ROOT / folder).rglob("*") if path.is_file()]
    return "".join(path.read_bytes().decode(errors="replace") for path in paths if path.stat().st_mtime >= moment)


STARTED = time.time()


def test_planted_data_show_where_they_may_and_nowhere_else(warehouse: Warehouse, said: str) -> None:
    may = holding(PLANTED, everything(warehouse))
    assert {re.sub(r"__\d+$", "", name.removeprefix("warehouse.")) for name in may} == {
        "landing.customers", "raw.customers", "analytics_raw.customers", "staging.customers", "analytics_staging.customers",
        "marts_pii.customers", "analytics_marts_pii.customers",
    }  # fmt: skip
    assert PLANTED not in said.lower()
    assert PLANTED not in server_log(warehouse).lower()
    assert PLANTED not in files_since(STARTED).lower()
    assert "refused: r_share/customers.csv: 9 of 9 rows rejected" in said


def test_rejects_keep_what_tells_nobody(warehouse: Warehouse, said: str) -> None:
    rejects = warehouse.read("SELECT source_file, value FROM landing.rejects WHERE NOT value IS NULL", "loader")
    of_customers = [value for file, value in rejects if "customers" in file]
    assert of_customers.count("(withheld)") == 9
    assert set(of_customers) == {"(withheld)", "2011-02-30T00:00:00Z", at(1)}  # the last shifted into country_code
    assert [value for file, value in rejects if file == "o/orders.csv"] == ["(withheld)"] * 2


def test_an_error_of_the_server_quotes_no_row_in_its_log(warehouse: Warehouse, said: str) -> None:
    """PostgreSQL adds the row that a table refuses to the message, and the line of COPY: for the client alone."""
    with closing(connect("loader")) as session, session.cursor() as cursor:
        with pytest.raises(errors.CheckViolation, match=ANN):
            cursor.execute(
                "INSERT INTO landing.customers (customer_id, email, updated_at, _batch_id)"
                " SELECT 'C9', email, 'infinity', 1 FROM landing.customers WHERE email LIKE 'Zq%'"
            )
        session.rollback()
        lines = io.StringIO(f"C9\t{ANN}\t2026-03-01\t1\tmore\n")
        with pytest.raises(errors.BadCopyFileFormat, match=ANN):
            cursor.copy_expert("COPY landing.customers (customer_id, email, updated_at, _batch_id) FROM STDIN", lines)
    log = server_log(warehouse)
    assert "customers_contract" in log
    assert "extra data after last expected column" in log
    assert PLANTED not in log.lower()


def server_log(warehouse: Warehouse) -> str:
    return (warehouse.home.path / "server.log").read_text()


# Hashes ---------------------------------------------------------------------------------------------------------------


def test_hashes_are_hmac_and_join(warehouse: Warehouse, said: str) -> None:
    key = (warehouse.home.path / "pii.key").read_text().strip()
    expected = hmac.new(key.encode(), ANN.lower().encode(), hashlib.sha256).hexdigest()
    hashes: dict[str, str] = dict(warehouse.read("SELECT customer_id, email_hash FROM marts.dim_customers"))
    assert hashes[ID] == hashes["C1"] == expected
    assert hashes["C2"] not in (None, expected)
    assert hashes["C3"] is None
    assert warehouse.read(
        "SELECT DISTINCT LOWER(TRIM(email)) FROM marts.dim_customers INNER JOIN marts_pii.customers USING (email_hash)"
        f" WHERE dim_customers.customer_id = '{ID}'"
    ) == [(ANN.lower(),)]


@pytest.mark.parametrize("key", [b"k", b"sample key", b"x" * 64, b"x" * 65, "gerührt".encode()])
def test_the_function_and_its_twin_on_duckdb_agree_with_python(
    warehouse: Warehouse, key: bytes, monkeypatch: pytest.MonkeyPatch
) -> None:
    texts = ["", "a", "ann@example.com", "Grüße😀", "x" * 300, "it's \\ 'quoted'\t"]
    monkeypatch.setattr("scripts.settings.pii_key", lambda: key)
    pads = hmac_pads()
    assert pads
    formula = FORMULAS["duckdb"].replace(":text", "t").format(inner=f"'{pads[0]}'", outer=f"'{pads[1]}'")
    with closing(connect("sqlmesh_user")) as session, session.cursor() as cursor:
        for text in texts:
            cursor.execute("SELECT ops.keyed_hash(%s)", [text])
            expected = hmac.new(key, text.encode(), hashlib.sha256).hexdigest()
            assert cursor.fetchone() == (expected,)
            assert duckdb.execute(f"SELECT {formula} FROM (SELECT ? AS t)", [text]).fetchone() == (expected,)


def test_who_may_read_personal_data_and_hash_them(warehouse: Warehouse, said: str) -> None:
    queries = {
        "SELECT COUNT(*) FROM marts_pii.customers": {"analyst_pii", "sqlmesh_user"},
        "SELECT COUNT(*) FROM marts.dim_customers": {"analyst_pii", "analyst", "sqlmesh_user"},
        "SELECT COUNT(*) FROM staging.customers": {"sqlmesh_user"},
        "SELECT COUNT(*) FROM landing.customers": {"sqlmesh_user", "loader"},
        "SELECT ops.keyed_hash('x')": {"sqlmesh_user", "loader"},
        "SELECT fingerprint FROM ops.pii_key": {"sqlmesh_user", "loader"},
        "SELECT customer_hash FROM ops.forgotten": {"loader"},
        "DELETE FROM ops.pii_key": set(),
        "DELETE FROM ops.forgotten": set(),
    }
    with closing(connect("postgres", "warehouse", options=hashing_options())) as admin, admin.cursor() as cursor:
        for query, allowed in queries.items():
            for role in ("analyst", "analyst_pii", "sqlmesh_user", "loader"):
                cursor.execute(f"SET LOCAL ROLE {role}")
                with suppress(errors.InsufficientPrivilege):
                    cursor.execute(query)
                    assert role in allowed, query
                    admin.rollback()
                    continue
                assert role not in allowed, query
                admin.rollback()


def test_the_key_is_seen_nowhere(warehouse: Warehouse, said: str) -> None:
    """Not by other sessions, not in the process list, in no log, no database, no output."""
    pads = hmac_pads()
    assert pads
    secrets = [(pii_key() or b"").decode(), *pads]
    with closing(connect("sqlmesh_user")) as holder, holder.cursor() as cursor:
        cursor.execute("SELECT ops.keyed_hash('x'), CURRENT_SETTING('warehouse.pii_inner')")
        assert cursor.fetchone()[1] == pads[0]  # type: ignore[index]
        with closing(warehouse.home.connect("postgres", "warehouse")) as admin, admin.cursor() as other:
            other.execute(
                "SELECT (SELECT STRING_AGG(s::TEXT, '') FROM pg_stat_activity AS s)"
                " || (SELECT STRING_AGG(s::TEXT, '') FROM pg_settings AS s)"
                " || (SELECT STRING_AGG(s::TEXT, '') FROM pg_stat_statements AS s)"
                " || COALESCE(CURRENT_SETTING('warehouse.pii_inner', TRUE), '')"
            )
            seen = str(other.fetchall())
        processes = ""
        for path in Path("/proc").glob("[0-9]*"):
            for name in ("cmdline", "environ"):
                with suppress(OSError):  # gone, or another's
                    processes += (path / name).read_bytes().decode(errors="replace")
    rows = "".join(row for rows in everything(warehouse).values() for row in rows)
    for secret in secrets:
        assert len(secret) >= 64
        for text in (seen, processes, rows, said, server_log(warehouse), files_since(STARTED)):
            assert secret not in text


def test_a_session_without_the_key_is_told(warehouse: Warehouse) -> None:
    with closing(warehouse.home.connect("loader")) as session, session.cursor() as cursor:
        with pytest.raises(psycopg2.Error, match="this session has no key for personal data"):
            cursor.execute("SELECT ops.keyed_hash('x')")
        with pytest.raises(WarehouseError, match="pii.key") as refusal:
            check_pii_key(cursor)
        assert refusal.value.code == Exit.MISMATCH
    assert pipeline.deployed().engine_adapter.fetchone("SELECT ops.keyed_hash('x')")


def test_another_key_is_refused(warehouse: Warehouse, said: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """By loads, by runs, by plain SQLMesh, by `make init`; nothing is changed, nothing is told of the key."""
    before = warehouse.content()
    other = "another key, just as long"
    warehouse.drop(customers=[person("C9", 7)])
    monkeypatch.setenv("PII_KEY", other)
    forget_caches()
    pipeline.deployed().engine_adapter.close()  # new sessions
    now = pipeline._server_now()
    for attempt in (
        lambda: pipeline.load(warehouse.drops),
        bootstrap.apply,
        lambda: forget(ID),
        lambda: run(now),
    ):
        with pytest.raises(
            WarehouseError, match="is not the one that this warehouse's hashes were made with"
        ) as refusal:
            attempt()
        assert refusal.value.code == Exit.MISMATCH
        assert "docs/decisions/0027" in refusal.value.hint
        assert other not in str(refusal.value)
    monkeypatch.undo()
    forget_caches()
    pipeline.deployed().engine_adapter.close()
    assert warehouse.content() == before


def run(now: Any) -> None:
    with pipeline._sqlmesh("the run did not finish"):
        pipeline.deployed().run("prod", ignore_cron=True, end=now, execution_time=now)


def test_a_key_that_is_lost_is_not_replaced(
    warehouse: Warehouse, said: str, capsys: pytest.CaptureFixture[str]
) -> None:
    file, kept = warehouse.home.path / "pii.key", warehouse.home.path / "kept"
    file.rename(kept)
    try:
        bootstrap.apply()
        assert "their key is not here" in capsys.readouterr().err
        assert not file.exists()
        with pytest.raises(WarehouseError, match="this session has no key") as refusal:
            pipeline.load(warehouse.drops)
        assert refusal.value.code == Exit.MISMATCH
        file.write_text("known to all, but long enough")
        file.chmod(0o644)
        with pytest.raises(WarehouseError, match="chmod 600"):
            connect("loader")
    finally:
        kept.rename(file)
    assert file.stat().st_mode & 0o777 == 0o600


def test_a_short_key_is_refused_and_not_shown(environment: pytest.MonkeyPatch) -> None:
    environment.setenv("PII_KEY", "short")
    with pytest.raises(WarehouseError, match="PII_KEY=...: ") as refusal:
        settings()
    assert "short" not in str(refusal.value).split("PII_KEY=...: ")[0] + refusal.value.hint
    environment.setenv("PII_KEY", "long enough to be one")
    forget_caches()
    assert "long enough" not in repr(settings())


# Who is forgotten -----------------------------------------------------------------------------------------------------


def without_customers(content: dict[str, oracle.Rows], warehouse: Warehouse) -> dict[str, oracle.Rows]:
    """The tables that name no customer: reports and totals."""
    named = warehouse.read(
        "SELECT table_schema || '.' || table_name FROM information_schema.columns"
        " WHERE column_name IN ('customer_id', 'actor_id')"
    )
    return {name: rows for name, rows in content.items() if (name,) not in named}


def test_the_forgotten_are_gone_and_every_total_stays(
    warehouse: Warehouse, said: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    before = warehouse.content()
    told = forget(ID)
    assert re.fullmatch(r"forgotten: \d+ rows in \d+ tables name a pseudonym now", told)
    after = warehouse.content()
    reports = without_customers(after, warehouse)
    assert len(reports) > 15
    assert reports == without_customers(before, warehouse)
    assert {name: len(rows) for name, rows in after.items()} == {name: len(rows) for name, rows in before.items()}
    (pseudonym,) = warehouse.read("SELECT pseudonym FROM ops.forgotten", "loader")[0]
    for name, rows in before.items():  # the very same rows, under another name
        renamed = [tuple(pseudonym if value == ID and "agent" not in row else value for value in row) for row in rows]
        if name not in ("staging.customers", "marts.dim_customers", "marts_pii.customers"):
            assert oracle.canonical(renamed) == after[name], name
    assert gone(warehouse)
    # an agent of the same id is another
    assert holding("agent,zqC1", everything(warehouse, "nspname = 'landing'"))
    assert warehouse.read(f"SELECT email, full_name, email_hash FROM marts_pii.customers WHERE customer_id = '{pseudonym}'") == [
        (None, None, None)
    ]  # fmt: skip
    assert warehouse.differences(tmp_path) == {}
    assert "already forgotten, on 20" in forget(ID)
    assert "already forgotten, on 20" in forget(pseudonym)


def gone(warehouse: Warehouse) -> bool:
    """Whether the id is in no table, and in no log, but as that of an agent."""
    found = {
        name: [row for row in rows if ID in row and f"agent,{ID}" not in row]
        for name, rows in everything(warehouse).items()
    }
    assert {name: rows for name, rows in found.items() if rows} == {}
    assert ID not in server_log(warehouse)
    with closing(warehouse.home.connect("postgres", "warehouse")) as admin, admin.cursor() as cursor:
        cursor.execute(
            "SELECT COUNT(*) FROM pg_stats WHERE attname <> 'actor_id'"
            f" AND (most_common_vals::TEXT LIKE '%{ID}%' OR histogram_bounds::TEXT LIKE '%{ID}%')"
        )
        assert cursor.fetchone() == (0,)
    return True


def test_who_came_back_past_the_loader_is_forgotten_again(warehouse: Warehouse, said: str) -> None:
    first = warehouse.read("SELECT pseudonym FROM ops.forgotten", "loader")
    with closing(connect("loader")) as session, session, session.cursor() as cursor:
        cursor.execute(
            "INSERT INTO landing.orders (order_id, customer_id, status, currency, ordered_at, updated_at, _batch_id)"
            " VALUES ('PAST', %s, 'placed', 'USD', %s, %s, 1)",
            [ID, at(3), at(3)],
        )
    assert forget(ID) == "forgotten: 1 rows in 1 tables name a pseudonym now"
    second = warehouse.read("SELECT pseudonym FROM ops.forgotten", "loader")
    assert len(second) == 1
    assert second != first
    assert warehouse.read(f"SELECT order_id FROM landing.orders WHERE customer_id = '{second[0][0]}'") == [("PAST",)]
    with closing(warehouse.home.connect("postgres", "warehouse")) as admin, admin.cursor() as cursor:
        cursor.execute("UPDATE ops.forgotten SET pseudonym = %s", first[0])  # for the next test


def test_what_arrives_later_goes_to_the_pseudonym(warehouse: Warehouse, said: str, tmp_path: Path) -> None:
    """A nightly full dump, a new version of an old order, bad rows: nothing comes back, and nothing is lost."""
    (pseudonym,) = warehouse.read("SELECT pseudonym FROM ops.forgotten", "loader")[0]
    versions = warehouse.read(f"SELECT COUNT(*) FROM landing.customers WHERE customer_id = '{pseudonym}'", "loader")
    warehouse.drop(
        customers=[person(ID, 1), person(ID, 2, email=f"  {ANN.upper()} "), person("C1", 9), person(ID, 99, country_code="FR")],
        orders=[
            order("A", 0.5, customer_id=ID, status="shipped", updated_at=at(99)), order("E", 70, customer_id=ID),
            order("F", 70, customer_id=ID, status="lost"), order("G", 70, customer_id=f"{ID} "),
        ],
        order_items=[line("E", 1, 70, 70)],
        refunds=[refund("RE", "E", 7, 71, customer_id=ID)],
        tickets=[{"ticket_id": "TB", "customer_id": ID, "status": "open", "created_at": at(70), "updated_at": at(70)}],
        ticket_events=[{"event_id": "EC", "ticket_id": "TB", "event_type": "customer_reply", "actor_type": "customer", "actor_id": ID, "occurred_at": at(71)}],
    )  # fmt: skip
    write(warehouse.drops / "y" / "orders.csv", [["order_id", "customer_id", "status"], ["H", ID, "placed"]])
    bad = [["order_id", "customer_id", "status", "currency", "ordered_at", "updated_at"], ["H", ID, "placed"]]
    bad += [[f"H{n}", "C2", "placed", "USD", at(9), at(9)] for n in range(4)]
    bad += [["H9", "placed", ID, "USD", at(9), at(9)]]
    write(warehouse.drops / "z" / "orders.csv", bad)
    with pytest.raises(WarehouseError, match="refused"):
        pipeline.refresh(warehouse.drops)
    counts = (
        f"SELECT (SELECT COUNT(*) FROM landing.customers WHERE customer_id = '{pseudonym}'),"
        f" (SELECT COUNT(*) FROM landing.orders WHERE customer_id = '{pseudonym}' AND order_id IN ('A', 'E')),"
        f" (SELECT COUNT(*) FROM landing.refunds WHERE customer_id = '{pseudonym}'),"
        f" (SELECT COUNT(*) FROM landing.tickets WHERE customer_id = '{pseudonym}')"
    )
    # the dump's two versions are there already, the third is new; A has two versions now
    assert warehouse.read(counts, "loader") == [(versions[0][0] + 1, 3, 3, 2)]
    found = {name: rows for name, rows in everything(warehouse).items() if holding(f"{ID} ", {name: rows})}
    assert found  # another customer, by a blank
    with closing(warehouse.home.connect("postgres", "warehouse")) as admin, admin.cursor() as cursor:
        for name, rows in everything(warehouse).items():
            assert not [row for row in rows if re.search(rf"\b{ID}[,)]", row) and f"agent,{ID}" not in row], name
        cursor.execute(
            "SELECT COUNT(*) FROM landing.customers WHERE customer_id = %s AND NOT email IS NULL", [pseudonym]
        )
        assert cursor.fetchone() == (0,)
    assert warehouse.differences(tmp_path) == {}


def test_who_is_unknown_or_whose_warehouse_is_at_work_is_told(warehouse: Warehouse, said: str) -> None:
    output = warehouse.home.run("forget", "--", "-zq nobody", code=Exit.INPUT_REFUSED)
    assert "no record names this customer" in output
    with closing(warehouse.home.connect("sqlmesh_user")) as session, session.cursor() as cursor:
        for lock in (1, 3):
            cursor.execute("SELECT pg_advisory_lock(7274, %s)", [lock])
            with pytest.raises(WarehouseError, match="is at work: pid") as refusal:
                forget("C2")
            assert refusal.value.code == Exit.LOCKED
            cursor.execute("SELECT pg_advisory_unlock(7274, %s)", [lock])
    assert warehouse.read("SELECT COUNT(*) FROM marts.dim_customers WHERE customer_id = 'C2'") == [(1,)]


def test_all_equals_a_rebuild_and_hashes_follow_another_key(
    warehouse: Warehouse, said: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What the decision says on a new key; and every table without hashes from nothing."""
    before, hashed = warehouse.content(), ("staging.customers", "marts.dim_customers", "marts_pii.customers")
    monkeypatch.setenv("PII_KEY", "the next key of this warehouse")
    forget_caches()
    with closing(warehouse.home.connect("postgres", "warehouse")) as admin, admin.cursor() as cursor:
        cursor.execute("DELETE FROM ops.pii_key")
        cursor.execute(
            "SELECT STRING_AGG(FORMAT('%I.%I', schemaname, tablename), ', ') FROM pg_tables WHERE schemaname LIKE 'analytics%'"
            " AND schemaname <> 'analytics_seeds' AND tablename !~ '^(exchange_rates|customers|dim_customers)__'"
        )
        cursor.execute(f"TRUNCATE {cursor.fetchone()[0]}")  # type: ignore[index]
    pipeline.context().engine_adapter.close()
    pipeline.apply("the restatement did not finish", restate_models=["staging.*"])
    after = warehouse.content()
    assert {name for name, rows in after.items() if rows != before[name]} == set(hashed)
    assert warehouse.differences(tmp_path) == {}
    monkeypatch.undo()
    forget_caches()
