"""Roles, databases, schemas and rights: everything the warehouse needs of a server before the first plan.

The same steps make them on the embedded server and on any other with PostgreSQL 15 or newer. The SQL is in
`config/postgres/` and plain enough for a DBA to run by hand.
"""

import sys
from collections.abc import Iterator
from contextlib import closing, contextmanager

import psycopg2
from psycopg2 import sql
from psycopg2.extensions import ISOLATION_LEVEL_AUTOCOMMIT, connection, encrypt_password

from scripts import server
from scripts.errors import WarehouseError
from scripts.settings import LOGINS, ROOT, LoginRefused, connect, settings

FILES = ROOT / "config" / "postgres"

# Database -> its owner; None: the admin.
DATABASES = {"warehouse": None, "sqlmesh_state": "sqlmesh_state_user", "sqlmesh_test": "test_user"}

# Run in database warehouse, in this order, in one transaction; any other file but roles.sql follows by name.
ORDER = ["warehouse.sql", "ops.sql", "landing.sql"]


def apply() -> str:
    """Make what is missing and leave the rest as it is. Returns one line for people. Raises WarehouseError.

    Safe to call at any time and by several processes at once.
    """
    host, port = settings().address
    try:
        admin = connect(settings().admin, "postgres")
    except WarehouseError as refusal:
        if settings().embedded:
            raise
        _check_without_admin(refusal)
        return f"roles, databases and schemas are in place at {host}:{port}"
    with closing(admin):
        admin.set_isolation_level(ISOLATION_LEVEL_AUTOCOMMIT)  # CREATE DATABASE needs it
        with _explained(admin), admin.cursor() as cursor:
            cursor.execute("SELECT pg_advisory_lock(7274, 0)")  # one bootstrap at a time; see ops.sql
            cursor.execute((FILES / "roles.sql").read_text())
            for database, owner in DATABASES.items():
                _create_database(admin, database, owner)
        with closing(connect(settings().admin, "warehouse", options="-c lock_timeout=30s")) as warehouse:
            _run_files(warehouse)
        for login in LOGINS:
            _ensure_password(admin, login)
    return f"roles, databases and schemas are in place at {host}:{port}"


def _run_files(warehouse: connection) -> None:
    with _explained(warehouse), warehouse, warehouse.cursor() as cursor:
        for name in _files():
            cursor.execute((FILES / name).read_text())


def _files() -> list[str]:
    """Names of the files to run in database warehouse, in order."""
    there = {path.name for path in FILES.glob("*.sql")} - {"roles.sql"}
    return [name for name in ORDER if name in there] + sorted(there - set(ORDER))


def _create_database(admin: connection, database: str, owner: str | None) -> None:
    name = sql.Identifier(database)
    with admin.cursor() as cursor:
        cursor.execute("SELECT FROM pg_database WHERE datname = %s", [database])
        if not cursor.rowcount:
            # Text sorts by code point on every server, so that results are the same on all.
            if admin.server_version >= 170000:
                locale = "LOCALE_PROVIDER builtin BUILTIN_LOCALE 'C.UTF-8' LOCALE 'C'"
            else:
                locale = "LC_COLLATE 'C'"
            cursor.execute(
                sql.SQL("CREATE DATABASE {} OWNER {} TEMPLATE template0 ENCODING 'UTF8' {}").format(
                    name, sql.Identifier(owner or settings().admin), sql.SQL(locale)
                )
            )
        # Databases are open to everyone until this is said; what each login may do is granted by name.
        cursor.execute(sql.SQL("REVOKE ALL ON DATABASE {} FROM PUBLIC").format(name))


def _ensure_password(admin: connection, login: str) -> None:
    """Make the login work with the password in the pass file, which is generated if it is not there."""
    password, made = server.password(login)
    if not made:
        try:
            connect(login).close()
            return
        except LoginRefused:
            pass
    # The server sees a SCRAM verifier only: a password in a statement would end up in logs.
    verifier = encrypt_password(password, login, scope=admin, algorithm="scram-sha-256")
    with _explained(admin), admin.cursor() as cursor:
        cursor.execute(sql.SQL("ALTER ROLE {} PASSWORD %s").format(sql.Identifier(login)), [verifier])
    connect(login).close()


@contextmanager
def _explained(admin: connection) -> Iterator[None]:
    """Turn a refused statement into a WarehouseError, and pass on what was skipped."""
    try:
        yield
    except psycopg2.Error as error:
        raise WarehouseError(
            f"the server refused a step of the set-up: {str(error).strip()}",
            f"let {settings().admin} own what it names, or set WAREHOUSE_ADMIN to a login that may; then `make init`",
        ) from None
    finally:
        for notice in admin.notices:
            if "skipped: " in notice:
                print(notice.strip().removeprefix("NOTICE:  "), file=sys.stderr)
        admin.notices.clear()


def _check_without_admin(refusal: WarehouseError) -> None:
    """Pass when every login works and every schema is there; else say what a DBA must run."""
    expected = (
        "'landing'), to_regnamespace('marts'), to_regnamespace('ml'), to_regclass('landing.orders'), "
        "to_regclass('meta.models'"
    )
    try:
        for login in LOGINS:
            with closing(connect(login)) as session, session.cursor() as cursor:
                if login == "sqlmesh_user":
                    cursor.execute(
                        f"SELECT to_regnamespace({expected}), to_regprocedure('ops.acquire_run_lock(timestamptz)')"
                    )
                    if None in (cursor.fetchone() or [None]):
                        raise WarehouseError("database warehouse lacks schemas, tables or functions", "")
        return
    except WarehouseError as fault:
        lacking = fault.what
    names = " ".join(f"-f {FILES / name}" for name in _files())
    databases = [f"createdb {db}" + (f" --owner={owner}" if owner else "") for db, owner in DATABASES.items()]
    steps = [
        f"psql postgres -f {FILES / 'roles.sql'}",
        *databases,
        *(f'psql postgres -c "REVOKE ALL ON DATABASE {db} FROM PUBLIC"' for db in DATABASES),
        f"psql warehouse --single-transaction {names}",
        f"and set the passwords of {', '.join(LOGINS)} to those in {settings().passfile}",
    ]
    raise WarehouseError(
        f"the set-up is not complete ({lacking}), and {refusal.what}",
        "\n  ".join(["set WAREHOUSE_ADMIN to a login with CREATEROLE and CREATEDB, or let a DBA run:", *steps]),
        refusal.code,
    )
