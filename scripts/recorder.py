"""The flight recorder: every load, run, plan and audit leaves its memory in schema ops, however it ends.

A thread writes it over a connection of its own, so that no recorder, however slow, late or broken, delays a run or
makes one fail: it warns once. While a process lives that connection holds the advisory lock (7275, run_id); a run
without an end whose lock nobody holds has crashed, and the next start says so in ops.runs.
"""

import functools
import json
import math
import os
import platform
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from importlib.metadata import version
from typing import TYPE_CHECKING, Any

from psycopg2.extensions import connection
from psycopg2.extras import execute_values

from scripts import log
from scripts.errors import Exit, Failure, WarehouseError, describe, plain_name
from scripts.settings import ROOT, connect

if TYPE_CHECKING:
    from sqlmesh.core.snapshot import Snapshot

LOGIN = "sqlmesh_user"
HEARTBEAT_SECONDS, RETRY_SECONDS = 30, 5
BATCH_SECONDS = 1
"""What a run does meanwhile is written together."""
PATIENCE_SECONDS = 5
"""So long, at most, a run waits at its end for its record."""

HAS_CRASHED = """
  status = 'running' AND NOT EXISTS (
    SELECT FROM pg_locks
    WHERE locktype = 'advisory' AND classid = 7275 AND objid = run_id::INTEGER AND objsubid = 2 AND granted
      AND database = (SELECT oid FROM pg_database WHERE datname = CURRENT_DATABASE())
  )
"""
MARK_CRASHED = f"""
  UPDATE ops.runs SET status = 'crashed', ended_at = heartbeat_at, error = 'its process ended without a word'
  WHERE {HAS_CRASHED}
"""

_BEGIN = f"""
  {MARK_CRASHED};
  WITH begun AS (
    INSERT INTO ops.runs (kind, environment, git_commit, versions, host, pid, started_at)
    VALUES (%s, %s, %s, %s, %s, %s, CLOCK_TIMESTAMP() - MAKE_INTERVAL(secs => %s))
    RETURNING run_id
  )
  SELECT run_id, PG_TRY_ADVISORY_LOCK(7275, run_id::INTEGER) FROM begun
"""


@dataclass
class Run:
    """A load, run, plan or audit at work; `failures` are its models that failed."""

    kind: str
    environment: str | None
    started: float = field(default_factory=time.monotonic)
    run_id: int | None = None
    models: list[tuple[Any, ...]] = field(default_factory=list)
    audits: list[tuple[Any, ...]] = field(default_factory=list)
    failures: list[Failure] = field(default_factory=list)
    exit_code: int = 0
    error: str | None = None
    over: bool = False
    written: threading.Event = field(default_factory=threading.Event)

    @property
    def status(self) -> str:
        """As in ops.runs."""
        return "running" if not self.over else "failed" if self.exit_code else "done"


