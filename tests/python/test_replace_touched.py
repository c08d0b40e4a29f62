"""What a run touched is asked once (materializations/replace_touched.py, docs/decisions/0033-a-run-asks-once.md)."""

from collections.abc import Iterator
from datetime import UTC, datetime

import duckdb
import pytest
from sqlglot import exp, parse_one
from sqlmesh.core.engine_adapter import create_engine_adapter
from sqlmesh.core.engine_adapter.base import EngineAdapter

from materializations.replace_touched import ReplaceTouched

RUN, NEXT_RUN = datetime(2026, 3, 1, 11, tzinfo=UTC), datetime(2026, 3, 1, 12, tzinfo=UTC)

LOADED = "_loaded_at BETWEEN CAST('2026-03-01' AS TIMESTAMP) AND CAST('2026-03-01 10:59:59' AS TIMESTAMP)"
ORDERS = f"SELECT order_id FROM staging.order_touches__12 WHERE {LOADED} AND NOT order_id IS NULL"
DAYS = f"""
    SELECT days.order_date FROM days INNER JOIN staging.order_touches__12 AS touches
    ON days.order_date = touches.order_date WHERE {LOADED}
"""


@pytest.fixture
def adapter() -> Iterator[EngineAdapter]:
    """Two touches in the interval, one of them of an order that has not arrived, and one before it."""
    made = create_engine_adapter(duckdb.connect, "duckdb")
    for statement in (
        "CREATE SCHEMA staging",
        "CREATE TABLE days AS SELECT DATE '2026-02-28' AS order_date",
        "CREATE TABLE loads AS SELECT * FROM (VALUES ('7', DATE '2026-02-28', TIMESTAMP '2026-03-01 08:00'),"
        " (NULL, NULL, TIMESTAMP '2026-03-01 08:00'), ('8', DATE '2026-02-28', TIMESTAMP '2026-02-28 08:00'))"
        " AS loads(order_id, order_date, _loaded_at)",
        "CREATE VIEW staging.order_touches__12 AS SELECT * FROM loads",
    ):
        made.execute(statement)
    yield made
    made.close()


def touched(adapter: EngineAdapter, query: str, run: datetime) -> list[str]:
    """The keys that a model of a run finds touched."""
    found = parse_one(query, into=exp.Select)
    once = ReplaceTouched(adapter)._asked_once(found, run)
    return [str(key) for (key,) in adapter.fetchall(once)]


def test_models_of_a_run_are_told_the_same_touches_and_those_of_the_next_run_what_is_there_then(
    adapter: EngineAdapter,
) -> None:
    assert touched(adapter, ORDERS, RUN) == ["7"]
    adapter.execute("INSERT INTO loads VALUES ('9', DATE '2026-02-28', TIMESTAMP '2026-03-01 10:00')")
    assert touched(adapter, ORDERS, RUN) == ["7"]
    assert touched(adapter, DAYS, RUN) == ["2026-02-28"]  # one touch, whichever columns a model asks for
    assert touched(adapter, ORDERS, NEXT_RUN) == ["7", "9"]
    assert touched(adapter, DAYS, NEXT_RUN) == ["2026-02-28"] * 2


def test_another_interval_is_asked_for_itself(adapter: EngineAdapter) -> None:
    assert touched(adapter, ORDERS, RUN) == ["7"]
    assert sorted(touched(adapter, ORDERS.replace("'2026-03-01'", "'2026-02-28'"), RUN)) == ["7", "8"]


def test_nothing_but_touches_is_kept(adapter: EngineAdapter) -> None:
    assert touched(adapter, f"SELECT order_id FROM loads WHERE {LOADED} AND NOT order_id IS NULL", RUN) == ["7"]
    adapter.execute("DELETE FROM loads")
    assert touched(adapter, f"SELECT order_id FROM loads WHERE {LOADED}", RUN) == []


def test_what_a_transaction_kept_is_gone_with_it(adapter: EngineAdapter) -> None:
    adapter.execute("BEGIN")
    assert touched(adapter, ORDERS, RUN) == ["7"]
    adapter.execute("ROLLBACK")
    assert touched(adapter, ORDERS, RUN) == ["7"]
