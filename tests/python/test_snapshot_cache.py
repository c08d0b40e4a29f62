"""That a cache which several states share never says where a model's rows are (scripts/snapshot_cache.py)."""

import inspect
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
from sqlmesh.core.config import DuckDBConnectionConfig
from sqlmesh.core.dialect import parse
from sqlmesh.core.model import load_sql_based_model
from sqlmesh.core.model.cache import OptimizedQueryCache
from sqlmesh.core.snapshot import Snapshot, SnapshotChangeCategory, SnapshotId
from sqlmesh.core.state_sync.db import EngineAdapterStateSync
from sqlmesh.core.state_sync.db.snapshot import SnapshotState
from sqlmesh.utils.errors import SQLMeshError

from scripts import snapshot_cache
from scripts.settings import ROOT
from tests.python.conftest import Home

STOCK: Callable[..., snapshot_cache.Found] = inspect.unwrap(SnapshotState._get_snapshots)


@pytest.fixture(params=[True, False], ids=["checked", "stock"])
def is_checked(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> bool:
    get_snapshots = snapshot_cache._get_snapshots(STOCK) if request.param else STOCK
    monkeypatch.setattr(SnapshotState, "_get_snapshots", get_snapshots)
    return bool(request.param)


def _state(cache: Path) -> EngineAdapterStateSync:
    state = EngineAdapterStateSync(DuckDBConnectionConfig().create_engine_adapter(), "sqlmesh", cache_dir=cache)
    state.migrate()
    return state


def _snapshot(column: str) -> Snapshot:
    model = load_sql_based_model(parse(f"MODEL (name marts.one, dialect postgres); SELECT 1 AS {column}"))
    snapshot = Snapshot.from_node(model, nodes={})
    snapshot.categorize_as(SnapshotChangeCategory.BREAKING)
    return snapshot


def _two_states(cache: Path) -> list[tuple[EngineAdapterStateSync, Snapshot]]:
    """The same model, with a table of its own in one state, and with that of the version before in the other."""
    built_anew, changed = _snapshot("a"), _snapshot("a")
    changed.previous_versions = (_snapshot("b").data_version,)
    changed.categorize_as(SnapshotChangeCategory.METADATA)
    assert changed.snapshot_id == built_anew.snapshot_id
    assert changed.table_name() != built_anew.table_name()
    states = [(_state(cache), built_anew), (_state(cache), changed)]
    for state, snapshot in states:
        state.push_snapshots([snapshot])
    return states


def test_the_table_is_that_of_the_state_and_not_of_another_that_shares_the_cache(
    tmp_path: Path, is_checked: bool
) -> None:
    """Stock SQLMesh mixes them up; should it cease to, the module can go."""
    (first, built_anew), (second, changed) = _two_states(tmp_path)
    for state, own in ((second, changed), (first, built_anew), (second, changed)):
        table = state.get_snapshots([own.snapshot_id])[own.snapshot_id].table_name()
        assert table == (own if is_checked else built_anew).table_name()


@pytest.mark.parametrize("times", [1, snapshot_cache.ATTEMPTS])
def test_another_warehouse_that_writes_at_the_same_time_is_not_believed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, times: int
) -> None:
    (first, _), (second, changed) = _two_states(tmp_path)
    left = iter(range(times))

    def get_snapshots(
        self: SnapshotState, ids: list[SnapshotId], lock_for_update: bool = False
    ) -> snapshot_cache.Found:
        if self is second.snapshot_state and next(left, None) is not None:
            STOCK(first.snapshot_state, ids)  # which writes its entry
        return STOCK(self, ids, lock_for_update)

    monkeypatch.setattr(SnapshotState, "_get_snapshots", snapshot_cache._get_snapshots(get_snapshots))
    if times < snapshot_cache.ATTEMPTS:
        assert second.get_snapshots([changed])[changed.snapshot_id].table_name() == changed.table_name()
    else:
        with pytest.raises(SQLMeshError, match="run again when they are done"):
            second.get_snapshots([changed])


def test_a_snapshot_that_the_state_does_not_know_is_none(tmp_path: Path, is_checked: bool) -> None:
    first, second, snapshot = _state(tmp_path), _state(tmp_path), _snapshot("a")
    first.push_snapshots([snapshot])
    assert second.get_snapshots([snapshot.snapshot_id]) == {}
    assert second.get_snapshots([]) == {}


def test_queries_in_canonical_form_are_made_when_they_are_asked_for(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Stock SQLMesh stores and reads one for each model; should it cease to, the class can go."""
    for name, cache, expected in (("stock", OptimizedQueryCache, 1), ("ours", snapshot_cache._NoQueries, 0)):
        monkeypatch.setattr("sqlmesh.core.snapshot.cache.OptimizedQueryCache", cache)
        state, snapshot = _state(tmp_path / name), _snapshot("a")
        state.push_snapshots([snapshot])
        found = state.get_snapshots([snapshot.snapshot_id])[snapshot.snapshot_id]
        assert len([*(tmp_path / name).glob("optimized_query*")]) == expected
        assert found.model.columns_to_types == snapshot.model.columns_to_types != {}


def test_every_command_checks(server: Home) -> None:
    """Also `sqlmesh plan`, which begins with config.py."""
    code = "import config; from scripts.snapshot_cache import SnapshotState as S; print(S._get_snapshots.__wrapped__)"
    command = [sys.executable, "-c", code]
    done = subprocess.run(command, cwd=ROOT, env=server.environment(), capture_output=True, text=True, check=False)
    assert "_get_snapshots" in done.stdout, done.stderr
