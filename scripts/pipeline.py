"""The work of the warehouse through SQLMesh: build prod, deploy a change, run what is missing; in one process."""

import contextlib
import logging
import os
import shutil
import sys
from collections.abc import Callable, Iterator
from datetime import UTC, datetime, timedelta
from functools import cache, lru_cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

import psycopg2
from psycopg2 import errors
from psycopg2.extensions import connection
from tenacity import RetryCallState, Retrying, retry_if_exception_type, stop_after_attempt, wait_exponential_jitter

from scripts import alerts, backup, bootstrap, catalog, log, server, sessions
from scripts.contract import TABLES
from scripts.errors import Exit, Failure, PassingFault, WarehouseError, of_database, plain_name, sqlstate
from scripts.recorder import recorded
from scripts.settings import ROOT, connect, export_environment, remember_reporting, settings

if TYPE_CHECKING:
    from sqlmesh import Context
    from sqlmesh.core.environment import Environment
    from sqlmesh.core.snapshot import Snapshot, SnapshotId
    from sqlmesh.utils.errors import AuditError

os.environ.setdefault("MAX_FORK_WORKERS", "1")  # of SQLMesh, read when it is imported: forks cost a second of CPU

PROD = "prod"
EPOCH = datetime(1970, 1, 1, tzinfo=UTC)

# How ops.acquire_run_lock says that nothing was done (config/postgres/ops.sql).
BUSY = {
    "another sqlmesh plan or run is at work": Exit.LOCKED,
    "a load has been publishing for 10 minutes": Exit.LOCKED,
    "this machine's clock is": Exit.SERVICE_DOWN,
}

ATTEMPTS, FIRST_PAUSE, LONGEST_PAUSE = 3, 2, 20
"""How often something is done that failed for a reason which may pass, and seconds between."""

CLOCK_SECONDS = 60
"""The clocks of this machine and of the server may differ by so much."""

FREE_BYTES = 256 << 20
"""With less room on the disk of the embedded server nothing is begun: a disk that is full stops PostgreSQL."""

OUTAGE = timedelta(hours=26)
"""A scheduled job that has not run for longer has missed more than a night, and says that it catches up."""

# How ops.check_pii_key says that the key is not there, or another one.
WRONG_KEY = ("this session has no key for personal data", "the key for personal data is not the one")

# How SQLMesh says that the state is of an older version.
MIGRATION = "Please run a migration"


@cache
def deployed() -> "Context":
    """SQLMesh as far as a run needs it, once per process: it knows what is deployed, not the project in this folder.

    Raises WarehouseError when the server or the configuration is at fault, or the state is of another version.
    """
    from sqlmesh.utils.errors import SQLMeshError

    made = _open()
    try:
        _ = made.state_sync
    except SQLMeshError as error:
        if sqlstate(error):
            raise of_database(error, "the state could not be read", "look after the server, then run again") from None
        raise _other_version(error) from None
    return made


def _open() -> "Context":
    export_environment()
    _ask("SELECT TRUE")
    connect("sqlmesh_state_user").close()  # says what is wrong with the server, and at once
    from sqlmesh import Context, configure_logging  # 2 s of import, only for the commands that need it
    from sqlmesh.core.console import configure_console

    if not sys.stdout.isatty():
        os.environ.setdefault("COLUMNS", "160")  # for a log, a line a model; a terminal knows its own
    configure_console()
    with _sqlmesh("the project could not be opened"):
        configure_logging(log_file_dir=ROOT / "logs", write_to_file=True)
        logging.getLogger("sqlmesh").propagate = False
        made = Context(paths=[str(ROOT)], load=False)
        made._load_materializations()  # before what is deployed is read: its kinds would be unknown
    return made


def _other_version(error: Exception) -> WarehouseError:
    hint = "run `make migrate`" if MIGRATION in str(error) else "install the version that wrote it"
    return WarehouseError(
        f"the state is of another version of SQLMesh: {str(error).partition(' Please ')[0]}",
        f"{hint}; see docs/runbooks/upgrade-sqlmesh.md",
        Exit.MISMATCH,
    )


