"""Forget a customer: from landing to marts a pseudonym takes the place of the customer_id; e-mail and name are deleted.

No row goes, so no total changes. A customer_id only tells customers apart, so a model over renamed rows holds its own
rows renamed: they are renamed where they are, in every physical table, of whatever environment, in the transaction that
renames landing, and nothing has to be computed anew.
"""

import csv
import getpass
import io
from contextlib import closing

import psycopg2
from psycopg2 import sql
from psycopg2.extensions import connection, cursor

from scripts.contract import PERSONAL, TABLES, WITHHELD
from scripts.errors import Exit, WarehouseError
from scripts.settings import check_pii_key, connect, hashing_options, settings

RUN, PUBLISH, LOAD = 1, 2, 3  # advisory locks (7274, n) of config/postgres/ops.sql


def forget(customer_id: str) -> str:
    """Forget one customer, by its key at the source. Returns a line for people.

    Raises WarehouseError: INPUT_REFUSED when nothing names the customer, LOCKED while a run or a load is at work.
    """
    admin = connect(settings().admin, "warehouse", options=f"-c lock_timeout=10s {hashing_options()}")
    try:
        with closing(admin):
            with admin, admin.cursor() as cur:
                check_pii_key(cur)
                _keep_others_out(cur)
                _name(cur, customer_id)
                if known := _forgotten_on(cur, "forgotten.pseudonym = customer_id"):
                    return known
                if not (changed := _rename_in_landing(cur)):
                    if known := _forgotten_on(cur, "customer_hash = ops.customer_hash(customer_id)"):
                        return known
                    raise WarehouseError(
                        "no record names this customer",
                        "the customer_id must be as the source has it, blanks and case too",
                        Exit.INPUT_REFUSED,
                    )
                changed += _rename_in_models(cur)
                _record(cur)
            _vacuum(admin, changed)
    except psycopg2.errors.LockNotAvailable:
        raise WarehouseError(
            "others have been writing for 10 s to what is to be changed", "nothing was changed; try again", Exit.LOCKED
        ) from None
    except psycopg2.errors.InsufficientPrivilege as error:
        raise WarehouseError(
            f"login {settings().admin} may not forget customers: {error.diag.message_primary}",
            "set WAREHOUSE_ADMIN to the login that `make init` was run with",
            Exit.INPUT_REFUSED,
        ) from None
    return f"forgotten: {sum(count for _, count in changed):,} rows in {len(changed)} tables name a pseudonym now"


def _keep_others_out(cur: cursor) -> None:
    """Neither a run nor a load may be at work: they would go on with what they have read."""
    for lock, what in ((RUN, "a plan or run"), (LOAD, "a load")):
        cur.execute("SELECT pg_try_advisory_xact_lock(7274, %s), ops.lock_holder(%s)", [lock, lock])
        has, holder = cur.fetchone() or (False, None)
        if not has:
            raise WarehouseError(
                f"{what} is at work: {holder or 'it has just ended'}",
                "nothing was changed; try again when it is done",
                Exit.LOCKED,
            )
    cur.execute("SELECT pg_advisory_xact_lock(7274, %s)", [PUBLISH])  # writers of landing other than our loader


def _name(cur: cursor, customer_id: str) -> None:
    """The customer and the pseudonym as a table: the customer_id is in no statement, and so in no log."""
    cur.execute("CREATE TEMPORARY TABLE forgetting (customer_id TEXT, pseudonym TEXT) ON COMMIT DROP")
    line = io.StringIO()
    csv.writer(line, quoting=csv.QUOTE_ALL).writerow([customer_id])
    line.seek(0)
    cur.copy_expert("COPY pg_temp.forgetting (customer_id) FROM STDIN (FORMAT csv)", line)
    cur.execute("UPDATE pg_temp.forgetting SET pseudonym = 'forgotten-' || replace(gen_random_uuid()::TEXT, '-', '')")


