"""SQLMesh's evaluator, with one thing that it leaves open: what a model writes and its audits are one transaction.

Stock SQLMesh commits the rows and audits them afterwards, so that readers see rows which a blocking audit then refuses.
Here the audits run before the commit, on the session that wrote; a blocking one that fails takes the rows back.
They also find what the transaction knows: the keys that were touched (macros/touched.py).
"""

import functools
import threading
from collections.abc import Callable
from typing import Any

from sqlglot import exp
from sqlmesh.core.snapshot import Snapshot, SnapshotEvaluator

from macros.touched import TOUCHED, replaced_key

_NOT_OF_AUDITS = {"allow_destructive_snapshots", "allow_additive_snapshots", "batch_index", "target_table_exists"}

FIRST_ROWS = "first_rows"
"""Where the query of a failed audit keeps its first rows, as texts."""

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
                results = audit(self, snapshot, **of_audits)
                if refusals := [result for result in results if result.count and result.blocking]:
                    for result in refusals:
                        keep_first_rows(adapter, result.query)
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


def keep_first_rows(adapter: Any, query: exp.Query) -> None:
    """What an audit found goes with its query, to be told: after the rollback nobody can ask again."""
    rows = adapter.fetchdf(exp.select("*").from_(query.copy().subquery("found")).limit(3), quote_identifiers=True)
    query.meta[FIRST_ROWS] = [
        ", ".join(f"{name} {value}" for name, value in list(row.items())[:5]) for row in rows.to_dict("records")
    ]


def _audit(original: Callable[..., Any]) -> Callable[..., Any]:
    @functools.wraps(original)
    def audit(self: SnapshotEvaluator, snapshot: Snapshot, **kwargs: Any) -> Any:
        audited, _audited.results = getattr(_audited, "results", None), None
        if audited and audited[0] == snapshot.snapshot_id:
            return audited[1]
        return original(self, snapshot, **kwargs)

    return audit


def register() -> None:
    """Make SQLMesh evaluate and audit in one transaction; without effect the second time."""
    if not hasattr(SnapshotEvaluator.audit, "__wrapped__"):
        audit = SnapshotEvaluator.audit
        SnapshotEvaluator.audit = _audit(audit)  # type: ignore[method-assign]
        SnapshotEvaluator.evaluate = _evaluate(SnapshotEvaluator.evaluate, audit)  # type: ignore[method-assign]
