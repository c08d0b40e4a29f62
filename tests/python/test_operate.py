"""Doctor, backup, restore and migration: each fault is made, found, mended, and the tables are what they were."""

import re
import shutil
import subprocess
from collections.abc import Iterator
from contextlib import closing
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest

from scripts import backup, doctor, pipeline
from scripts.errors import Exit, WarehouseError
from scripts.settings import connect, settings
from tests.python.conftest import Home, forget_caches
from tests.python.test_end_to_end import Warehouse, line, order, refund

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def warehouse(homes: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Warehouse]:
    """A few orders, all of them run; one of them has not arrived."""
    with Warehouse(homes / "operate", tmp_path_factory.mktemp("drops")).built() as made:
        made.drop(
            orders=[order(f"O{n}", n) for n in range(5)],
            order_items=[line(f"O{n}", 1, 19.99 + n, n) for n in range(6)],
            refunds=[refund("R1", "O1", 7, 3)],
        )
        pipeline.refresh(made.drops)
        yield made


def execute(statement: str, login: str = "postgres", database: str = "warehouse") -> None:
    with closing(connect(login, database)) as session, session, session.cursor() as cursor:
        cursor.execute(statement)


def look(capsys: pytest.CaptureFixture[str], repair: bool = False) -> tuple[int, str]:
    """Exit code and output of the doctor."""
    capsys.readouterr()
    if pipeline.deployed.cache_info().currsize:
        pipeline.deployed().close()
    pipeline.deployed.cache_clear()  # a process of its own would not know either
    try:
        doctor.examine(repair=repair)
        code = 0
    except WarehouseError as error:
        code = int(error.code)
        print(error)
    return code, capsys.readouterr().out


def wrong(output: str) -> list[str]:
    """What the doctor complains of, beside the backups that nobody has made yet."""
    lines = [line for line in output.splitlines() if line.startswith(("warn", "error"))]
    return [line for line in lines if "last backup" not in line and "last proven" not in line]


def table_of(model: str) -> str:
    """The physical table of a model in prod."""
    with closing(doctor.Warehouse()) as seen:
        return next(doctor.physical(one) for one in seen.shown if doctor.model_name(one) == model)


def test_a_healthy_warehouse_is_told_so(warehouse: Warehouse, capsys: pytest.CaptureFixture[str]) -> None:
    code, output = look(capsys)
    assert code == 0
    assert wrong(output) == []
    assert len(output.splitlines()) >= 18
    assert "waiting records: 1 order(s) or ticket(s)" in output


