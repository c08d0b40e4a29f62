"""scripts/contract.py and config/postgres/landing.sql say the same."""

from contextlib import closing

import psycopg2
import pytest

from scripts.contract import TABLES, Table
from tests.python.conftest import Home

TECHNICAL = [
    ("_deleted", "boolean", "NO"),
    ("_batch_id", "bigint", "NO"),
    ("_loaded_at", "timestamp with time zone", "NO"),
    ("_source_file", "text", "YES"),
    ("_row_number", "bigint", "YES"),
]


def query(server: Home, sql: str, *values: object, login: str = "postgres") -> list[tuple[object, ...]]:
    with closing(server.connect(login, "warehouse")) as session, session.cursor() as cursor:
        cursor.execute(sql, values)
        return cursor.fetchall() if cursor.description else []


@pytest.mark.parametrize("table", TABLES.values(), ids=list(TABLES))
def test_the_tables_are_those_of_the_contract(server: Home, table: Table) -> None:
    there = query(
        server,
        """
        SELECT
          column_name,
          data_type
          || CASE data_type WHEN 'numeric' THEN format('(%%s,%%s)', numeric_precision, numeric_scale) ELSE '' END,
          is_nullable
        FROM information_schema.columns WHERE table_schema = 'landing' AND table_name = %s ORDER BY ordinal_position
        """,
        table.name,
    )
    # Deleted rows need only these, so only these are NOT NULL.
    ours = [(c.name, c.type, "NO" if c.name in table.version else "YES") for c in table.columns]
    assert there == ours + TECHNICAL


def test_every_column_has_a_comment(server: Home) -> None:
    assert not query(
        server,
        """
        SELECT attrelid::REGCLASS, attname FROM pg_attribute JOIN pg_class ON pg_class.oid = attrelid
        WHERE relnamespace = 'landing'::REGNAMESPACE AND relkind = 'r' AND attnum > 0
          AND (col_description(attrelid, attnum) IS NULL OR obj_description(attrelid, 'pg_class') IS NULL)
        """,
    )


@pytest.mark.parametrize("table", TABLES.values(), ids=list(TABLES))
def test_the_table_itself_refuses_what_breaks_the_contract(server: Home, table: Table) -> None:
    """Other tools write landing too."""
    good: dict[str, object] = {
        column.name: (
            column.allowed[0]
            if column.allowed
            else {"text": "x", "integer": 1, "numeric(18,4)": 2}.get(column.type, "2011-01-02")
        )
        for column in table.columns
    }
    bad: list[dict[str, object]] = []
    for column in table.columns:
        if column.required:
            bad.append({column.name: None})
        if column.allowed:
            bad.append({column.name: "other"})
        if column.type == "numeric(18,4)":
            bad.append({column.name: "NaN"})
        if column.required and column.type == "timestamp with time zone":
            bad.append({column.name: "infinity"})
        if column.at_least or column.above:
            bad.append({column.name: -1})
        if column.at_most:
            bad.append({column.name: 3})
    names = ", ".join(good)
    insert = f"INSERT INTO landing.{table.name} ({names}, _batch_id) VALUES ({', '.join(['%s'] * len(good))}, 0)"
    with closing(server.connect("loader", "warehouse")) as session, session.cursor() as cursor:
        session.autocommit = False
        cursor.execute(insert, list(good.values()))
        session.rollback()
        for change in bad:
            with pytest.raises(psycopg2.IntegrityError):
                cursor.execute(insert, list((good | change).values()))
            session.rollback()


def test_who_may_what(server: Home) -> None:
    rights = query(
        server,
        """
        SELECT DISTINCT grantee, privilege_type FROM information_schema.role_table_grants
        WHERE table_schema = 'landing' AND grantee <> 'warehouse_owner' ORDER BY 1, 2
        """,
    )
    assert rights == [("loader", "INSERT"), ("loader", "SELECT"), ("sqlmesh_user", "SELECT")]
    for login, forbidden in (
        ("loader", "UPDATE landing.orders SET status = 'placed'"),
        ("loader", "DELETE FROM landing.files"),
        ("loader", "TRUNCATE landing.orders"),
        ("loader", "CREATE TABLE landing.mine (a INT)"),
        ("sqlmesh_user", "INSERT INTO landing.orders SELECT * FROM landing.orders"),
        ("sqlmesh_user", "SELECT landing.analyze()"),
        ("analyst", "SELECT FROM landing.orders"),
    ):
        with pytest.raises(psycopg2.errors.InsufficientPrivilege):
            query(server, forbidden, login=login)
    query(server, "SELECT landing.analyze()", login="loader")