def context() -> "Context":
    """The project in this folder as SQLMesh sees it, loaded once per process.

    Raises WarehouseError when it cannot be loaded.
    """
    project = deployed()
    if not project.models:
        with _sqlmesh("the project could not be loaded"):
            project.load()
    return project


def init() -> None:
    """Server, databases, roles, schemas, and an empty prod; what is there stays as it is."""
    _say(server.up())
    _say(bootstrap.apply())
    if context().state_reader.get_environment(PROD) is None:
        _say("building prod")
        deploy()


def deploy() -> None:
    """Bring prod to the code in this folder and up to now.

    A change must pass linter and unit tests, and is asked for when a person is there to answer; the first build has
    nothing to protect. Raises WarehouseError when a test, a check or a model fails; prod then is what it was.
    """
    sessions.reap()
    with recorded("plan", PROD):
        _patiently(_deploy)


def _deploy() -> None:
    environment = context().state_reader.get_environment(PROD)
    if environment and environment.finalized_ts:
        with _sqlmesh("the plan for prod was not made"):
            has_changes = context().plan_builder(PROD, skip_tests=True, skip_linter=True).build().has_changes
        if not has_changes:
            _say("prod has the code of this folder already")
            _run_missing()
            _publish()
            return
    is_first = environment is None
    apply(
        "the plan for prod was not applied",
        skip_tests=is_first,
        skip_linter=is_first,
        auto_apply=is_first or not sys.stdin.isatty(),
    )
    remember_reporting()
    _publish()
    _say_what_waits()


def _publish() -> None:
    """Schema meta says what prod is."""
    if environment := deployed().state_reader.get_environment(PROD):
        with _sqlmesh("schema meta was not written"):
            catalog.publish(environment, snapshots_of(environment).values())


def refresh(drop: Path | None = None) -> None:
    """The scheduled job: load what is in `drop`, then bring every model of prod up to now; record, alert, check ages.

    However long it was not called, one call does all that is missing, once and in order. Raises WarehouseError:
    INPUT_REFUSED when a file was refused (the rest is loaded and run all the same), DATA_QUALITY when a check failed or
    data are too old, LOCKED when another run is at work.
    """
    steps: dict[str, alerts.Troubles] = {}
    refused = None
    try:
        with _step("server", steps):
            _patiently(_check_server)
            sessions.reap(_session())
        _say_what_was_missed()
        if drop is not None:
            try:
                with _step("load", steps):
                    load(drop)
            except WarehouseError as error:
                if error.code != Exit.INPUT_REFUSED:
                    raise
                refused = error
        try:
            with _step("run", steps):
                run_missing()
            with _step("freshness", steps):
                _check_freshness()
        except WarehouseError:
            if refused:
                print(f"error: {refused}", file=sys.stderr)
            raise
        if refused:
            raise refused
        alerts.beat()
    finally:
        alerts.settle(steps, _session_that_works)


@contextlib.contextmanager
def _step(name: str, steps: "dict[str, alerts.Troubles]") -> Iterator[None]:
    """Note how a step went, for the alerts. That another run is at work is no trouble, and tells nothing."""
    try:
        yield
        steps[name] = {}
    except Exception as error:
        if getattr(error, "code", None) != Exit.LOCKED:
            steps[name] = alerts.troubles(error)
        raise


def _check_server() -> None:
    """Before anything is begun: every login works, the clocks agree, and the disk has room. Raises WarehouseError."""
    for login in ("loader", "sqlmesh_state_user"):
        connect(login).close()
    ahead = (datetime.now(UTC) - _ask("SELECT CLOCK_TIMESTAMP()")).total_seconds()
    if abs(ahead) > CLOCK_SECONDS:
        raise WarehouseError(
            f"this machine's clock is {abs(ahead):.0f} s {'ahead of' if ahead > 0 else 'behind'} the server's",
            "set both clocks right (NTP), then run again",
        )
    if settings().embedded:
        free = shutil.disk_usage(settings().warehouse_home).free
        if free < FREE_BYTES:
            raise WarehouseError(
                f"the disk of {settings().warehouse_home} has {free >> 20} MB left", "make room, then run again"
            )


