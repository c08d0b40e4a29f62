"""What others have built on the marts outlives a change of them; what the change breaks is named before, and refused.

SQLMesh drops a view whose columns change, and everything that reads it. Here that is made again in the same transaction
(config/postgres/view_keeper.sql). Whether all of it can be is tried before a plan for prod is shown, and rolled back.
"""

import functools
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from typing import Any, NamedTuple

from psycopg2 import errors
from sqlglot import exp
from sqlmesh.core.console import TerminalConsole, get_console
from sqlmesh.core.plan import Plan, PlanBuilder
from sqlmesh.core.snapshot import Snapshot
from sqlmesh.utils.errors import SQLMeshError

from scripts.errors import OLDER_SETUP, Exit, WarehouseError
from scripts.settings import connect, settings

LOGIN = "sqlmesh_user"

PATIENCE = "5s"
"""How long a trial waits for readers of a view."""

HINT = """talk to their owners, or drop them with `make deploy BREAK=1` (WAREHOUSE_BREAK_DEPENDENTS=1 for sqlmesh);
  their definitions are kept in view_keeper.dropped"""


class Loss(NamedTuple):
    """Something that could not be made again after the view it was built on had been dropped."""

    object: str
    owner: str | None
    reason: str

    def __str__(self) -> str:
        return self.object + (f" of {self.owner}" if self.owner else "") + f": {self.reason}"


class PlanRefused(WarehouseError, SQLMeshError):
    """A plan that is not applied. As an error of SQLMesh it ends `sqlmesh plan` without a trace."""


@contextmanager
def kept(cursor: Any, view: exp.Table, change: str) -> Iterator[None]:
    """Around the replacement of a view, in a transaction: what depended on it is there again afterwards.

    What cannot be is named, with the change, and its definition stays in view_keeper.dropped. Raises PlanRefused when
    some of it belongs to others, unless that is allowed.
    """
    losses: list[Loss] = []
    with _kept(cursor, _quoted(view), losses, fill=True):
        yield
    _refuse(losses, [f"{view.db}.{view.name}: {change}"])


@contextmanager
def _kept(cursor: Any, view: str, losses: list[Loss], fill: bool) -> Iterator[None]:
    if not _exists(cursor, view):
        yield
        return
    cursor.execute("SELECT view_keeper.keep(%s)", [view])
    (name,) = cursor.fetchone()
    yield
    cursor.execute("SELECT object, owner, reason FROM view_keeper.restore(%s, %s)", [name, fill])
    losses.extend(Loss(*row) for row in cursor.fetchall())
    notices = cursor.connection.notices
    for notice in notices:
        if notice.startswith("WARNING:"):
            get_console().log_warning(notice.removeprefix("WARNING:").strip())
    notices.clear()


def _quoted(table: exp.Table) -> str:
    """The name of a view in its database."""
    return exp.table_(table.name, db=table.db, quoted=True).sql("postgres")


def _exists(cursor: Any, view: str) -> bool:
    """Whether there is such a view, in a database that keeps what depends on it."""
    cursor.execute("SELECT TO_REGCLASS(%s) IS NOT NULL AND TO_REGPROC('view_keeper.keep') IS NOT NULL", [view])
    return bool(cursor.fetchone()[0])


def _refuse(losses: list[Loss], changes: list[str]) -> None:
    if not losses:
        return
    what = "\n  ".join(["what others have built breaks by this change", *changes, *(f"  {loss}" for loss in losses)])
    if settings().warehouse_break_dependents or all(loss.owner == LOGIN for loss in losses):
        get_console().log_warning(f"{what}\n  it is dropped, and its definition kept in view_keeper.dropped")
    else:
        raise PlanRefused(what, HINT, Exit.MISMATCH)


