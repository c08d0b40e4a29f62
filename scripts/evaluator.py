"""SQLMesh's evaluator, with one thing that it leaves open: what a model writes and its audits are one transaction.

Stock SQLMesh commits the rows and audits them afterwards, so that readers see rows which a blocking audit then refuses.
Here the audits run before the commit, on the session that wrote; a blocking one that fails takes the rows back.
They also find what the transaction knows: the keys that were touched (macros/touched.py).
"""

import functools
import threading
from collections.abc import Callable
from typing import Any

import pandas as pd
from sqlglot import exp
from sqlmesh.core.snapshot import Snapshot, SnapshotEvaluator

from macros.touched import TOUCHED, replaced_key
from scripts.contract import is_personal

_NOT_OF_AUDITS = {"allow_destructive_snapshots", "allow_additive_snapshots", "batch_index", "target_table_exists"}

FIRST_ROWS, KEPT_ROWS = "first_rows", 50
"""Where the query of a failed audit keeps its first rows, by column; and how many."""

BLANK = "(personal)"
"""What stands there instead of personal data: rows are told, recorded and mailed."""

_audited = threading.local()  # .results: of the model that this thread has just evaluated


class _Refused(Exception):
    """Rolls the transaction back; SQLMesh raises its own error when it looks at the results."""


def _evaluate(original: Callable[..., Any], audit: Callable[..., Any]) -> Callable[..., Any]:
    @functools.wraps(original)
    def evaluate(self: SnapshotEvaluator, snapshot: Snapshot, **kwargs: Any) -> Any:
        _audited.results = None
        of_audits = {name: value for name, value in kwargs.items() if name not in _NOT_OF_AUDITS}
        adapter, wap_id = self.get_adapter(snapshot.model_gateway), None
        if _is_standing_view(snapshot, adapter, kwargs.get("deployability_index")):
            return None
        try:
            with adapter.transaction():
                wap_id = original(self, snapshot, **kwargs)
                results = _keep_first_rows(adapter, audit(self, snapshot, **of_audits))
                if any(result.count and result.blocking for result in results):
                    raise _Refused
                if replaced_key(adapter):
                    adapter.execute(f"DROP TABLE {TOUCHED}")
        except _Refused:
            pass
        _audited.results = (snapshot.snapshot_id, results)
        return wap_id

    return evaluate


def _is_standing_view(snapshot: Snapshot, adapter: Any, deployability_index: Any) -> bool:
    """A view that is there and has nothing to check: SQLMesh would render its query, then leave it as it is."""
    if not (snapshot.is_model and snapshot.model.kind.is_view and adapter.HAS_VIEW_BINDING):
        return False
    model, is_deployable = snapshot.model, not deployability_index or deployability_index.is_deployable(snapshot)
    intervals = snapshot.intervals if is_deployable else snapshot.dev_intervals
    has_more = snapshot.is_materialized_view or model.audits or model.pre_statements or model.post_statements
    return bool(intervals and not has_more and adapter.table_exists(snapshot.table_name(is_deployable)))


def _keep_first_rows(adapter: Any, results: list[Any]) -> list[Any]:
    """What an audit found goes with its query, to be told: after a rollback nobody can ask again."""
    for result in results:
        if result.count:
            found = exp.select("*").from_(result.query.copy().subquery("found")).limit(KEPT_ROWS)
            rows = adapter.fetchdf(found, quote_identifiers=True).to_dict("records")
            result.query.meta[FIRST_ROWS] = [{name: _told(name, value) for name, value in row.items()} for row in rows]
    return results


def _told(name: str, value: Any) -> Any:
    if value is None or value is pd.NaT or value is pd.NA or value != value:  # of pandas: no value
        return None
    return BLANK if is_personal(name) else value


def _audit(original: Callable[..., Any]) -> Callable[..., Any]:
    @functools.wraps(original)
    def audit(self: SnapshotEvaluator, snapshot: Snapshot, **kwargs: Any) -> Any:
        audited, _audited.results = getattr(_audited, "results", None), None
        if audited and audited[0] == snapshot.snapshot_id:
            return audited[1]
        return _keep_first_rows(self.get_adapter(snapshot.model_gateway), original(self, snapshot, **kwargs))

    return audit


def register() -> None:
    """Make SQLMesh evaluate and audit in one transaction; without effect the second time."""
    if not hasattr(SnapshotEvaluator.audit, "__wrapped__"):
        audit = SnapshotEvaluator.audit
        SnapshotEvaluator.audit = _audit(audit)  # type: ignore[method-assign]
        SnapshotEvaluator.evaluate = _evaluate(SnapshotEvaluator.evaluate, audit)  # type: ignore[method-assign]
