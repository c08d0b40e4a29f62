"""Sessions of readers that are over their limits (config/postgres/sessions.sql) are ended."""

from contextlib import closing

from psycopg2 import errors

from scripts.errors import Exit, WarehouseError
from scripts.settings import connect


def reap() -> None:
    """End the sessions of readers that are over their limits; print a line for each. Raises WarehouseError."""
    with closing(connect("sqlmesh_user")) as session, session, session.cursor() as cursor:
        try:
            cursor.execute("SELECT pid, login, reason FROM ops.reap_sessions()")
        except errors.UndefinedFunction:
            raise WarehouseError(
                "this database was set up by an older version of the project", "run `make init`", Exit.MISMATCH
            ) from None
        for pid, login, reason in cursor.fetchall():
            print(f"ended a session of {login} (pid {pid}): {reason}", flush=True)
