"""Setting up a server, ours or other people's, again and again; and the locks of schema ops."""

import os
import re
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import closing
from typing import Any

import psycopg2
import pytest
from psycopg2 import errors
from psycopg2.extensions import connection

from scripts import bootstrap
from scripts.errors import Exit
from scripts.settings import LOGINS, ROOT
from tests.python.conftest import Home


def run(session: connection, statement: str) -> list[tuple[object, ...]]:
    with session.cursor() as cursor:
        cursor.execute(statement)
        return cursor.fetchall() if cursor.description else []


@pytest.fixture
def session(server: Home) -> Iterator[Callable[..., connection]]:
    """Opens autocommit sessions by login, closed after the test."""
    opened: list[connection] = []

    def open_session(login: str, database: str | None = None) -> connection:
        opened.append(server.connect(login, database))
        return opened[-1]

    yield open_session
    for one in opened:
        one.close()


Open = Callable[..., connection]


# ---- again and again --------------------------------------------------------------------------------------------


def test_again_changes_nothing_and_is_fast(server: Home) -> None:
    def everything() -> list[tuple[object, ...]]:
        with closing(server.connect("postgres", "warehouse")) as admin:
            rights = "SELECT oid::regclass::text, relacl::text FROM pg_class WHERE relacl IS NOT NULL"
            functions = "SELECT oid::regprocedure::text, proacl::text FROM pg_proc WHERE proacl IS NOT NULL"
            logins = "SELECT rolname, rolpassword FROM pg_authid WHERE rolcanlogin"
            schemas = "SELECT nspname, nspacl::text FROM pg_namespace"
            databases = "SELECT datname, datacl::text FROM pg_database"
            parts = [rights, functions, logins, schemas, databases]
            return run(admin, " UNION ALL ".join(parts) + " ORDER BY 1, 2")

    before, passwords = everything(), server.passwords()
    began = time.monotonic()
    bootstrap.apply()
    assert time.monotonic() - began < 1
    assert everything() == before and server.passwords() == passwords