def check(plan: Plan) -> None:
    """Try what a plan for prod does to the views that others have built on, and roll it back.

    Raises PlanRefused when it would break one, or when readers do not let go of a view (TRANSIENT).
    """
    if plan.is_dev or plan.explain or settings().warehouse_gateway != "postgres":
        return
    losses: list[Loss] = []
    changes: list[str] = []
    snapshots = [s for s in plan.context_diff.snapshots.values() if s.is_model and not s.is_external]
    removed = [s for s in plan.context_diff.removed_snapshots.values() if s.is_model and not s.is_external]
    views: list[tuple[str, Snapshot | None]] = [(_view(plan, s), None if s.is_embedded else s) for s in snapshots]
    views += [(_view(plan, s), None) for s in removed]
    with closing(connect(LOGIN, options=f"-c lock_timeout={PATIENCE}")) as session, session.cursor() as cursor:
        try:
            cursor.execute("SELECT TO_REGPROC('view_keeper.keep') IS NULL")
            if cursor.fetchone() == (True,):
                raise PlanRefused(*OLDER_SETUP)
            for view, snapshot in sorted(views, key=lambda pair: pair[0]):
                if _is_built_on(cursor, view):
                    changes += _try(cursor, view, snapshot, losses)
        except (errors.LockNotAvailable, errors.DeadlockDetected) as error:
            raise PlanRefused(
                f"a view is in use, so what this change breaks could not be tried: {error.diag.message_primary}",
                "try again when their queries have ended",
                Exit.TRANSIENT,
            ) from None
        finally:
            session.rollback()
    _refuse(losses, changes)


def _view(plan: Plan, snapshot: Any) -> str:
    naming = plan.environment_naming_info
    return _quoted(snapshot.qualified_view_name.table_for_environment(naming, dialect="postgres"))


def _is_built_on(cursor: Any, view: str) -> bool:
    if not _exists(cursor, view):
        return False
    cursor.execute("SELECT EXISTS (SELECT FROM view_keeper.dependents(%s))", [view])
    return bool(cursor.fetchone()[0])


def _columns(cursor: Any, relation: str) -> dict[str, str]:
    cursor.execute(
        "SELECT attname, FORMAT_TYPE(atttypid, atttypmod) FROM pg_attribute"
        " WHERE attrelid = TO_REGCLASS(%s) AND attnum > 0 AND NOT attisdropped ORDER BY attnum",
        [relation],
    )
    return dict(cursor.fetchall())


def _try(cursor: Any, view: str, snapshot: Snapshot | None, losses: list[Loss]) -> list[str]:
    """Put an empty view of the new columns into the place of `view`. Returns what changes, if that breaks something."""
    before = _columns(cursor, view)
    after = _columns_to_be(cursor, snapshot, before) if snapshot else {}
    if list(after.items())[: len(before)] == list(before.items()):
        return []
    values = [f"NULL::{kind} AS {exp.to_identifier(name, quoted=True).sql('postgres')}" for name, kind in after.items()]
    create = f"VIEW {view} AS SELECT {', '.join(values)} WHERE FALSE"
    found = len(losses)
    if snapshot:
        cursor.execute("SAVEPOINT in_place")
        try:
            cursor.execute(f"CREATE OR REPLACE {create}")
            return []
        except errors.InvalidTableDefinition:
            cursor.execute("ROLLBACK TO SAVEPOINT in_place")
    with _kept(cursor, view, losses, fill=False):
        cursor.execute(f"DROP VIEW {view} CASCADE")
        if snapshot:
            cursor.execute(f"CREATE {create}")
            after = _columns(cursor, view)
    if len(losses) == found:
        return []
    differences = [f"{name} is gone" for name in before if name not in after]
    differences += [f"{name} becomes {after[name]}" for name in before if after.get(name, before[name]) != before[name]]
    name = view.replace('"', "")
    return [f"{name}: {', '.join(differences) or 'new columns'}" if snapshot else f"{name}: it is removed"]


def _columns_to_be(cursor: Any, snapshot: Snapshot, before: dict[str, str]) -> dict[str, str]:
    """The columns that a plan gives a view: those of the table it will read, or as declared while there is none."""
    if snapshot.version and not snapshot.is_forward_only:
        there = _columns(cursor, _quoted(exp.to_table(snapshot.table_name(), dialect="postgres")))
        if there:
            return there
    unknown = exp.DataType.Type.UNKNOWN
    return {
        name: before.get(name, "text") if kind.is_type(unknown) else kind.sql("postgres")
        for name, kind in (snapshot.model.columns_to_types or {}).items()
    } or before


def _plan(original: Callable[..., None]) -> Callable[..., None]:
    @functools.wraps(original)
    def plan(self: TerminalConsole, plan_builder: PlanBuilder, *args: Any, **kwargs: Any) -> None:
        check(plan_builder.build())
        original(self, plan_builder, *args, **kwargs)

    return plan


def register() -> None:
    """Make SQLMesh check a plan before it shows it; without effect the second time."""
    if not hasattr(TerminalConsole.plan, "__wrapped__"):
        TerminalConsole.plan = _plan(TerminalConsole.plan)  # type: ignore[method-assign]