class _Writer(threading.Thread):
    """Writes what runs of this process have done, every second at most."""

    def __init__(self) -> None:
        super().__init__(name="recorder", daemon=True)
        self.wake, self.rows = threading.Event(), threading.Lock()
        self.runs: list[Run] = []
        self.session: connection | None = None
        self.written_at = self.not_before = 0.0
        self.warned = False

    def run(self) -> None:
        while True:
            self.wake.wait(BATCH_SECONDS if self.runs else None)
            self.wake.clear()
            for run in list(self.runs):
                over = run.over
                self.attempt(run, over)
                if over:
                    self.runs.remove(run)
                    run.written.set()

    def attempt(self, run: Run, over: bool) -> None:
        """Whatever goes wrong must not reach the run. A connection that was there before may only have been cut."""
        fresh = self.session is None
        try:
            self.write(run, over)
        except Exception as error:
            with suppress(Exception):
                if self.session:
                    self.session.close()
            self.session = None
            if not fresh:
                self.attempt(run, over)
                return
            self.not_before = time.monotonic() + RETRY_SECONDS
            self.warn(error.what if isinstance(error, WarehouseError) else describe(error))

    def write(self, run: Run, over: bool) -> None:
        """Write what has happened since the last time; after a failure only some seconds later, or at the end."""
        now = time.monotonic()
        if now < self.not_before and not over:
            return
        news = over or run.run_id is None or run.models or run.audits
        if not news and now - self.written_at < HEARTBEAT_SECONDS:
            return
        self.written_at = now
        with self.rows:
            models, run.models, audits, run.audits = run.models, [], run.audits, []
        try:
            self.send(run, models, audits, over)
        except BaseException:
            with self.rows:
                run.models[:0], run.audits[:0] = models, audits
            raise

    def send(self, run: Run, models: list[tuple[Any, ...]], audits: list[tuple[Any, ...]], over: bool) -> None:
        fresh = self.session is None
        if fresh:
            # A record may be lost with the server's last moment; a run must not wait for the disk because of it.
            options = f"-c synchronous_commit=off -c statement_timeout={PATIENCE_SECONDS}s"
            self.session = connect(
                LOGIN, options=options, application_name="recorder", connect_timeout=PATIENCE_SECONDS
            )
        session, run_id = self.session, run.run_id
        assert session
        with session, session.cursor() as cursor:
            if run_id is None:
                facts = (run.kind, run.environment, _commit(), _versions(session), socket.gethostname(), os.getpid())
                cursor.execute(_BEGIN, (*facts, time.monotonic() - run.started))
                found = cursor.fetchone()
                assert found
                run_id = found[0]
            else:
                lock = ", PG_TRY_ADVISORY_LOCK(7275, run_id::INTEGER)" if fresh else ""
                cursor.execute(
                    "UPDATE ops.runs SET heartbeat_at = CLOCK_TIMESTAMP() WHERE run_id = %s RETURNING run_id" + lock,
                    [run_id],
                )
            for table, rows in (("model_runs", models), ("audit_results", audits)):
                if rows:
                    numbered = [(run_id, *row) for row in rows]
                    execute_values(cursor, f"INSERT INTO ops.{table} ({_COLUMNS[table]}) VALUES %s", numbered)
            if over:
                cursor.execute(
                    "UPDATE ops.runs SET status = %s, exit_code = %s, error = %s, ended_at = CLOCK_TIMESTAMP()"
                    " WHERE run_id = %s; SELECT PG_ADVISORY_UNLOCK(7275, %s)",
                    (run.status, run.exit_code, run.error, run_id, run_id),
                )
        run.run_id = run_id  # only now it is there

    def warn(self, what: str) -> None:
        if not self.warned:
            print(f"warning: not recorded in schema ops: {what} (`make init` makes its tables)", file=sys.stderr)
            log.event("recorder failed", error=what)
        self.warned = True


_COLUMNS = {
    "model_runs": "run_id, model_name, snapshot_version, interval_start, interval_end, rows, milliseconds, status",
    "audit_results": "run_id, model_name, audit_name, is_blocking, count, query, first_rows",
}

_writer: _Writer | None = None
_current: Run | None = None
_evaluated = threading.local()  # .model: what this thread has just evaluated, until its audits are known


def _commit() -> str | None:
    """The commit of this checkout."""
    with suppress(OSError):
        command = ["git", "-C", str(ROOT), "rev-parse", "HEAD"]
        done = subprocess.run(command, capture_output=True, text=True, check=False, stdin=subprocess.DEVNULL)
        return done.stdout.strip() or None
    return None


def _versions(session: connection) -> str:
    postgresql = session.get_parameter_status("server_version")
    return json.dumps({"python": platform.python_version(), "sqlmesh": version("sqlmesh"), "postgresql": postgresql})


@contextmanager
def recorded(kind: str, environment: str | None = None) -> Iterator[Run]:
    """Record what happens inside as one run; inside another, as part of that one."""
    global _current, _writer
    if _current:
        yield _current
        return
    if _writer is None or not _writer.is_alive():
        _writer = _Writer()
        _writer.start()
    run = _current = Run(kind, environment)
    _writer.runs.append(run)
    _writer.wake.set()
    try:
        yield run
    except BaseException as error:
        run.exit_code, run.error = _told(error)
        if isinstance(error, WarehouseError):
            error.failures = error.failures or run.failures
        raise
    finally:
        _current = None
        if run.exit_code and not run.error:
            run.error = "; ".join(f"{failure.model}: {failure.what}" for failure in run.failures) or None
        run.over = True
        _writer.wake.set()
        if not run.written.wait(PATIENCE_SECONDS):
            _writer.warn(f"the database has not answered for {PATIENCE_SECONDS} s")
        seconds = round(time.monotonic() - run.started, 3)
        values = {"run_id": run.run_id, "environment": environment, "exit_code": run.exit_code, "error": run.error}
        log.event(f"{kind} {run.status}", seconds=seconds, **values)


def _told(error: BaseException) -> tuple[int, str]:
    """Exit code and text of what ended a run."""
    if isinstance(error, WarehouseError):
        return int(error.code), error.what
    if isinstance(error, KeyboardInterrupt):
        return 130, "interrupted"
    if isinstance(error, SystemExit):
        return (error.code if isinstance(error.code, int) else 1), f"ended with {error.code}"
    return int(Exit.BUG), f"{type(error).__name__}: {describe(error)}"