def test_four_at_once(server: Home) -> None:
    done: list[str] = []

    threads = [threading.Thread(target=lambda: done.append(bootstrap.apply())) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(done) == 4


def test_a_lost_password_is_made_anew(server: Home) -> None:
    passfile = server.path / "pgpass"
    kept = passfile.read_text()
    lines = [line for line in kept.splitlines() if ":analyst:" not in line]
    passfile.write_text("\n".join(lines) + "\n")
    bootstrap.apply()
    assert server.passwords()["analyst"] not in kept
    assert run(server.connect("analyst"), "SELECT 1") == [(1,)]
    assert passfile.stat().st_mode & 0o777 == 0o600


def test_a_password_written_by_a_person_becomes_the_roles(server: Home) -> None:
    passfile = server.path / "pgpass"
    old = server.passwords()["test_user"]
    passfile.write_text(passfile.read_text().replace(old, r"it\:is\\mine"))
    bootstrap.apply()
    with closing(
        psycopg2.connect(
            host="127.0.0.1",
            port=server.port,
            user="test_user",
            password=r"it:is\mine",
            dbname="sqlmesh_test",
            sslrootcert=str(server.path / "server.crt"),
        )
    ):
        pass
    passfile.write_text(passfile.read_text().replace(r"it\:is\\mine", old))
    bootstrap.apply()


def test_files_name_the_same_logins() -> None:
    for file in ("roles.sql", "sessions.sql"):
        text = (bootstrap.FILES / file).read_text()
        assert re.findall(r"'(\w+)'", re.findall(r"ARRAY\[([^]]+)\]", text)[0]) == list(LOGINS)
    assert set(bootstrap.DATABASES) == set(LOGINS.values())


# ---- a server of other people -----------------------------------------------------------------------------------


@pytest.mark.slow
def test_an_admin_who_is_no_superuser_and_then_none(new_home: Callable[[str], Home]) -> None:
    theirs, ours = new_home("theirs"), new_home("ours")
    theirs.run("up")
    with closing(theirs.connect()) as root:
        run(root, "CREATE ROLE dba LOGIN CREATEROLE CREATEDB PASSWORD 'dbas-own'")
    passfile = theirs.path / "team"
    admins_line = f"127.0.0.1:{theirs.port}:*:dba:dbas-own\n"
    passfile.write_text(admins_line)
    passfile.chmod(0o600)
    outside: dict[str, Any] = {
        "WAREHOUSE_HOST": "127.0.0.1",
        "WAREHOUSE_PORT": str(theirs.port),
        "WAREHOUSE_ADMIN": "dba",
        "PGPASSFILE": str(passfile),
        "PGSSLROOTCERT": str(theirs.path / "server.crt"),
    }
    said = ours.bootstrap(**outside)
    assert said.count("skipped: ") == 5 and "in place" in said
    assert (
        "note: every login may connect to other databases" in said
        and 'ON DATABASE "postgres", "template1" FROM' in said
    )
    assert "skipped: " in ours.bootstrap(**outside)
    assert passfile.stat().st_mode & 0o777 == 0o600
    assert ours.run("psql", "-Atc", "SELECT current_user", **outside) == "analyst\n"
    with closing(theirs.connect("postgres", "warehouse")) as root:
        owners = (
            "SELECT nspname, nspowner::regrole::text FROM pg_namespace WHERE nspname IN ('landing', 'marts', 'ops')"
        )
        assert sorted(run(root, owners)) == [
            ("landing", "warehouse_owner"),
            ("marts", "sqlmesh_user"),
            ("ops", "warehouse_owner"),
        ]
        given = "SELECT has_table_privilege('loader', 'landing.orders', 'INSERT')"
        assert run(root, given) == [(True,)]

    # The reaper makes do with what this administrator could give it, who made the readers but is none of them.
    passwords = {line.split(":")[3]: line.split(":")[4] for line in passfile.read_text().splitlines()}
    with closing(theirs.connect("postgres", "warehouse")) as root:
        run(root, "CREATE OR REPLACE VIEW ops.session_limits AS SELECT 'analysts'::name AS reader, 20 AS connections,"
            " interval '0' AS statement, interval '0' AS idle_in_transaction, interval '0' AS transaction,"
            " interval '0' AS lock_wait, '1GB' AS temporary_files")  # fmt: skip
        login: dict[str, Any] = {
            "host": "127.0.0.1",
            "port": theirs.port,
            "dbname": "warehouse",
            "sslrootcert": outside["PGSSLROOTCERT"],
        }
        with (
            closing(psycopg2.connect(user="analyst", password=passwords["analyst"], **login)) as reader,
            closing(psycopg2.connect(user="dba", password="dbas-own", **login)) as dba,
        ):
            run(reader, "SELECT 1")
            run(dba, "SELECT 1")
            assert run(root, "SELECT login FROM ops.reap_sessions()") == [("analyst",)]
    assert "in place" in ours.bootstrap(**outside)
    assert "no record names this customer" in ours.run("forget", "--", "C1", code=Exit.INPUT_REFUSED, **outside)

    # From here on without the admin's password, as a team that got its server ready-made.
    passfile.write_text(passfile.read_text().replace(admins_line, ""))
    assert "in place" in ours.bootstrap(**outside)
    with closing(theirs.connect("postgres", "warehouse")) as root:
        run(root, "DROP SCHEMA ml CASCADE")
    told = ours.bootstrap(code=Exit.SERVICE_DOWN, **outside)
    assert "lacks schemas" in told and "roles.sql" in told and "landing.sql" in told and "WAREHOUSE_ADMIN" in told
    assert [path.name for path in ours.path.iterdir()] == ["pii.key"]


# ---- the run lock -----------------------------------------------------------------------------------------------

ACQUIRE = "SELECT ops.acquire_run_lock(clock_timestamp())"


def free(session: Open) -> bool:
    """Whether another session can take the run lock now; it goes with that session."""
    with closing(session("sqlmesh_user")) as other:
        try:
            run(other, ACQUIRE)
        except errors.LockNotAvailable:
            return False
    return True


def test_a_second_run_is_refused_and_told_who_runs(session: Open, server: Home) -> None:
    first, second = session("sqlmesh_user"), session("sqlmesh_user")
    run(first, "SET application_name = 'nightly'")
    run(first, ACQUIRE)
    with pytest.raises(errors.LockNotAvailable) as caught:
        run(second, ACQUIRE)
    assert caught.value.pgcode == "55P03"
    told = str(caught.value)
    for part in (
        "another sqlmesh plan or run is at work",
        f"pid {first.info.backend_pid},",
        "user sqlmesh_user",
        "from 127.0.0.1",
        "application nightly",
        "since 2",
        "wait for it or stop it",
    ):
        assert part in told
    run(first, "SELECT ops.release_run_lock()")
    run(second, ACQUIRE)


def test_a_holder_of_another_login_is_told_too(session: Open) -> None:
    admin, second = session("postgres", "warehouse"), session("sqlmesh_user")
    run(admin, "SELECT pg_advisory_lock(7274, 1)")
    with pytest.raises(errors.LockNotAvailable, match="user postgres, from 127.0.0.1"):
        run(second, ACQUIRE)


def test_it_may_be_taken_again_and_is_released_at_once(session: Open) -> None:
    first = session("sqlmesh_user")
    for _ in range(3):
        run(first, ACQUIRE)
    assert not free(session)
    run(first, "SELECT ops.release_run_lock()")
    assert free(session)
    first.notices.clear()
    run(first, "SELECT ops.release_run_lock()")
    assert first.notices == []


def test_it_outlives_a_rollback(session: Open) -> None:
    first = session("sqlmesh_user")
    run(first, "BEGIN")
    run(first, ACQUIRE)
    run(first, "ROLLBACK")
    assert not free(session)


@pytest.mark.slow
def test_it_is_gone_when_its_holder_is_killed(session: Open, server: Home) -> None:
    program = (
        "from scripts.settings import connect; c = connect('sqlmesh_user').cursor(); "
        f"c.execute('{ACQUIRE}'); print('held', flush=True); c.execute('SELECT pg_sleep(60)')"
    )
    holder = subprocess.Popen(
        [sys.executable, "-c", program], cwd=ROOT, env=server.environment(), stdout=subprocess.PIPE, text=True
    )
    assert holder.stdout and holder.stdout.readline() == "held\n"
    assert not free(session)
    os.kill(holder.pid, signal.SIGKILL)
    holder.wait()
    deadline = time.monotonic() + 10
    while not free(session):
        assert time.monotonic() < deadline
        time.sleep(0.1)


def waiting(admin: connection, key: int) -> bool:
    query = f"SELECT 1 FROM pg_locks WHERE locktype = 'advisory' AND classid = 7274 AND objid = {key} AND NOT granted"
    return bool(run(admin, query))


def test_it_waits_for_a_load_that_publishes(session: Open) -> None:
    loader, runner, admin = session("loader"), session("sqlmesh_user"), session("postgres", "warehouse")
    run(loader, "SELECT pg_advisory_lock(7274, 2)")
    thread = threading.Thread(target=lambda: run(runner, ACQUIRE))
    thread.start()
    deadline = time.monotonic() + 10
    while not waiting(admin, 2):
        assert time.monotonic() < deadline
        time.sleep(0.02)
    assert thread.is_alive()
    run(loader, "SELECT pg_advisory_unlock(7274, 2)")
    thread.join(timeout=10)
    assert not thread.is_alive()
    run(loader, "SELECT pg_advisory_lock(7274, 2)")  # the barrier was given back
    assert not free(session)


def test_a_cancelled_wait_gives_everything_back(session: Open) -> None:
    loader, runner = session("loader"), session("sqlmesh_user")
    run(loader, "SELECT pg_advisory_lock(7274, 2)")
    run(runner, "SET statement_timeout = '300ms'")
    with pytest.raises(errors.QueryCanceled):
        run(runner, ACQUIRE)
    run(loader, "SELECT pg_advisory_unlock(7274, 2)")
    assert free(session)


def test_a_clock_a_little_ahead_is_waited_for(session: Open) -> None:
    runner = session("sqlmesh_user")
    took = "SELECT ops.acquire_run_lock({0}), clock_timestamp() > {0}"
    end = run(runner, "SELECT (clock_timestamp() + interval '1.2 s')::text")[0][0]
    began = time.monotonic()
    assert run(runner, took.format(f"'{end}'"))[0][1] is True
    assert 1 < time.monotonic() - began < 5
    run(runner, "SELECT ops.acquire_run_lock(clock_timestamp() - interval '1 year')")


def test_a_clock_far_ahead_is_refused(session: Open) -> None:
    runner = session("sqlmesh_user")
    with pytest.raises(errors.DatetimeFieldOverflow, match="this machine's clock is 3600 s ahead of the server's"):
        run(runner, "SELECT ops.acquire_run_lock(clock_timestamp() + interval '1 hour')")
    assert free(session)
