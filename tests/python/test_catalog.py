"""The contract with analysts, schema meta and the files made of the models: current, whole, and loud about a break."""

import copy
import subprocess
from collections.abc import Iterator
from contextlib import closing
from datetime import UTC, datetime
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import psycopg2
import pytest

from scripts import catalog
from scripts.errors import Exit, WarehouseError
from tests.python.conftest import Home

PROMISED: dict[str, Any] = {
    "marts.sales": {
        "grain": ["day"],
        "meaning": "One row per day.",
        "columns": {
            "day": {"type": "DATE", "meaning": "Local day."},
            "orders": {"type": "BIGINT", "meaning": "Orders."},
            "net_sales": {"type": "DECIMAL(18, 4)", "meaning": "Sales."},
        },
    },
    "ml.scores": {"grain": ["score"], "meaning": "One row.", "columns": {"score": {"type": "INT", "meaning": "1."}}},
}


def changed(kind: str) -> dict[str, Any]:
    now = copy.deepcopy(PROMISED)
    columns = now["marts.sales"]["columns"]
    if kind == "model removed":
        del now["ml.scores"]
    elif kind == "column removed":
        del columns["orders"]
    elif kind == "renamed":
        now["marts.sales"]["columns"] = {name.replace("orders", "sold"): column for name, column in columns.items()}
    elif kind == "retyped":
        columns["net_sales"]["type"] = "DOUBLE"
    elif kind == "reordered":
        columns["day"] = columns.pop("day")
    elif kind == "regrained":
        now["marts.sales"]["grain"] = ["day", "orders"]
    elif kind == "added":
        now["marts.sales"]["columns"] = {"new": {"type": "INT", "meaning": "New."}, **columns}
        now["marts.new"] = now["ml.scores"]
    elif kind == "explained":
        columns["day"]["meaning"] = "Local day of the order."
    return now


# ---- what breaks a contract -------------------------------------------------------------------------------------

BREAKS = [
    ("model removed", "ml.scores", "-", "removed"),
    ("column removed", "marts.sales", "orders", "removed"),
    ("renamed", "marts.sales", "orders", "renamed to sold"),
    ("retyped", "marts.sales", "net_sales", "retyped to DOUBLE"),
    ("reordered", "marts.sales", "-", "reordered"),
    ("regrained", "marts.sales", "-", "regrained"),
]


@pytest.mark.parametrize(("kind", "model", "column", "change"), BREAKS)
def test_a_break_needs_its_own_line(kind: str, model: str, column: str, change: str) -> None:
    found = list(catalog.breaks(PROMISED, changed(kind)))
    assert [(one.model, one.column, one.change.split()[0].replace("renamed", "removed")) for one in found] == [
        (model, column, change.split()[0].replace("renamed", "removed"))
    ]
    assert catalog.untold(found, "") == found
    assert catalog.untold(found, f"| 2026-03-01 | `{model}` | {column} | {change} | sum the days |") == []
    for other in (
        f"| 2026-03-01 | marts.other | {column} | {change} | sum the days |",
        f"| 2026-03-01 | {model} | other | {change} | sum the days |",
        f"| 2026-03-01 | {model} | {column} | added | sum the days |",
        f"| 2026-03-01 | {model} | {column} | {change} |  |",
        f"| | {model} | {column} | {change} | sum the days |",
    ):
        assert catalog.untold(found, other) == found


@pytest.mark.parametrize("kind", ["added", "explained", "nothing"])
def test_what_is_added_or_explained_breaks_nothing(kind: str) -> None:
    assert list(catalog.breaks(PROMISED, changed(kind))) == []


