"""SQLMesh's cache of snapshots, which is kept in the project's folder, by fingerprint alone; with two differences.

1. It is checked against the state. The same model can have one physical table in one warehouse and another in the next,
or again after the janitor forgot it: a change that needs no new table keeps the old one where there is one. Stock
SQLMesh takes what it finds in the cache, and a run then fills tables that no view reads. `make test` and a second
WAREHOUSE_HOME share the folder.
2. Queries in SQLMesh's canonical form are not read with it: a run executes what is written (scripts/renderer.py), and a
tenth of its CPU time was their reading. What needs one makes it when it is asked for.
"""

import functools
from collections.abc import Callable, Iterable
from typing import Any

import sqlmesh.core.snapshot.cache as sqlmesh_cache
from sqlglot import exp
from sqlmesh.core.model import Model
from sqlmesh.core.model.cache import OptimizedQueryCache
from sqlmesh.core.snapshot import Snapshot, SnapshotId, SnapshotIdLike
from sqlmesh.core.state_sync.db.snapshot import SnapshotState
from sqlmesh.core.state_sync.db.utils import fetchall, snapshot_id_filter
from sqlmesh.utils.errors import SQLMeshError

Found = dict[SnapshotId, Snapshot]

ATTEMPTS = 3
"""Another warehouse's process may write its entry again between our throwing it away and our reading."""


def _get_snapshots(original: Callable[..., Found]) -> Callable[..., Found]:
    @functools.wraps(original)
    def get_snapshots(
        self: SnapshotState, snapshot_ids: Iterable[SnapshotIdLike], lock_for_update: bool = False
    ) -> Found:
        ids = list(snapshot_ids)
        for _ in range(ATTEMPTS):
            found = original(self, ids, lock_for_update)
            stale = _stale(self, found)
            if not stale:
                return found
            for snapshot_id in stale:
                cache = self._snapshot_cache
                cache._snapshot_cache._cache_entry_path(cache._entry_name(snapshot_id)).unlink(missing_ok=True)
        raise SQLMeshError(
            "other warehouses of this folder change its .cache all the time; run again when they are done"
        )

    return get_snapshots


def _stale(state: SnapshotState, found: Found) -> list[SnapshotId]:
    """Which of the snapshots found have other tables in the state."""
    versions: dict[SnapshotId, Any] = {}
    for where in snapshot_id_filter(state.engine_adapter, found, batch_size=state.SNAPSHOT_BATCH_SIZE):
        query = exp.select("name", "identifier", "version", "dev_version").from_(state.snapshots_table).where(where)
        for name, identifier, *tables in fetchall(state.engine_adapter, query):
            versions[SnapshotId(name=name, identifier=identifier)] = tables
    return [
        snapshot_id
        for snapshot_id, snapshot in found.items()
        if [snapshot.version, snapshot.dev_version] != versions.get(snapshot_id)
    ]


class _NoQueries(OptimizedQueryCache):
    def with_optimized_query(self, model: Model, name: str | None = None) -> bool:
        return False

    def put(self, model: Model) -> str | None:
        return None


def register() -> None:
    """Make SQLMesh's cache so; without effect the second time."""
    sqlmesh_cache.OptimizedQueryCache = _NoQueries  # type: ignore[attr-defined]
    if not hasattr(SnapshotState._get_snapshots, "__wrapped__"):
        SnapshotState._get_snapshots = _get_snapshots(SnapshotState._get_snapshots)  # type: ignore[method-assign]