def test_what_is_broken_is_found_and_mended(warehouse: Warehouse, capsys: pytest.CaptureFixture[str]) -> None:
    """Each fault of state and warehouse that can be derived anew, all at once."""
    before = warehouse.content()
    names = [
        "marts.daily_revenue", "marts.fct_orders", "marts.monthly_revenue", "marts.dim_products", "staging.order_items",
        "marts.fct_refunds", "seeds.order_statuses",
    ]  # fmt: skip
    revenue, orders, months, products, lines, refunds, statuses = map(table_of, names)
    execute(f"CREATE TABLE {revenue[:-4]}0001 AS SELECT * FROM {revenue} LIMIT 1")  # of a lost state
    execute(f"ALTER TABLE {revenue[:-4]}0001 OWNER TO sqlmesh_user")
    execute(f"CREATE OR REPLACE VIEW marts.daily_revenue AS SELECT * FROM {revenue[:-4]}0001")
    execute(f"CREATE TABLE {revenue[:-4]}0002 (a INTEGER); ALTER TABLE {revenue[:-4]}0002 OWNER TO sqlmesh_user")
    execute(f"TRUNCATE {orders}; TRUNCATE {statuses}")
    execute("DROP VIEW marts.monthly_revenue")
    execute(f"DROP TABLE {products} CASCADE")
    for table in (lines, refunds):
        index = warehouse.read(
            f"SELECT indexname FROM pg_indexes WHERE schemaname || '.' || tablename = '{table}' AND indexdef LIKE '%UNIQUE%'"
        )[0][0]
        execute(f"DROP INDEX {table.split('.')[0]}.{index}")
    execute(f"INSERT INTO {lines} SELECT * FROM {lines} LIMIT 1")
    execute("ALTER ROLE analyst RESET statement_timeout; ALTER ROLE loader SET timezone = 'Asia/Tokyo'")
    execute("DROP INDEX landing.orders_order_id")
    with closing(doctor.Warehouse()) as seen:
        future = next(one for one in seen.shown if doctor.model_name(one) == "marts.support_daily")
        pipeline.deployed().state_sync.add_interval(future, seen.now, seen.now + timedelta(days=3))

    code, output = look(capsys)
    assert code == Exit.MISMATCH
    for told in (
        f"marts.daily_revenue: the view reads {revenue[:-4]}0001, and the state says {revenue}",
        f"marts.fct_orders: its table {orders} is empty, and its query is not",
        f"seeds.order_statuses: its table {statuses} is empty",
        f"marts.monthly_revenue: the view is missing, and the state says {months}",
        f"marts.dim_products: the table {products}, which the state names, does not exist",
        "staging.order_items: the unique index of its grain on (order_id, line_number) is missing",
        "staging.order_items: rows are doubled in (order_id, line_number)",
        "marts.fct_refunds: the unique index of its grain on (refund_id) is missing",
        "role analyst is not as config/postgres says",
        "login loader: its sessions do not begin in UTC",
        "landing: the index orders_order_id is missing",
        "marts.support_daily: done up to",
        f"{revenue[:-4]}0001 belongs to no model",
        f"{revenue[:-4]}0002 belongs to no model",
        "`make doctor REPAIR=1` repairs",
    ):
        assert told in output

    code, output = look(capsys, repair=True)
    again = output.split("looking again")[1]
    assert (code, wrong(again)) == (0, []), output
    assert warehouse.content() == before
    assert warehouse.read(f"SELECT TO_REGCLASS('{revenue[:-4]}0002')") == [(None,)]


def test_a_deployment_that_died_is_finished(warehouse: Warehouse, capsys: pytest.CaptureFixture[str]) -> None:
    before = warehouse.content()
    die = "UPDATE sqlmesh._environments SET finalized_ts = NULL"
    execute(die, "sqlmesh_state_user", "sqlmesh_state")
    execute("DROP VIEW marts.daily_revenue")
    code, output = look(capsys)
    assert (code, len(wrong(output))) == (Exit.MISMATCH, 1)  # what hangs on the deployment is not looked at
    assert "prod: its last deployment did not finish" in output
    with pipeline.no_run():
        assert "prod: a deployment is at work" in look(capsys)[1]
    assert look(capsys, repair=True)[0] == 0
    assert warehouse.content() == before


def test_runs_that_died_are_marked(warehouse: Warehouse) -> None:
    """One that holds its lock lives, whatever its heartbeat says."""
    execute(
        """
        CREATE TABLE IF NOT EXISTS ops.runs (
          run_id BIGINT GENERATED ALWAYS AS IDENTITY PRIMARY KEY, kind TEXT, environment TEXT, git_commit TEXT,
          versions JSONB DEFAULT '{}', host TEXT, pid INTEGER, started_at TIMESTAMPTZ DEFAULT CLOCK_TIMESTAMP(),
          heartbeat_at TIMESTAMPTZ DEFAULT CLOCK_TIMESTAMP(), ended_at TIMESTAMPTZ, status TEXT DEFAULT 'running',
          exit_code INTEGER, error TEXT
        );
        GRANT SELECT, UPDATE (ended_at, status, error) ON ops.runs TO sqlmesh_user;
        INSERT INTO ops.runs (kind, host, pid) VALUES ('run', 'here', 4711), ('load', 'there', 4712)
        """
    )
    (dead,), (living,) = warehouse.read("SELECT run_id FROM ops.runs WHERE pid IN (4711, 4712) ORDER BY 1")
    with closing(connect("postgres", "warehouse")) as alive, alive.cursor() as cursor:
        cursor.execute("SELECT pg_advisory_lock(7275, %s)", [living])
        with closing(doctor.Warehouse()) as seen:
            (found,) = doctor.unended_runs(seen)
        assert found.what == f"run {dead} (run, pid 4711 on here) ended without a word"
        doctor.mark_crashed([str(dead), str(living)])
        states = warehouse.read("SELECT status FROM ops.runs WHERE pid IN (4711, 4712) ORDER BY run_id")
        assert states == [("crashed",), ("running",)]
    execute("DELETE FROM ops.runs WHERE pid IN (4711, 4712)")


