"""Sessions of readers that are over their limits (config/postgres/sessions.sql) are ended."""

from contextlib import closing

from psycopg2 import errors
from psycopg2.extensions import connection

from scripts.errors import OLDER_SETUP, WarehouseError
from scripts.settings import connect


def reap(session: connection | None = None) -> None:
    """End the sessions of readers that are over their limits; print a line for each.

    Asks over `session` of sqlmesh_user, or one of its own. Raises WarehouseError.
    """
    if session is None:
        with closing(connect("sqlmesh_user")) as own:
            reap(own)
        return
    with session.cursor() as cursor:
        try:
            cursor.execute("SELECT pid, login, reason FROM ops.reap_sessions()")
        except errors.UndefinedFunction:
            raise WarehouseError(*OLDER_SETUP) from None
        for pid, login, reason in cursor.fetchall():
            print(f"ended a session of {login} (pid {pid}): {reason}", flush=True)