def _rename_in_landing(cur: cursor) -> list[tuple[str, int]]:
    """Every version of every record that names the customer; tables that were changed, and rows."""
    changed = []
    for table in TABLES.values():
        if table.customer:
            name = sql.Identifier("landing", table.name)
            count = _rename(cur, name, table.customer, table.personal, table.names_customer)
            changed.append((name.as_string(cur), count))
    changed = [(name, count) for name, count in changed if count]
    if changed:  # what is quoted elsewhere
        cur.execute(
            """
            UPDATE landing.rejects SET value = %s FROM pg_temp.forgetting
            WHERE customer_id = ANY (string_to_array(value, ','))
            """,
            [WITHHELD],
        )
        cur.execute("SELECT to_regclass('ops.audit_results')")
        if cur.fetchone() != (None,):
            cur.execute(
                """
                UPDATE ops.audit_results SET first_rows = NULL FROM pg_temp.forgetting
                WHERE strpos(first_rows::TEXT, to_json(customer_id)::TEXT) > 0
                """
            )
    return changed


def _rename_in_models(cur: cursor) -> list[tuple[str, int]]:
    """Every physical table of SQLMesh with columns called like those of landing; tables that were changed, and rows."""
    cur.execute(
        """
        SELECT nspname, relname, array_agg(attname::TEXT ORDER BY attnum)
        FROM pg_class
        JOIN pg_namespace ON pg_namespace.oid = relnamespace
        JOIN pg_attribute ON attrelid = pg_class.oid AND attnum > 0 AND NOT attisdropped
        WHERE relkind = 'r' AND relpersistence <> 't' AND relowner = 'sqlmesh_user'::REGROLE
        GROUP BY nspname, relname
        ORDER BY nspname, relname
        """
    )
    naming = {table.customer: table for table in TABLES.values() if table.customer}
    changed = []
    for schema, table, columns in cur.fetchall():
        name = sql.Identifier(schema, table)
        personal = [name for column in PERSONAL for name in (column, f"{column}_hash") if name in columns]
        count = 0
        for column, source in naming.items():
            if column in columns:
                condition = source.names_customer if source.kind in columns else "TRUE"
                count += _rename(cur, name, column, personal, condition)
        if count:
            changed.append((name.as_string(cur), count))
    return changed


def _rename(cur: cursor, table: sql.Identifier, column: str, personal: list[str], condition: str = "TRUE") -> int:
    changes = [sql.SQL("{} = forgetting.pseudonym").format(sql.Identifier(column))]
    changes += [sql.SQL("{} = NULL").format(sql.Identifier(name)) for name in personal]
    cur.execute(
        sql.SQL("UPDATE {} AS t SET {} FROM pg_temp.forgetting WHERE t.{} = forgetting.customer_id AND {}").format(
            table, sql.SQL(", ").join(changes), sql.Identifier(column), sql.SQL(condition)
        )
    )
    return cur.rowcount


def _record(cur: cursor) -> None:
    # A customer who was forgotten before came back past our loader: loads follow the newer pseudonym.
    cur.execute(
        """
        INSERT INTO ops.forgotten (customer_hash, pseudonym, forgotten_by)
        SELECT ops.customer_hash(customer_id), pseudonym, %s FROM pg_temp.forgetting
        ON CONFLICT (customer_hash) DO UPDATE SET
          pseudonym = excluded.pseudonym, forgotten_at = excluded.forgotten_at, forgotten_by = excluded.forgotten_by
        """,
        [getpass.getuser()],
    )


def _forgotten_on(cur: cursor, condition: str) -> str | None:
    """What to tell when a row of ops.forgotten is of the customer at hand."""
    cur.execute(
        "SELECT to_char(forgotten_at AT TIME ZONE 'UTC', 'YYYY-MM-DD HH24:MI') FROM ops.forgotten, pg_temp.forgetting"
        f" WHERE {condition}"
    )
    known = cur.fetchone()
    return f"already forgotten, on {known[0]} UTC" if known else None


def _vacuum(admin: connection, changed: list[tuple[str, int]]) -> None:
    """Take away the rows as they were, and what statistics remember of them."""
    admin.autocommit = True
    with admin.cursor() as cur:
        for name, _ in changed:
            cur.execute(f"VACUUM (ANALYZE) {name}")
        cur.execute("VACUUM (ANALYZE) landing.rejects")
