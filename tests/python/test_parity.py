"""The same project on a second engine: every model of the warehouse and of DuckDB holds the same rows."""

import hashlib
import json
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

import duckdb
import pytest

from scripts import pipeline
from scripts.contract import TABLES
from scripts.settings import connect, export_environment, settings
from tests.python import oracle
from tests.python.conftest import forget_caches
from tests.python.test_end_to_end import Shop, Warehouse

pytestmark = pytest.mark.slow

SCHEMAS = ("seeds", "raw", "staging", "marts", "marts_pii", "ml")


@pytest.fixture
def warehouse(homes: Path, tmp_path: Path) -> Iterator[Warehouse]:
    with Warehouse(homes / "parity", tmp_path / "drops", "America/St_Johns", "GBP").built() as made:
        yield made


def copy_landing(scratch: Path) -> None:
    """What PostgreSQL has landed, into the DuckDB file: batch, stamp and row number included."""
    file = settings().warehouse_home / "warehouse.duckdb"
    with duckdb.connect(str(file)) as engine, closing(connect("sqlmesh_user")) as session:
        engine.execute("SET TimeZone = 'UTC'; CREATE SCHEMA IF NOT EXISTS landing")
        oracle.copy_landing(engine, session, scratch, "landing.{}")


@pytest.fixture
def second(warehouse: Warehouse) -> Iterator[Any]:
    """The project as SQLMesh sees it with WAREHOUSE_GATEWAY=duckdb."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("WAREHOUSE_GATEWAY", "duckdb")
        forget_caches()
        context = pipeline.deployed.__wrapped__()
        context.load()
    forget_caches()
    export_environment()
    yield context
    context.close()


def hashes(rows: oracle.Rows) -> list[str]:
    return sorted(hashlib.sha256(json.dumps(row, default=str).encode()).hexdigest() for row in oracle.canonical(rows))


def differing(here: oracle.Rows, there: oracle.Rows) -> tuple[oracle.Rows, oracle.Rows]:
    """The first rows that only one engine has."""
    left, right = oracle.canonical(here), oracle.canonical(there)
    return [row for row in left if row not in right][:3], [row for row in right if row not in left][:3]


def compare(warehouse: Warehouse) -> dict[str, int]:
    """Model -> its rows; fails where the engines differ."""
    schemas = ", ".join(f"'{name}'" for name in SCHEMAS)
    query = (
        "SELECT table_schema || '.' || table_name, STRING_AGG(column_name, ', ' ORDER BY ordinal_position)"
        f" FROM information_schema.columns WHERE table_schema IN ({schemas}) GROUP BY 1"
    )
    models: dict[str, str] = dict(warehouse.read(query))
    found = {}
    with duckdb.connect(str(settings().warehouse_home / "warehouse.duckdb"), read_only=True) as engine:
        engine.execute("SET TimeZone = 'UTC'")
        for name, columns in models.items():
            here = warehouse.read(f"SELECT {columns} FROM {name}")
            there = engine.execute(f"SELECT {columns} FROM {name}").fetchall()
            assert hashes(here) == hashes(there), (name, differing(here, there))
            found[name] = len(here)
    return found


def test_both_engines_hold_the_same_rows(warehouse: Warehouse, second: Any, tmp_path: Path) -> None:
    shop = Shop(7)
    for step in range(3):
        for _ in range(4):
            warehouse.drop(**shop.batch())
        pipeline.load(warehouse.drops)
        end = pipeline._server_now()
        pipeline.context().run("prod", ignore_cron=True, end=end, execution_time=end)
        copy_landing(tmp_path)
        if step == 0:
            second.plan(
                "prod",
                skip_tests=True,
                no_prompts=True,
                auto_apply=True,
                execution_time=end,
                run=True,
                ignore_cron=True,
            )
        else:
            second.run("prod", ignore_cron=True, end=end, execution_time=end)
        second.engine_adapter.close()  # DuckDB opens a file for one writer
        found = compare(warehouse)
    assert len(found) > 50
    assert all(found[f"raw.{name}"] for name in TABLES)
    for name, rows in sorted(found.items()):
        print(f"{name:35} {rows:8} rows  equal")