def test_the_doctor_waits_for_nobody(
    warehouse: Warehouse, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """A run that holds its locks for long: the doctor says what it could not see, and repairs nothing meanwhile."""
    monkeypatch.setattr(doctor, "HASTE", "-c lock_timeout=100ms -c statement_timeout=9s")
    monkeypatch.setattr(doctor, "STUCK", timedelta(seconds=-1))
    execute("DROP VIEW marts.order_value_percentiles")
    with closing(connect("sqlmesh_user")) as run, run.cursor() as cursor, pipeline.no_run():
        cursor.execute(f"LOCK TABLE {table_of('marts.daily_revenue')}")
        code, output = look(capsys)
        assert code == Exit.MISMATCH
        assert "locks: a run is at work: pid " in output
        assert "has a transaction open and does nothing" in output
        assert "empty_tables: not looked at (canceling statement due to lock timeout" in output
        code, output = look(capsys, repair=True)
        assert code == Exit.LOCKED and "another sqlmesh plan or run is at work" in output
    assert look(capsys, repair=True)[0] == 0


def test_what_grows_slowly_is_told(
    warehouse: Warehouse, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """The limits are those of a large warehouse; here they are lowered."""
    for name, value in {
        "DEAD_ROWS": -1, "DEAD_SHARE": -1, "SLOW_SECONDS": 0, "LARGE_ROWS": -1, "WAITING_AGE": timedelta(days=-9),
        "CLOCK_WARNS": timedelta(0), "RUN_AGE": timedelta(0),
    }.items():  # fmt: skip
        monkeypatch.setattr(doctor, name, value)
    monkeypatch.setattr("shutil.disk_usage", lambda path: shutil._ntuple_diskusage(9, 8, 1))
    warehouse.drop(orders=[order("O9", 9)])
    pipeline.load(warehouse.drops)
    code, output = look(capsys)
    assert code == Exit.MISMATCH
    for told in (
        "dead rows beside", "slow queries: the slowest takes", "marts.fct_refunds: no index leads with product_id",
        "waiting records: 1 order(s)", "s apart ->", "waits for one ->", "a new version of it may not fit",
    ):  # fmt: skip
        assert any(told in line for line in wrong(output)), told
    doctor.vacuum([table_of("marts.daily_revenue")])
    assert warehouse.read(
        "SELECT last_vacuum > NOW() - INTERVAL '1 minute' FROM pg_stat_user_tables WHERE relname LIKE 'daily_revenue%'"
        " AND last_vacuum IS NOT NULL"
    )[0] == (True,)
    monkeypatch.undo()  # a refresh begins nothing on a full disk
    pipeline.refresh()


def test_a_warehouse_of_an_older_day_is_told_and_mended(
    warehouse: Warehouse, capsys: pytest.CaptureFixture[str]
) -> None:
    """A load that the state takes for done: a run did it of which the warehouse, restored alone, knows nothing."""
    warehouse.drop(orders=[order("LATER", 3)], order_items=[line("LATER", 1, 5, 3)])
    pipeline.load(warehouse.drops)
    with closing(doctor.Warehouse()) as seen:
        for one in seen.stored.values():
            pipeline.deployed().state_sync.add_interval(one, one.intervals[-1][1], seen.now)
    a_day_ago = ", ".join(f"{name} = {name} - INTERVAL '1 day'" for name in ("started_at", "heartbeat_at", "ended_at"))
    execute(f"UPDATE ops.runs SET {a_day_ago}")
    code, output = look(capsys)
    assert code == Exit.MISMATCH
    assert "staging.orders: done later than" in output and "the last run that the warehouse remembers" in output
    assert look(capsys, repair=True)[0] == 0
    assert warehouse.read("SELECT net_sales FROM marts.fct_orders WHERE order_id = 'LATER'") == [(5,)]
    pipeline.run_missing()
    assert wrong(look(capsys)[1]) == []


def test_without_a_server_the_doctor_says_so(
    homes: Path, environment: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    environment.setenv("WAREHOUSE_HOME", str(homes / "nobody"))
    forget_caches()
    with pytest.raises(WarehouseError) as fault:
        doctor.examine()
    assert fault.value.code == Exit.SERVICE_DOWN
    assert "no server here yet" in capsys.readouterr().out


# ---- backup and restore -----------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def taken(warehouse: Warehouse) -> Path:
    draft = settings().backups / "1999.draft"  # of one that was killed
    draft.mkdir(parents=True)
    made = backup.backup()
    assert backup.backups() == [made] and not draft.exists()
    return made


def copied(taken: Path, to: str) -> Path:
    """The same backup under a later name, to be spoiled."""
    other = taken.with_name(to)
    shutil.copytree(taken, other)
    return other


def test_a_backup_is_proven_by_a_restore(warehouse: Warehouse, taken: Path, capfd: pytest.CaptureFixture[str]) -> None:
    """Equal tables, a healthy copy, and nothing left of it; what was loaded since then is told."""
    warehouse.drop(orders=[order("O8", 8)])
    pipeline.load(warehouse.drops)
    backup.drill()
    output = capfd.readouterr().out
    assert re.search(r"\d\d tables of marts and ml equal their checksums, 7 of landing their row counts", output)
    assert re.search(r"^RTO: [\d.]+ s from the backup", output, re.MULTILINE)
    assert "RPO: the copy has all up to the load of" in output and "the live server has 1 newer batch" in output
    home = warehouse.home.path / "restore-drill"
    assert not home.exists() and not Home(home).processes()
    assert "proven_at" in backup.read(taken)
    pipeline.refresh()
    doctor.examine()
    output = capfd.readouterr().out
    assert "ok    last backup: " in output and "ok    last proven restore: " in output


def test_a_flipped_byte_and_a_changed_row_are_caught(
    warehouse: Warehouse, taken: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    flipped = copied(taken, "9998")
    victim = max((flipped / "base" / "base").rglob("*"), key=lambda path: path.stat().st_size)
    with victim.open("r+b") as file:
        file.seek(4242)
        byte = file.read(1)
        file.seek(4242)
        file.write(bytes([byte[0] ^ 1]))
    with pytest.raises(WarehouseError) as fault:
        backup.drill()
    assert fault.value.code == Exit.MISMATCH
    assert f'checksum mismatch for file "{victim.relative_to(flipped / "base")}"' in capfd.readouterr().err
    shutil.rmtree(flipped)

    other = copied(taken, "9999")
    record = backup.read(other)
    record["tables"]["marts.daily_revenue"][1] = "42"
    backup._write(other, {key: value for key, value in record.items() if key != "proven_at"})
    with pytest.raises(WarehouseError) as fault:
        backup.drill()
    assert fault.value.code == Exit.MISMATCH
    assert "tables are not what was backed up\n  marts.daily_revenue: [" in capfd.readouterr().err
    assert not (warehouse.home.path / "restore-drill").exists()
    assert "proven_at" not in backup.read(other)
    shutil.rmtree(other)


def test_the_newest_and_the_proven_backups_stay(
    warehouse: Warehouse, taken: Path, tmp_path: Path, environment: pytest.MonkeyPatch
) -> None:
    environment.setenv("WAREHOUSE_BACKUPS", str(tmp_path))
    environment.setenv("WAREHOUSE_BACKUPS_KEPT", "2")
    forget_caches()
    for name in "12345":
        (tmp_path / name).mkdir()
        backup._write(tmp_path / name, {"proven_at": "x"} if name in "12" else {})
    (tmp_path / "6.draft").mkdir()
    backup._write(tmp_path / "6.draft", {})
    backup._remove_older()
    assert sorted(path.name for path in tmp_path.iterdir()) == ["2", "4", "5", "6.draft"]


def test_a_restore_overwrites_nothing(warehouse: Warehouse, taken: Path) -> None:
    with pytest.raises(WarehouseError, match="there is a server in .* already") as fault:
        backup.restore(taken)
    assert fault.value.code == Exit.INPUT_REFUSED
    with pytest.raises(WarehouseError, match="is no backup"):
        backup.restore(taken / "base")


def test_a_backup_waits_for_a_run(
    warehouse: Warehouse, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(backup, "LOCK_WAIT", "100ms")
    with pipeline.no_run(), pytest.raises(WarehouseError, match="a run has been at work for 100ms") as fault:
        backup.backup()
    assert fault.value.code == Exit.LOCKED
    assert "waiting up to 100ms for it" in capsys.readouterr().out
    with backup._alone("backup"), pytest.raises(WarehouseError, match="another backup is at work"):
        backup.backup()


def test_a_login_that_may_not_replicate_is_told_what_it_takes(
    warehouse: Warehouse, environment: pytest.MonkeyPatch, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Another server, by environment; and no password on any command line."""
    home = warehouse.home
    for name, value in {
        "WAREHOUSE_HOST": "127.0.0.1", "WAREHOUSE_PORT": str(home.port), "PGPASSFILE": str(home.path / "pgpass"),
        "WAREHOUSE_ADMIN": "sqlmesh_user", "PGSSLROOTCERT": str(home.path / "server.crt"),
    }.items():  # fmt: skip
        environment.setenv(name, value)
    forget_caches()
    commands: list[Any] = []
    run = subprocess.run

    def spied(command: Any, **kwargs: Any) -> Any:
        commands.append(command)
        return run(command, **kwargs)

    monkeypatch.setattr("subprocess.run", spied)
    with pytest.raises(WarehouseError, match="pg_basebackup failed") as fault:
        backup.backup()
    assert "ALTER ROLE sqlmesh_user REPLICATION" in fault.value.hint
    assert commands and not any(word in str(commands) for word in home.passwords().values())
    with pytest.raises(WarehouseError, match="a restore makes a server on this machine"):
        backup.restore(backup.newest())


# ---- another version of SQLMesh ---------------------------------------------------------------------------------


def test_a_state_of_an_older_version_is_saved_and_migrated(
    warehouse: Warehouse, capsys: pytest.CaptureFixture[str]
) -> None:
    before = warehouse.content()
    pipeline.migrate()
    assert "nothing to migrate" in capsys.readouterr().out
    execute("UPDATE sqlmesh._versions SET sqlmesh_version = '0.200.1'", "sqlmesh_state_user", "sqlmesh_state")
    code, output = look(capsys)
    assert code == Exit.MISMATCH and "run `make migrate`; see docs/runbooks/upgrade-sqlmesh.md" in output
    pipeline.migrate()
    assert look(capsys)[0] == 0
    assert warehouse.content() == before
    (saved,) = settings().backups.glob("state-*.sql")  # and back, as the runbook says
    strict = ["--single-transaction", "-v", "ON_ERROR_STOP=1"]
    warehouse.home.run(
        "psql", "--login", "sqlmesh_state_user", "--", *strict, "-c", "DROP SCHEMA sqlmesh CASCADE", "-f", str(saved)
    )
    assert "run `make migrate`" in look(capsys)[1]
    pipeline.migrate()
    assert look(capsys)[0] == 0