@pytest.fixture
def project(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A project of nothing but a contract and a changelog."""
    (tmp_path / "contracts").mkdir()
    (tmp_path / catalog.CONTRACT).write_text(contract(PROMISED))
    (tmp_path / catalog.CHANGELOG).write_text(
        "# Changelog\n\n| date | model | column | change | what to do |\n|---|---|---|---|---|\n"
    )
    monkeypatch.setattr(catalog, "ROOT", tmp_path)
    return tmp_path


def contract(promised: dict[str, Any]) -> str:
    from sqlmesh.utils.yaml import dump

    return dump(promised)


@pytest.mark.parametrize("has_git", [True, False])
def test_the_refusal_says_which_lines_to_add(project: Path, has_git: bool) -> None:
    broken = contract(changed("renamed"))
    if has_git:
        for command in ("init -q", "add .", "-c user.name=a -c user.email=a@b.c commit -qm one"):
            subprocess.run(["git", *command.split()], cwd=project, check=True)
        (project / catalog.CONTRACT).write_text(broken)  # the promise is what was committed
    catalog.refuse_untold(contract(PROMISED))
    with pytest.raises(WarehouseError, match="1 change.s. break the contract") as refusal:
        catalog.refuse_untold(broken)
    assert refusal.value.code == Exit.DATA_QUALITY
    line = refusal.value.hint.splitlines()[-1].strip()
    assert "| marts.sales | orders | removed |" in line
    changelog = project / catalog.CHANGELOG
    table = changelog.read_text()
    changelog.write_text(f"{table}{line}\n")
    with pytest.raises(WarehouseError):  # nobody has said what to do
        catalog.refuse_untold(broken)
    changelog.write_text(f"{table}{line.removesuffix('|')} read sold |\n")
    catalog.refuse_untold(broken)


# ---- schema meta ------------------------------------------------------------------------------------------------

ROWS: catalog.Rows = {
    "models": [("marts.sales", "commerce", ["marts", "sales"], ["day"], "One row per day.")],
    "columns": [("marts.sales", 1, "day", "DATE", "Local day.")],
    "lineage": [("marts.sales", "day", "staging.orders", "order_date"), ("marts.sales", None, "staging.touches", None)],
    "relationships": [("marts.sales", "day", "marts.dim_dates", "date_day")],
    "example_queries": [(1, "How much?", "SELECT 1")],
}
NOON = datetime(2026, 3, 1, 12, tzinfo=UTC)


def count(session: Any, table: str = "models") -> int:
    with session.cursor() as cursor:
        cursor.execute(f"SELECT COUNT(*) FROM meta.{table}")
        return int(cursor.fetchone()[0])


@pytest.fixture
def meta(server: Home) -> Iterator[Home]:
    """The server with one model in schema meta; emptied afterwards."""
    with closing(server.connect("sqlmesh_user")) as writer:
        writer.autocommit = False
        with writer:
            catalog.write(writer, ROWS, NOON)
        yield server
        with writer, writer.cursor() as cursor:
            for table in (*catalog.TABLES, "freshness"):
                cursor.execute(f"DELETE FROM meta.{table}")


def test_readers_see_all_or_nothing_and_never_wait(meta: Home) -> None:
    more: catalog.Rows = {table: [] for table in ROWS} | {
        "models": [(f"marts.m{n}", "a", [], [], "One row.") for n in range(3)]
    }
    with closing(meta.connect("sqlmesh_user")) as writer, closing(meta.connect("analyst")) as reader:
        writer.autocommit = False
        with reader.cursor() as cursor:
            cursor.execute("SET statement_timeout = '2s'")
        catalog.write(writer, more, NOON)
        assert [count(reader, table) for table in catalog.TABLES] == [1, 1, 2, 1, 1]
        writer.commit()
        assert [count(reader, table) for table in catalog.TABLES] == [3, 0, 0, 0, 0]


def test_a_failure_on_the_way_leaves_what_was(meta: Home) -> None:
    twice = ROWS | {"models": [], "example_queries": [(1, "How much?", "SELECT 1")] * 2}
    with closing(meta.connect("sqlmesh_user")) as writer:
        writer.autocommit = False
        with pytest.raises(psycopg2.errors.UniqueViolation), writer:
            catalog.write(writer, twice, NOON)
        assert count(writer) == 1


def test_freshness_is_of_built_tables_that_analysts_read(meta: Home) -> None:
    def snapshot(name: str, *ends: datetime) -> Any:
        layer = name.split('"')[3]
        intervals = [(0, int(end.timestamp() * 1000)) for end in ends]
        return SimpleNamespace(name=name, is_model=True, intervals=intervals, model=SimpleNamespace(schema_name=layer))

    later = datetime(2026, 3, 2, tzinfo=UTC)
    snapshots = [
        snapshot('"warehouse"."marts"."sales"', NOON, later),
        snapshot('"warehouse"."marts"."new"'),
        snapshot('"warehouse"."staging"."orders"', NOON),
    ]
    with closing(meta.connect("sqlmesh_user")) as writer, writer.cursor() as cursor:
        writer.autocommit = False
        for _ in range(2):
            catalog.write_freshness(writer, snapshots)
        cursor.execute("SELECT model, fresh_to FROM meta.freshness")
        assert cursor.fetchall() == [("marts.sales", later)]


def test_rights(meta: Home) -> None:
    with closing(meta.connect("analyst")) as analyst, analyst.cursor() as cursor:
        cursor.execute("SET default_transaction_read_only = off")
        for table in (*catalog.TABLES, "freshness"):
            cursor.execute(f"SELECT FROM meta.{table}")
            for statement in (f"DELETE FROM meta.{table}", f"INSERT INTO meta.{table} DEFAULT VALUES"):
                with pytest.raises(psycopg2.errors.InsufficientPrivilege):
                    cursor.execute(statement)
        with pytest.raises(psycopg2.errors.InsufficientPrivilege):
            cursor.execute("CREATE TABLE meta.mine ()")
    with (
        closing(meta.connect("sqlmesh_user")) as user,
        user.cursor() as cursor,
        pytest.raises(psycopg2.errors.InsufficientPrivilege),
    ):
        cursor.execute("DROP TABLE meta.models")


def test_every_table_and_column_of_meta_says_what_it_is(meta: Home) -> None:
    with closing(meta.connect("analyst")) as analyst, analyst.cursor() as cursor:
        cursor.execute(
            """
            SELECT attrelid::REGCLASS::TEXT, attname
            FROM pg_attribute JOIN pg_class ON pg_class.oid = attrelid
            WHERE relnamespace = 'meta'::REGNAMESPACE AND relkind = 'r' AND attnum >= 0
              AND (COL_DESCRIPTION(attrelid, attnum) IS NULL OR OBJ_DESCRIPTION(attrelid, 'pg_class') IS NULL)
            """
        )
        assert cursor.fetchall() == []


def test_a_warehouse_without_the_schema_is_left_alone(meta: Home) -> None:
    environment: Any = SimpleNamespace(finalized_ts=0)
    with closing(meta.connect("postgres", "warehouse")) as admin, admin.cursor() as cursor:
        cursor.execute("ALTER SCHEMA meta RENAME TO away")
        try:
            catalog.keep_fresh(environment, [])
            catalog.publish(environment, [])
        finally:
            cursor.execute("ALTER SCHEMA away RENAME TO meta")
        assert count(admin) == 1