def _say_what_was_missed() -> None:
    """After an outage: since when, and that this one run makes up for it."""
    gap: timedelta | None = None
    with contextlib.suppress(psycopg2.Error):  # the recorder says what is wrong with its tables
        gap = _ask(
            "SELECT CLOCK_TIMESTAMP() - MAX(started_at) FROM ops.runs"
            " WHERE kind IN ('run', 'plan') AND environment = %(environment)s AND status = 'done'",
            environment=PROD,
        )
    if gap and gap > OUTAGE:
        _say(f"the last run was {gap.days} day(s), {gap.seconds // 3600} hour(s) ago: doing all that is missing since")
        log.event("catching up", hours=gap.total_seconds() // 3600)


def _check_freshness() -> None:
    """Tell what is older than config/freshness.yaml allows. Raises WarehouseError (DATA_QUALITY) for its errors."""
    from scripts import freshness

    found = freshness.check(_session())
    for finding in found:
        if finding.level == "warn":
            _say(f"warning: {finding.subject} {finding.what}\n  {finding.hint}")
    if too_old := [finding for finding in found if finding.level == "error"]:
        stale = WarehouseError(
            "; ".join(f"{finding.subject} {finding.what}" for finding in too_old),
            "\n  ".join(dict.fromkeys(finding.hint for finding in too_old)),
            Exit.DATA_QUALITY,
        )
        stale.failures = [Failure(finding.subject, finding.owner, finding.what) for finding in too_old]
        raise stale


def load(drop: Path) -> None:
    """Load the batches in `drop` and print a line per table. Raises WarehouseError when a file was refused."""
    from scripts.load import load as load_batches

    def work() -> None:
        result = load_batches(drop)
        result.print_summary()
        if result.refused:
            raise WarehouseError(
                f"{len(result.refused)} file(s) refused, the rest is loaded",
                "correct them and load the folder again; what is loaded is not loaded twice",
                Exit.INPUT_REFUSED,
            )

    _say(f"loading {drop}")
    with recorded("load"):
        _patiently(work)


def run_missing() -> None:
    """Evaluate every model of prod for what was loaded since its last run; finish a deployment that died before it.

    Raises WarehouseError: MISMATCH when there is no prod, or its deployment did not finish and is not of this folder.
    """
    with recorded("run", PROD):
        _patiently(_run_missing)


def prod() -> "Environment":
    """Prod, as the state has it. Raises WarehouseError (MISMATCH) when it has not been built."""
    if environment := deployed().state_reader.get_environment(PROD):
        return environment
    raise WarehouseError("prod has not been built", "run `make init`, or `make deploy`", Exit.MISMATCH)


def snapshots_of(environment: "Environment") -> "dict[str, Snapshot]":
    """The models of an environment by SQLMesh's full name, external ones included, with their intervals as of now."""
    found = _snapshots(deployed(), frozenset(snapshot.snapshot_id for snapshot in environment.snapshots))
    deployed().state_reader.refresh_snapshot_intervals(found.values())
    return found


@lru_cache(maxsize=1)
def _snapshots(project: "Context", ids: "frozenset[SnapshotId]") -> "dict[str, Snapshot]":
    """Read once per process and deployment, which is a tenth of a run's CPU time."""
    return {snapshot.name: snapshot for snapshot in project.state_reader.get_snapshots(ids).values()}


def _run_missing() -> None:
    environment = prod()
    if not environment.finalized_ts:
        _finish()
        return
    snapshots = snapshots_of(environment).values()
    stored = [snapshot for snapshot in snapshots if not (snapshot.is_symbolic or snapshot.is_seed)]
    done_to = min(snapshot.intervals[-1][1] if snapshot.intervals else 0 for snapshot in stored)
    if not _has_landed_since(datetime.fromtimestamp(done_to / 1000, UTC)):
        _say("nothing was loaded since the last run")
        with _sqlmesh("schema meta was not written"):
            catalog.keep_fresh(environment, snapshots)
        return
    _refuse_lost_tables([snapshot for snapshot in stored if snapshot.is_model and snapshot.intervals])
    now = _server_now()
    with _sqlmesh("the run did not finish", is_deployed=True):
        try:
            deployed().run(PROD, ignore_cron=True, end=now, execution_time=now)
        finally:
            catalog.keep_fresh(environment, snapshots_of(environment).values())
    _say_what_waits()


def _refuse_lost_tables(snapshots: "list[Snapshot]") -> None:
    """SQLMesh would make a table that is gone anew, empty, and take what it held for done."""
    if settings().warehouse_gateway != "postgres":
        return
    names = [plain_name(snapshot.table_name()) for snapshot in snapshots]
    lost = _ask(
        "SELECT COALESCE(ARRAY_AGG(name ORDER BY name) FILTER (WHERE TO_REGCLASS(name) IS NULL), '{}')"
        " FROM UNNEST(%(names)s::TEXT[]) AS name",
        names=names,
    )
    if lost:
        raise WarehouseError(
            f"state and warehouse disagree: there is no table {', '.join(lost)}",
            "`make doctor` says what to do; see docs/runbooks/state.md",
            Exit.MISMATCH,
        )


def audit() -> None:
    """Every check of prod over whole tables; a run looks only at what it replaces.

    Raises WarehouseError (DATA_QUALITY) when a check fails that would have stopped a run. Others are told, too.
    """
    with recorded("audit", PROD):
        _patiently(_audit)


def _audit() -> None:
    from sqlglot import exp
    from sqlmesh.utils.errors import AuditError

    snapshots = snapshots_of(prod())
    now, checks, refusals = _server_now(), 0, 0
    for snapshot in snapshots.values():
        if not snapshot.is_model or snapshot.is_symbolic:
            continue
        with _sqlmesh(f"the checks of {snapshot.model.name} did not run", is_deployed=True):
            results = deployed().snapshot_evaluator.audit(
                snapshot, snapshots=snapshots, start=EPOCH, end=now, execution_time=now
            )
        checks += len(results)
        for result in results:
            if result.count:
                refusals += result.blocking
                assert isinstance(result.query, exp.Query)
                _say(_finding(AuditError(result.audit.name, {}, result.count, result.query, snapshot.model)))
    if refusals:
        raise WarehouseError(
            f"{refusals} of {checks} checks failed",
            "do what is said above, then run `make audit` again",
            Exit.DATA_QUALITY,
        )
    _say(f"{checks} checks over whole tables: all is well")


def contracts() -> None:
    """Write what is made of the models in this folder: contracts/marts.yaml, docs/catalog.json, docs/llms.txt.

    Raises WarehouseError (DATA_QUALITY) when they break the contract and the changelog does not say so.
    """
    with _sqlmesh("the models could not be read"):
        changed = catalog.write_files(context().models.values())
    _say("\n".join(f"wrote {path.relative_to(ROOT)}" for path in changed) or "all is up to date")


def migrate() -> None:
    """After an upgrade of SQLMesh: save its state, then bring it to the new version. Raises WarehouseError."""
    from sqlmesh.utils.errors import SQLMeshError

    project = _open()
    try:
        project.state_sync.get_versions()
    except SQLMeshError as error:
        if MIGRATION not in str(error):
            raise _other_version(error) from None
    else:
        _say("the state is of this version of SQLMesh; nothing to migrate")
        return
    _say(f"saved the state to {backup.save_state()}")
    with no_run(), _sqlmesh("the state was not migrated"):
        project.migrate()


def restate(models: list[str]) -> None:
    """Compute models of prod, and what hangs on them, anew from everything that was loaded; the code stays prod's.

    Raises WarehouseError as `deploy`.
    """
    with recorded("plan", PROD):
        _patiently(lambda: apply("the restatement did not finish", restate_models=models))


def finish() -> None:
    """Go on with a deployment that did not finish.

    Raises WarehouseError: LOCKED when it is still at work, MISMATCH when this folder has other code.
    """
    with recorded("plan", PROD):
        _patiently(_finish)


def _finish() -> None:
    if holder := _ask("SELECT ops.lock_holder(1)"):
        raise WarehouseError(f"a deployment is at work: {holder}", "run again when it is done", Exit.LOCKED)
    with _sqlmesh("the plan for prod was not made"):
        difference = context().plan_builder(PROD, skip_tests=True, skip_linter=True).build().context_diff
    if difference.has_snapshot_changes:
        raise WarehouseError(
            "the code in this folder is not that of the deployment which did not finish",
            "check that one out, or deploy this one: `make deploy`",
            Exit.MISMATCH,
        )
    _say("a deployment of prod did not finish: finishing it")
    log.event("finishing a deployment")
    apply("the deployment did not finish")
    _publish()
    _say_what_waits()


def apply(
    what: str,
    skip_tests: bool = True,
    skip_linter: bool = True,
    auto_apply: bool = True,
    restate_models: list[str] | None = None,
) -> None:
    """A plan for prod, and a run up to now; by default one that checks nothing and asks nobody.

    Raises WarehouseError, beginning with `what`.
    """
    with _sqlmesh(what):
        context().plan(
            PROD,
            restate_models=restate_models,
            skip_tests=skip_tests,
            skip_linter=skip_linter,
            no_prompts=True,
            auto_apply=auto_apply,
            run=True,
            ignore_cron=True,
            execution_time=_server_now(),
        )


def show() -> None:
    """Let every view of prod read the table that the state says, as a deployment does at its end."""
    from sqlmesh.core.snapshot.definition import to_view_mapping

    environment = prod()
    snapshots = deployed().state_reader.get_snapshots(environment.snapshots)
    default_catalog, dialect = deployed().default_catalog, deployed().engine_adapter.dialect
    with no_run(), _sqlmesh("the views were not made"):
        deployed().snapshot_evaluator.promote(
            snapshots.values(),
            environment_naming_info=environment.naming_info,
            execution_time=_server_now(),
            snapshots=snapshots,
            table_mapping=to_view_mapping(
                snapshots.values(), environment.naming_info, default_catalog=default_catalog, dialect=dialect
            ),
        )


@contextlib.contextmanager
def no_run() -> Iterator[None]:
    """Hold the run lock. Raises WarehouseError (LOCKED) when a run is at work."""
    with contextlib.closing(connect("sqlmesh_user")) as session, session.cursor() as cursor:
        try:
            cursor.execute("SELECT ops.acquire_run_lock(CLOCK_TIMESTAMP())")
        except errors.LockNotAvailable as error:
            raise WarehouseError(
                str(error).splitlines()[0], "nothing was changed; run again when it is done", Exit.LOCKED
            ) from None
        session.commit()  # the lock is the session's
        yield


def _say_what_waits() -> None:
    """What is loaded and counts nowhere, because its order or ticket has not arrived; nothing where nothing waits."""
    if _ask("SELECT TO_REGCLASS('marts.waiting_records')") is None:
        return  # prod is of a time before this table
    counts = "SUM(order_items), SUM(refunds), COUNT(*) FILTER (WHERE parent_type = 'order'), SUM(ticket_events)"
    lines, refunds, orders, events = _ask(f"SELECT ARRAY[{counts}]::BIGINT[] FROM marts.waiting_records")
    if orders:
        _say(f"waiting: {lines} line(s) and {refunds} refund(s) of {orders} order(s) that have not arrived")
    if events:
        _say(f"waiting: {events} event(s) of tickets that have not arrived")
    if orders or events:
        _say("  they count nowhere until then: see marts.waiting_records")


def run_sample() -> None:
    """From nothing to marts on the sample: server, load, prod, and a summary. Cheap to repeat."""
    from scripts import generate, sample, summary

    if "reporting_timezone" not in settings().model_fields_set:
        os.environ["REPORTING_TIMEZONE"] = sample.TIME_ZONE
        settings.cache_clear()
    _say(server.up())
    _say(bootstrap.apply())
    drop = settings().warehouse_home / "sample"
    _refuse_other_data(drop)
    _say(str(sample.write_sample(drop / sample.BATCH)))
    _say(generate.write_tickets(drop / sample.BATCH / "orders.csv", drop / generate.TICKETS))
    load(drop)
    deploy()
    summary.show()


def _refuse_other_data(drop: Path) -> None:
    """The sample goes into a warehouse of its own."""
    with contextlib.closing(connect("loader")) as session, session.cursor() as cursor:
        cursor.execute("SELECT COUNT(*), COUNT(*) FILTER (WHERE drop_folder = %s) FROM landing.batches", [str(drop)])
        batches, samples = cursor.fetchone() or (0, 0)
    if batches and not samples:
        raise WarehouseError(
            "this warehouse holds other data, and the sample would mix with it",
            "use `make refresh DROP=...` for your own files, or set WAREHOUSE_HOME to a new folder for the sample",
            Exit.INPUT_REFUSED,
        )


def _server_now() -> datetime:
    """The server's clock, which stamps the loads, rounded up to SQLMesh's milliseconds."""
    now: datetime = _ask("SELECT CLOCK_TIMESTAMP()")
    return now.replace(microsecond=now.microsecond // 1000 * 1000) + timedelta(milliseconds=1)


def _has_landed_since(moment: datetime) -> bool:
    """Whether any row was loaded at or after a moment, by whomever."""
    tables = " OR ".join(f"EXISTS (SELECT FROM landing.{table} WHERE _loaded_at >= %(moment)s)" for table in TABLES)
    return bool(_ask(f"SELECT {tables}", moment=moment))


_sessions: dict[tuple[str, int], connection] = {}


def _session() -> connection:
    """The session of sqlmesh_user that a process asks its own questions over."""
    address = settings().address
    if address not in _sessions or _sessions[address].closed:
        _sessions[address] = connect("sqlmesh_user")
        _sessions[address].autocommit = True
    return _sessions[address]


def _session_that_works() -> connection:
    _ask("SELECT TRUE")
    return _session()


def _ask(query: str, **values: Any) -> Any:
    """The first value of the first row. A session that was cut is made anew."""
    asked_before = settings().address in _sessions
    try:
        with _session().cursor() as cursor:
            cursor.execute(query, values)
            row = cursor.fetchone()
    except (psycopg2.OperationalError, psycopg2.InterfaceError):
        _sessions.pop(settings().address).close()
        if not asked_before:
            raise
        return _ask(query, **values)
    assert row
    return row[0]


def _patiently(work: Callable[[], None]) -> None:
    """Do it; again, after a pause, when it failed for a reason that may pass by itself. Raises WarehouseError."""
    for attempt in Retrying(
        retry=retry_if_exception_type(PassingFault),
        stop=stop_after_attempt(ATTEMPTS),
        wait=wait_exponential_jitter(multiplier=FIRST_PAUSE, max=LONGEST_PAUSE, jitter=FIRST_PAUSE),
        before_sleep=_say_again,
        reraise=True,
    ):
        with attempt:
            try:
                work()
            except psycopg2.Error as error:
                raise of_database(error, "the database failed", "look after the server, then run again") from error
            except WarehouseError as error:
                if attempt.retry_state.attempt_number == 1 or error.code != Exit.SERVICE_DOWN:
                    raise
                raise PassingFault(error.what, error.hint) from error  # it was there a moment ago


def _say_again(state: RetryCallState) -> None:
    """Say that it is tried again, with SQLMesh opened anew: connections of its own may be gone."""
    error, action = state.outcome and state.outcome.exception(), state.next_action
    assert isinstance(error, WarehouseError)
    assert action
    pause = action.sleep
    print(
        f"warning: {error.what}\n  trying again in {pause:.0f} s ({state.attempt_number + 1} of {ATTEMPTS})",
        file=sys.stderr,
    )
    log.event("trying again", error=error.what, attempt=state.attempt_number + 1)
    if deployed.cache_info().currsize:
        with contextlib.suppress(Exception):
            deployed().close()
        deployed.cache_clear()


@contextlib.contextmanager
def _sqlmesh(what: str, is_deployed: bool = False) -> Iterator[None]:
    """Turn what SQLMesh raises, and what it only prints of models that failed, into one WarehouseError."""
    from sqlglot.errors import SqlglotError
    from sqlmesh.core.console import get_console
    from sqlmesh.utils.errors import AuditError, NodeAuditsErrors, SQLMeshError

    console = get_console()
    causes: list[BaseException] = []
    show = console.log_failed_models

    def keep(errors: list[Any]) -> None:
        causes.extend(error.__cause__ or error for error in errors)
        show(errors)

    console.log_failed_models = keep  # type: ignore[method-assign]
    raised: Exception | None = None
    try:
        yield
    except WarehouseError:  # says all itself, also where it is one of SQLMesh's errors
        raise
    except (SQLMeshError, SqlglotError, psycopg2.Error) as error:
        raised = error
    finally:
        console.log_failed_models = show  # type: ignore[method-assign]
    text = str(raised or "").strip()
    for marker, code in BUSY.items():
        if marker in text:
            line = text[text.index(marker) :].splitlines()[0]
            raise WarehouseError(line, "no model was changed; run again when it is done", code) from raised
    for marker in WRONG_KEY:
        if marker in text:
            line, _, hint = text[text.index(marker) :].partition("\n")
            raise WarehouseError(line, hint.splitlines()[0].removeprefix("HINT:").strip(), Exit.MISMATCH) from raised
    hint = "see the messages above, and logs/ for the SQL"
    faults = [of_database(cause, what, hint, is_deployed) for cause in causes if sqlstate(cause)]
    if raised and not causes and sqlstate(raised):
        faults = [of_database(raised, what, hint, is_deployed)]
    if faults:  # what may pass first: it is tried again
        raise min(
            faults, key=lambda fault: (not isinstance(fault, PassingFault), fault.code != Exit.MISMATCH)
        ) from raised
    if causes:
        audits = all(isinstance(cause, AuditError | NodeAuditsErrors) for cause in causes)
        reason = "did not pass their checks" if audits else "failed"
        failed = [
            error for cause in causes for error in getattr(cause, "errors", [cause]) if isinstance(error, AuditError)
        ]
        raise WarehouseError(
            f"{what}: {len(causes)} model(s) {reason}; those that depend on them stay as they were",
            "\n  ".join([*map(_finding, failed), hint]),
            Exit.DATA_QUALITY if audits else Exit.BUG,
        ) from raised
    if raised:
        raise WarehouseError(f"{what}: {text}", hint, Exit.BUG) from raised


def _finding(error: "AuditError") -> str:
    """Which check of which model found how many rows, the first of them, and what the check says to do."""
    from scripts.evaluator import FIRST_ROWS

    rows = [
        ", ".join(f"{name} {value}" for name, value in list(row.items())[:5])
        for row in error.query.meta.get(FIRST_ROWS, [])[:3]
    ]
    found = f"{error.model_name}: {error.audit_name} found {error.count} row(s)" + (", such as" if rows else "")
    comments = (text for node in error.query.walk() for text in node.comments or ())
    _, row, advice = " ".join(next(comments, "").split()).partition("A returned row ")
    return "".join([found, *(f"\n    {text}" for text in rows), f"\n  {row}{advice}" if advice else ""])


def _say(line: str) -> None:
    print(line, flush=True)
