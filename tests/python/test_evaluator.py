"""What SQLMesh must still do for a model's rows and its audits to be one transaction (scripts/evaluator.py)."""

import inspect
from types import SimpleNamespace
from typing import Any

import pytest
from sqlglot import exp
from sqlmesh.core.scheduler import Scheduler
from sqlmesh.core.snapshot import SnapshotEvaluator

from scripts import evaluator


def test_the_methods_are_where_they_were() -> None:
    """The arguments that are passed on are arguments of the originals; the scheduler evaluates, and audits after it."""
    evaluate = inspect.signature(inspect.unwrap(SnapshotEvaluator.evaluate)).parameters
    audit = inspect.signature(inspect.unwrap(SnapshotEvaluator.audit)).parameters
    assert evaluator._NOT_OF_AUDITS.issubset(evaluate)
    assert set(evaluate) - evaluator._NOT_OF_AUDITS <= set(audit)
    source = inspect.getsource(Scheduler.evaluate)
    assert source.index("self.snapshot_evaluator.evaluate(") < source.index("self._audit_snapshot(")
    assert "self.snapshot_evaluator.audit(" in inspect.getsource(Scheduler._audit_snapshot)


class Session:
    """An adapter that writes down what happens to its transaction."""

    dialect = "postgres"

    def __init__(self) -> None:
        self.events: list[str] = []

    def transaction(self) -> "Session":
        return self

    def __enter__(self) -> None:
        self.events.append("begin")

    def __exit__(self, kind: Any, *_: object) -> None:
        self.events.append("rollback" if kind else "commit")

    def fetchone(self, query: str) -> tuple[str] | None:
        return ("order_id",) if "touched" in query else None

    def fetchdf(self, *_: object, **__: object) -> Any:
        return SimpleNamespace(to_dict=lambda _: [{"order_id": "A"}])

    def execute(self, query: str) -> None:
        self.events.append(query)


@pytest.mark.parametrize(
    ("count", "blocking", "ending"),
    [
        (0, True, ["DROP TABLE touched", "commit"]),
        (7, False, ["DROP TABLE touched", "commit"]),
        (7, True, ["rollback"]),
    ],
)
def test_audits_come_before_the_commit_and_once(count: int, blocking: bool, ending: list[str]) -> None:
    session = Session()
    snapshot: Any = SimpleNamespace(model_gateway=None, snapshot_id="s", name="s", is_model=False)
    sqlmesh: Any = SimpleNamespace(get_adapter=lambda _: session)
    result = SimpleNamespace(count=count, blocking=blocking, query=exp.select("1"))

    def write(*_: object, **arguments: Any) -> None:
        assert arguments == {"start": 1, "batch_index": 0}
        session.events.append("write")

    def check(*_: object, **arguments: Any) -> list[Any]:
        assert arguments == {"start": 1}
        session.events.append("audit")
        return [result]

    evaluator._evaluate(write, check)(sqlmesh, snapshot, start=1, batch_index=0)
    assert session.events == ["begin", "write", "audit", *ending]
    audit = evaluator._audit(check)
    assert audit(sqlmesh, snapshot, start=1) == [result]  # the scheduler's call: what was found, not asked again
    assert session.events[-1] == ending[-1]
    audit(sqlmesh, snapshot, start=1)  # somebody else's call: asked
    assert session.events[-1] == "audit"


@pytest.mark.parametrize(
    ("change", "is_evaluated"),
    [
        ({}, False),
        ({"exists": False}, True),
        ({"intervals": []}, True),
        ({"audits": [("grain_is_unique", {})]}, True),
        ({"post_statements": ["GRANT"]}, True),
        ({"is_view": False}, True),
        ({"binds": False}, True),
    ],
)
def test_a_view_that_is_there_is_left_alone(change: dict[str, Any], is_evaluated: bool) -> None:
    case = {"exists": True, "intervals": [(0, 1)], "audits": [], "post_statements": [], "is_view": True, "binds": True}
    case |= change
    session: Any = Session()
    session.HAS_VIEW_BINDING = case["binds"]
    session.table_exists = lambda name: case["exists"] and name == "analytics_raw.orders__1"
    model = SimpleNamespace(
        kind=SimpleNamespace(is_view=case["is_view"]),
        audits=case["audits"],
        pre_statements=[],
        post_statements=case["post_statements"],
    )
    snapshot: Any = SimpleNamespace(
        model_gateway=None,
        snapshot_id="v",
        name="v",
        is_model=True,
        is_materialized_view=False,
        model=model,
        intervals=case["intervals"],
        dev_intervals=[],
        table_name=lambda is_deployable: "analytics_raw.orders__1",
    )
    sqlmesh: Any = SimpleNamespace(get_adapter=lambda _: session)
    evaluator._evaluate(lambda *_, **__: session.events.append("write"), lambda *_, **__: [])(sqlmesh, snapshot)
    assert ("write" in session.events) == is_evaluated
