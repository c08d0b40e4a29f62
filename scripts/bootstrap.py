"""Roles, databases, schemas and rights: everything the warehouse needs of a server before the first plan.

The same steps make them on the embedded server and on any other with PostgreSQL 15 or newer. The SQL is in
`config/postgres/` and plain enough for a DBA to run by hand.
"""

import secrets
import sys
from collections.abc import Iterator
from contextlib import closing, contextmanager

import psycopg2
from psycopg2 import sql
from psycopg2.extensions import ISOLATION_LEVEL_AUTOCOMMIT, connection, encrypt_password

from scripts import server
from scripts.errors import WarehouseError
from scripts.settings import (
    LOGINS,
    ROOT,
    LoginRefused,
    Unreachable,
    check_pii_key,
    connect,
    pii_key,
    settings,
    write_whole,
)

FILES = ROOT / "config" / "postgres"

# Database -> its owner.
DATABASES = {"warehouse": "warehouse_owner", "sqlmesh_state": "sqlmesh_state_user", "sqlmesh_test": "test_user"}

# Run in database warehouse, in one transaction: these, any other file but roles.sql by name, and the last.
FIRST, LAST = ["warehouse.sql", "ops.sql", "landing.sql"], "rights.sql"


def apply() -> str:
    """Make what is missing and leave the rest as it is. Returns one line for people. Raises WarehouseError.

    Safe to call at any time and by several processes at once.
    """
    host, port = settings().address
    try:
        admin = connect(settings().admin, "postgres")
    except Unreachable:
        raise
    except WarehouseError as refusal:
        if settings().embedded:
            raise
        _check_without_admin(refusal)
        _ensure_pii_key()
        return f"roles, databases and schemas are in place at {host}:{port}"
    with closing(admin):
        admin.set_isolation_level(ISOLATION_LEVEL_AUTOCOMMIT)  # CREATE DATABASE needs it
        with _explained(admin), admin.cursor() as cursor:
            cursor.execute("SELECT pg_advisory_lock(7274, 0)")  # one bootstrap at a time; see ops.sql
            cursor.execute((FILES / "roles.sql").read_text())
            for database, owner in DATABASES.items():
                _create_database(admin, database, owner)
            _close_other_databases(admin)
        with closing(connect(settings().admin, "warehouse", options="-c lock_timeout=30s")) as warehouse:
            _run_files(warehouse)
        for login in LOGINS:
            _ensure_password(admin, login)
    _ensure_pii_key()
    return f"roles, databases and schemas are in place at {host}:{port}"


def _run_files(warehouse: connection) -> None:
    with _explained(warehouse), warehouse, warehouse.cursor() as cursor:
        for name in _files():
            cursor.execute((FILES / name).read_text())


def _files() -> list[str]:
    """Names of the files to run in database warehouse, in order."""
    there = {path.name for path in FILES.glob("*.sql")} - {"roles.sql"}
    return [*FIRST, *sorted(there - {*FIRST, LAST}), LAST]


def _create_database(admin: connection, database: str, owner: str) -> None:
    name = sql.Identifier(database)
    with admin.cursor() as cursor:
        cursor.execute("SELECT datdba::regrole::text FROM pg_database WHERE datname = %s", [database])
        owns = cursor.fetchone()
        if owns and owns[0] != owner:
            cursor.execute(sql.SQL("ALTER DATABASE {} OWNER TO {}").format(name, sql.Identifier(owner)))
        elif not owns:
            # Text sorts by code point on every server, so that results are the same on all.
            if admin.server_version >= 170000:
                locale = "LOCALE_PROVIDER builtin BUILTIN_LOCALE 'C.UTF-8' LOCALE 'C'"
            else:
                locale = "LC_COLLATE 'C'"
            cursor.execute(
                sql.SQL("CREATE DATABASE {} OWNER {} TEMPLATE template0 ENCODING 'UTF8' {}").format(
                    name, sql.Identifier(owner), sql.SQL(locale)
                )
            )
        # Databases are open to everyone until this is said; what each login may do is granted by name.
        cursor.execute(sql.SQL("REVOKE ALL ON DATABASE {} FROM PUBLIC").format(name))


def _close_other_databases(admin: connection) -> None:
    """Our logins have no business in other databases: the embedded server's are closed, those of others are named."""
    with admin.cursor() as cursor:
        cursor.execute(
            "SELECT datname FROM pg_database WHERE datallowconn AND datname <> ALL (%s)"
            " AND has_database_privilege('public', oid, 'CONNECT') ORDER BY datname",
            [list(DATABASES)],
        )
        names = [sql.Identifier(row[0]) for row in cursor.fetchall()]
        if not names:
            return
        statement = sql.SQL("REVOKE ALL ON DATABASE {} FROM PUBLIC").format(sql.SQL(", ").join(names))
        if settings().embedded:
            cursor.execute(statement)
        else:
            print(
                f"note: every login may connect to other databases; if none has to: {statement.as_string(admin)}",
                file=sys.stderr,
            )


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


def _ensure_pii_key() -> None:
    """Make the key of personal data, where hashes were never made; else it must be the one that they were made with."""
    if pii_key() is None:
        with closing(connect("sqlmesh_user")) as session, session.cursor() as cursor:
            cursor.execute("SELECT FROM ops.pii_key")
            if cursor.rowcount:  # after a restore, say; what is there can be read
                print(
                    "warning: this warehouse holds hashes of personal data, and their key is not here: until it is in "
                    f"{settings().pii_key_file}, or in PII_KEY, nothing can be loaded or run",
                    file=sys.stderr,
                )
                return
        write_whole(settings().pii_key_file, f"{secrets.token_hex(32)}\n", 0o600)
    with closing(connect("sqlmesh_user")) as session, session, session.cursor() as cursor:
        check_pii_key(cursor)


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
    schemas = (f"to_regnamespace('{name}')" for name in ("landing", "ops", "marts", "ml", "meta", "marts_pii"))
    routines = (
        "ops.acquire_run_lock(timestamptz)",
        "ops.reap_sessions()",
        "ops.check_pii_key()",
        "view_keeper.keep(regclass)",
    )
    functions = (f"to_regprocedure('{name}')" for name in routines)
    tables = (f"to_regclass('{name}')" for name in ("landing.orders", "meta.models", "ops.runs"))
    expected = ", ".join([*schemas, *tables, *functions])
    try:
        for login in LOGINS:
            with closing(connect(login)) as session, session.cursor() as cursor:
                if login == "sqlmesh_user":
                    cursor.execute(f"SELECT {expected}")
                    if None in (cursor.fetchone() or [None]):
                        raise WarehouseError("database warehouse lacks schemas, tables or functions", "")
        return
    except WarehouseError as fault:
        lacking = fault.what
    files = " ".join(f"-f {FILES / name}" for name in _files())
    databases = [f"createdb {db} --owner={owner}" for db, owner in DATABASES.items()]
    steps = [
        f"psql postgres -f {FILES / 'roles.sql'}",
        *databases,
        *(f'psql postgres -c "REVOKE ALL ON DATABASE {db} FROM PUBLIC"' for db in DATABASES),
        f"psql warehouse --single-transaction {files}",
        f"and set the passwords of {', '.join(LOGINS)} to those in {settings().passfile}",
    ]
    raise WarehouseError(
        f"the set-up is not complete ({lacking}), and {refusal.what}",
        "\n  ".join(["set WAREHOUSE_ADMIN to a login with CREATEROLE and CREATEDB, or let a DBA run:", *steps]),
        refusal.code,
    )