def _add_model(snapshot: "Snapshot", milliseconds: int, rows: int | None, what: str | None, **kwargs: Any) -> None:
    from sqlmesh.utils.date import to_datetime

    run, name = _current, plain_name(snapshot.name)
    if run is None or _writer is None:
        return
    if what:
        run.failures.append(Failure(name, getattr(snapshot.model, "owner", None) or "operator", what))
    interval = (to_datetime(kwargs["start"]), to_datetime(kwargs["end"]))
    status = "failed" if what else "done"
    with _writer.rows:
        run.models.append((name, str(snapshot.version), *interval, rows, milliseconds, status))
    log.event(f"model {status}", model=name, rows=rows, milliseconds=milliseconds, **({"error": what} if what else {}))


def _add_audits(snapshot: "Snapshot", results: list[Any]) -> None:
    from scripts.evaluator import FIRST_ROWS

    run, name = _current, plain_name(snapshot.name)
    if run is None or _writer is None:
        return
    made = []
    for result in results:
        if result.skipped:
            continue
        count, query, rows = result.count or 0, None, None
        if count:
            query = result.query.sql("postgres", pretty=True, comments=False)
            rows = json.dumps(result.query.meta.get(FIRST_ROWS, []), default=str)
            log.event("audit failed", model=name, audit=result.audit.name, count=count, blocking=result.blocking)
        made.append((name, result.audit.name, result.blocking, count, query, rows))
    with _writer.rows:
        run.audits += made


def _evaluate(original: Callable[..., Any]) -> Callable[..., Any]:
    from sqlmesh.core.snapshot import SnapshotIdBatch

    @functools.wraps(original)
    def evaluate(self: Any, snapshot: "Snapshot", **kwargs: Any) -> Any:
        began = time.monotonic()
        try:
            result = original(self, snapshot, **kwargs)
        except Exception as error:
            _add_model(snapshot, _since(began), None, describe(error), **kwargs)
            raise
        batch = SnapshotIdBatch(snapshot_id=snapshot.snapshot_id, batch_id=kwargs.get("batch_index", 0))
        context = self.execution_tracker.get_execution_context(batch)
        rows = context.get_execution_stats().total_rows_processed if context else None
        _evaluated.model = (snapshot, _since(began), rows, kwargs)
        return result

    return evaluate


def _since(began: float) -> int:
    return math.ceil((time.monotonic() - began) * 1000)


def _audit(original: Callable[..., Any]) -> Callable[..., Any]:
    @functools.wraps(original)
    def audit(self: Any, snapshot: "Snapshot", **kwargs: Any) -> Any:
        evaluated, _evaluated.model = getattr(_evaluated, "model", None), None
        results = original(self, snapshot, **kwargs)
        failed = [result.audit.name for result in results if result.count and result.blocking]
        if evaluated and evaluated[0] is snapshot:
            _, milliseconds, rows, arguments = evaluated
            what = f"did not pass {', '.join(failed)}" if failed else None
            _add_model(snapshot, milliseconds, rows, what, **arguments)
        _add_audits(snapshot, results)
        return results

    return audit


def _run(original: Callable[..., Any]) -> Callable[..., Any]:
    @functools.wraps(original)
    def run(self: Any, environment: str | None = None, **kwargs: Any) -> Any:
        is_own = _current is None
        with recorded("run", environment or self.config.default_target_environment) as record:
            record.failures.clear()  # of an attempt before
            status = original(self, environment, **kwargs)
            if status.is_failure and is_own:
                record.exit_code = 1  # as its process ends; it raises nothing
            return status

    return run


def _apply(original: Callable[..., Any]) -> Callable[..., Any]:
    @functools.wraps(original)
    def apply(self: Any, plan: Any, *args: Any, **kwargs: Any) -> Any:
        if plan.explain:
            return original(self, plan, *args, **kwargs)
        with recorded("plan", plan.environment_naming_info.name) as record:
            record.failures.clear()
            return original(self, plan, *args, **kwargs)

    return apply


def register() -> None:
    """Record what SQLMesh does from now on, also by its own commands; without effect the second time."""
    from sqlmesh.core.context import GenericContext
    from sqlmesh.core.snapshot import SnapshotEvaluator

    for owner, name, wrapper in (
        (GenericContext, "run", _run),
        (GenericContext, "apply", _apply),
        (SnapshotEvaluator, "evaluate", _evaluate),
        (SnapshotEvaluator, "audit", _audit),
    ):
        original = getattr(owner, name)
        if not hasattr(original, "_recorded"):
            made = wrapper(original)
            made._recorded = True  # type: ignore[attr-defined]
            setattr(owner, name, made)
