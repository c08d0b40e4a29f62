"""The doctor: looks the warehouse over and says of everything how it is and, of what is wrong, what to do.

A check is a function in CHECKS that yields findings. It reads catalogs, statistics and SQLMesh's state, waits for no
lock, and holds none that a run would wait for. A repair computes anew what follows from landing and state, and nothing
else (docs/decisions/0021-what-the-doctor-repairs.md).
"""

import re
import shutil
from collections import defaultdict
from collections.abc import Callable, Iterator
from contextlib import closing
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from functools import cached_property
from typing import TYPE_CHECKING, Any, Literal, cast

import pandas
import psycopg2
from psycopg2 import errors, sql
from psycopg2.extensions import connection
from sqlglot import exp

from macros.create_index import declared_indexes, index_name
from scripts import backup, bootstrap, freshness, pipeline
from scripts.errors import Exit, WarehouseError, plain_name
from scripts.recorder import HAS_CRASHED, MARK_CRASHED
from scripts.settings import LOGINS, connect, settings

if TYPE_CHECKING:
    from sqlmesh.core.environment import Environment
    from sqlmesh.core.model import SeedModel
    from sqlmesh.core.snapshot import Snapshot

RUNBOOKS = "docs/runbooks"

# A session of the doctor gives up before anyone waits for it.
LOOK_SECONDS = 10
HASTE = f"-c lock_timeout=2s -c statement_timeout={LOOK_SECONDS}s"

CLOCK_WARNS, CLOCK_STOPS = timedelta(seconds=5), timedelta(seconds=pipeline.CLOCK_SECONDS)  # a run refuses the second
STUCK = timedelta(minutes=10)  # a lock that is waited for, a transaction that does nothing
DEAD_ROWS, DEAD_SHARE = 100_000, 0.5  # more of both, and a table wants a VACUUM
SLOW_SECONDS = 60  # of a statement, on average
LARGE_ROWS = 1_000_000  # from here on a foreign key without an index is felt
RUN_AGE = timedelta(days=1)  # loads that wait for a run
WAITING_AGE = timedelta(days=7)  # children, counted back from the newest event
BACKUP_AGE, PROOF_AGE = timedelta(days=2), timedelta(days=35)


@dataclass(frozen=True)
class Finding:
    """What a check found. `page` is the runbook's part that says what to do; `repairs` do it, to the `subject`."""

    level: Literal["ok", "warn", "error"]
    what: str
    page: str = ""
    code: Exit = Exit.MISMATCH
    repairs: tuple[Callable[[list[str]], None], ...] = ()
    subject: str = ""

    def __str__(self) -> str:
        todo = f" -> {RUNBOOKS}/{self.page}" + (" (REPAIR=1 does it)" if self.repairs else "") if self.page else ""
        return f"{self.level:<6}{self.what}{todo}"


class Warehouse:
    """What the checks ask: sessions, and what the state says of prod."""

    def __init__(self) -> None:
        self.sessions: dict[tuple[str, str | None], connection] = {}

    def session(self, login: str, database: str | None = None) -> connection:
        if (login, database) not in self.sessions:
            made = connect(login, database, options=HASTE, application_name="doctor")
            made.autocommit = True
            self.sessions[login, database] = made
        return self.sessions[login, database]

    def ask(self, query: str | sql.Composed, *values: Any, login: str = "sqlmesh_user") -> list[tuple[Any, ...]]:
        with self.session(login, "warehouse").cursor() as cursor:
            cursor.execute(query, values or None)
            return cursor.fetchall()

    def value(self, query: str | sql.Composed, *values: Any, login: str = "sqlmesh_user") -> Any:
        return self.ask(query, *values, login=login)[0][0]

    @cached_property
    def observer(self) -> str:
        """The login that sees most of other sessions."""
        try:
            self.session(settings().admin, "warehouse")
            return settings().admin
        except WarehouseError:
            return "sqlmesh_user"

    @cached_property
    def now(self) -> datetime:
        moment = self.value("SELECT CLOCK_TIMESTAMP()")
        assert isinstance(moment, datetime)
        return moment

    @cached_property
    def environment(self) -> "Environment":
        return pipeline.prod()

    @cached_property
    def snapshots(self) -> dict[str, "Snapshot"]:
        """The models of prod by SQLMesh's full name, external ones included."""
        return pipeline.snapshots_of(self.environment)

    @cached_property
    def shown(self) -> list["Snapshot"]:
        """Those with a view for readers."""
        return [one for one in self.snapshots.values() if one.is_model and not one.is_symbolic]

    @cached_property
    def stored(self) -> dict[str, "Snapshot"]:
        """Those with rows of their own, by the physical table's name."""
        return {physical(one): one for one in self.shown if self.kinds.get(physical(one)) == "r"}

    @cached_property
    def kinds(self) -> dict[str, str]:
        """Every table (r) and view (v) of the physical schemas."""
        schemas = list({one.physical_schema for one in self.shown})
        rows = self.ask(
            "SELECT nspname || '.' || relname, relkind::TEXT FROM pg_class"
            " JOIN pg_namespace ON pg_namespace.oid = relnamespace WHERE nspname = ANY (%s) AND relkind IN ('r', 'v')",
            schemas,
        )
        return {str(name): str(kind) for name, kind in rows}

    def close(self) -> None:
        for session in self.sessions.values():
            session.close()


Findings = Iterator[Finding]


def examine(repair: bool = False) -> None:
    """Print a line for everything that was looked at; with `repair`, do what is safe and look again.

    Raises WarehouseError with the worst code when something is wrong: SERVICE_DOWN, MISMATCH, DATA_QUALITY.
    """
    findings = _look()
    if repair and any(finding.repairs for finding in findings):
        for mend in REPAIRS:
            if subjects := sorted({finding.subject for finding in findings if mend in finding.repairs}):
                print(f"repair {(mend.__doc__ or '').split('.')[0].lower()}: {', '.join(subjects)}", flush=True)
                mend(subjects)
        pipeline.deployed().close()
        pipeline.deployed.cache_clear()
        print("looking again", flush=True)
        findings = _look()
    faults = [finding for finding in findings if finding.level == "error"]
    if faults:
        mendable = sum(bool(finding.repairs) for finding in faults)
        hint = f"`make doctor REPAIR=1` repairs {mendable} of them; " if mendable and not repair else ""
        raise WarehouseError(
            f"the doctor found {len(faults)} fault(s)",
            f"{hint}the pages named above say what to do",
            max(finding.code for finding in faults),
        )


def _look() -> list[Finding]:
    found: list[Finding] = []
    with closing(Warehouse()) as warehouse:
        for check in CHECKS:
            here, stop = [], False
            try:
                for finding in check(warehouse):
                    here.append(finding)
            except WarehouseError as error:
                here.append(_of(error))
                stop = True
            except psycopg2.Error as error:
                reason = str(error).strip().splitlines()[0]
                here.append(Finding("warn", f"{check.__name__}: not looked at ({reason})", "locks.md#not-looked-at"))
            for finding in here:
                print(finding, flush=True)
            found += here
            if stop or (check is deployment and not warehouse.environment.finalized_ts):
                break  # what follows needs it
    return found


def _of(error: WarehouseError) -> Finding:
    page = "upgrade-sqlmesh.md" if "version of SQLMesh" in error.what else ""
    page = "server.md#no-answer" if error.code == Exit.SERVICE_DOWN else page
    return Finding("error", f"{error.what}; {error.hint}".replace("\n", " "), page, error.code)


def physical(snapshot: "Snapshot") -> str:
    """schema.table of what prod reads of a model."""
    return plain_name(snapshot.table_name())


def model_name(snapshot: "Snapshot") -> str:
    """As people write it: marts.daily_revenue."""
    return plain_name(snapshot.name)


# ---- the server -------------------------------------------------------------------------------------------------


def logins(warehouse: Warehouse) -> Findings:
    wrong = 0
    for login in LOGINS:
        try:
            with warehouse.session(login).cursor() as cursor:
                cursor.execute("SELECT ssl FROM pg_stat_ssl WHERE pid = pg_backend_pid()")
                is_encrypted = cursor.fetchone() == (True,)
        except WarehouseError as error:
            wrong += 1
            yield Finding("error", f"login {login}: {error.what}", "server.md#a-login-is-refused", error.code)
            continue
        if not is_encrypted:
            wrong += 1
            yield Finding("warn", f"login {login}: connects without TLS", "server.md#without-tls")
    if not wrong:
        yield Finding("ok", f"logins: all {len(LOGINS)} connect to their databases, over TLS")


ROLE_FILES = ("roles.sql", "sessions.sql")
ROLES = (
    "SELECT rolname, rolconfig, rolcanlogin, rolsuper OR rolcreaterole OR rolcreatedb OR rolreplication OR rolbypassrls"
    " FROM pg_roles WHERE rolname !~ '^pg_' ORDER BY 1"
)


def roles(warehouse: Warehouse) -> Findings:
    """Whatever roles.sql and sessions.sql would change is not as they say; the change is rolled back."""
    before = warehouse.ask(ROLES)
    wrong = 0
    for role, defaults, _, is_mighty in before:
        if role in LOGINS and is_mighty:
            wrong += 1
            yield Finding("error", f"login {role} may do more than its work needs", "server.md#a-login-may-too-much")
        if role in LOGINS and not {"TimeZone=UTC", "TimeZone=GMT"} & set(defaults or []):
            wrong += 1
            told = f"login {role}: its sessions do not begin in UTC"
            yield Finding("error", told, "server.md#roles-differ", repairs=(set_up,), subject=role)
    if warehouse.observer != settings().admin:
        if not wrong:
            yield Finding(
                "ok", f"roles: in UTC; to see whether all is as in config/postgres takes the login {settings().admin}"
            )
        return
    with warehouse.session(settings().admin, "postgres").cursor() as alone:
        alone.execute("SELECT pg_try_advisory_lock(7274, 0)")
        if alone.fetchone() == (False,):
            return  # `make init` is at work
        with warehouse.session(settings().admin, "warehouse").cursor() as cursor:
            cursor.execute("BEGIN")
            try:
                for name in ROLE_FILES:
                    cursor.execute((bootstrap.FILES / name).read_text())
                cursor.execute(ROLES)
                after = cursor.fetchall()
            finally:
                cursor.execute("ROLLBACK")
                alone.execute("SELECT pg_advisory_unlock(7274, 0)")
    for row in after:
        if row not in before:
            wrong += 1
            told = f"role {row[0]} is not as config/postgres says"
            yield Finding("error", told, "server.md#roles-differ", repairs=(set_up,), subject=row[0])
    if not wrong:
        yield Finding("ok", "roles: as config/postgres says, in UTC")


def clock(warehouse: Warehouse) -> Findings:
    before = datetime.now(UTC)
    there = warehouse.value("SELECT CLOCK_TIMESTAMP()")
    apart = abs(there - before - (datetime.now(UTC) - before) / 2)
    level: Any = "error" if apart > CLOCK_STOPS else "warn" if apart > CLOCK_WARNS else "ok"
    page = "server.md#clocks" if level != "ok" else ""
    yield Finding(level, f"clock: this machine and the server are {apart.total_seconds():.1f} s apart", page)


def disk(warehouse: Warehouse) -> Findings:
    largest = warehouse.value(
        "SELECT COALESCE(MAX(pg_total_relation_size(oid)), 0) FROM pg_class WHERE relkind = 'r'",
    )
    if not settings().embedded:
        yield Finding(
            "ok", f"disk: the server's is not visible from here; its largest table has {largest / 1e6:,.0f} MB"
        )
        return
    free = shutil.disk_usage(settings().warehouse_home).free
    told = f"disk: {free / 1e6:,.0f} MB free, the largest table has {largest / 1e6:,.0f} MB"
    if free < 2 * largest:
        yield Finding("error", f"{told}: a new version of it may not fit", "server.md#disk", Exit.TRANSIENT)
    else:
        yield Finding("ok", told)


def locks(warehouse: Warehouse) -> Findings:
    names = {1: "a run", 2: "a publishing load", 3: "a load"}
    held = {name: warehouse.value("SELECT ops.lock_holder(%s)", key) for key, name in names.items()}
    for name, holder in held.items():
        if holder:
            yield Finding("ok", f"locks: {name} is at work: {holder}")
    stuck = warehouse.ask(
        "SELECT pid, usename, COALESCE(NULLIF(application_name, ''), '?'), pg_blocking_pids(pid),"
        " EXTRACT(EPOCH FROM CLOCK_TIMESTAMP() - state_change)::INTEGER, state = 'idle in transaction'"
        " FROM pg_stat_activity WHERE CLOCK_TIMESTAMP() - state_change > %s"
        " AND (state = 'idle in transaction' OR CARDINALITY(pg_blocking_pids(pid)) > 0)",
        STUCK,
        login=warehouse.observer,
    )
    for pid, user, application, blockers, seconds, is_idle in stuck:
        why = "has a transaction open and does nothing" if is_idle else f"waits for pid {', '.join(map(str, blockers))}"
        who = f"session {pid} of {user} ({application})"
        yield Finding("warn", f"locks: {who} {why}, for {seconds // 60} minutes", "locks.md#a-session-is-stuck")
    if not stuck and not any(held.values()):
        yield Finding("ok", "locks: no run and no load at work, nobody waits")


def unended_runs(warehouse: Warehouse) -> Findings:
    if not warehouse.value("SELECT TO_REGCLASS('ops.runs') IS NOT NULL"):
        return
    dead = warehouse.ask(f"SELECT run_id, kind, host, pid FROM ops.runs WHERE {HAS_CRASHED} ORDER BY 1")
    for run_id, kind, host, pid in dead:
        yield Finding(
            "warn",
            f"run {run_id} ({kind}, pid {pid} on {host}) ended without a word",
            "failed-run.md#a-run-crashed",
            repairs=(mark_crashed,),
            subject=str(run_id),
        )
    if not dead:
        yield Finding("ok", "runs: none without an end")


# ---- state and warehouse ----------------------------------------------------------------------------------------


def deployment(warehouse: Warehouse) -> Findings:
    if warehouse.environment.finalized_ts:
        yield Finding("ok", f"prod: {len(warehouse.shown)} models, its last deployment finished")
        return
    if warehouse.value("SELECT ops.lock_holder(1)"):
        yield Finding("ok", "prod: a deployment is at work; what follows is for when it is done")
        return
    yield Finding(
        "error",
        "prod: its last deployment did not finish, and no run begins",
        "failed-run.md#a-deployment-did-not-finish",
        repairs=(finish_deployment,),
        subject="prod",
    )


def views(warehouse: Warehouse) -> Findings:
    """State and warehouse of different days are invisible to SQLMesh: runs end well, and readers see old tables."""
    reads: dict[str, set[str]] = defaultdict(set)
    rows = warehouse.ask(
        """
        SELECT DISTINCT
          view_schemas.nspname || '.' || views.relname, table_schemas.nspname || '.' || tables.relname
        FROM pg_class AS views
        JOIN pg_namespace AS view_schemas ON view_schemas.oid = views.relnamespace
        JOIN pg_rewrite ON pg_rewrite.ev_class = views.oid
        JOIN pg_depend ON pg_depend.classid = 'pg_rewrite'::REGCLASS AND pg_depend.objid = pg_rewrite.oid
          AND pg_depend.refclassid = 'pg_class'::REGCLASS AND pg_depend.refobjid <> views.oid
        JOIN pg_class AS tables ON tables.oid = pg_depend.refobjid
        JOIN pg_namespace AS table_schemas ON table_schemas.oid = tables.relnamespace
        WHERE views.relkind = 'v' AND view_schemas.nspname = ANY (%s)
        """,
        list({model_name(one).split(".")[0] for one in warehouse.shown}),
    )
    for view, table in rows:
        reads[view].add(table)
    wrong = 0
    for snapshot in warehouse.shown:
        name, table = model_name(snapshot), physical(snapshot)
        if table not in warehouse.kinds:
            wrong += 1
            yield Finding(
                "error",
                f"{name}: the table {table}, which the state names, does not exist",
                "state.md#a-table-is-missing",
                repairs=(fill_seeds, restate, show),
                subject=name,
            )
        if reads[name] != {table}:
            wrong += 1
            has = f"reads {', '.join(sorted(reads[name]))}" if reads[name] else "is missing"
            yield Finding(
                "error",
                f"{name}: the view {has}, and the state says {table}",
                "state.md#a-view-reads-another-table",
                repairs=(show,),
                subject=name,
            )
    if not wrong:
        yield Finding("ok", f"views: all {len(warehouse.shown)} read the table that the state says")


def intervals(warehouse: Warehouse) -> Findings:
    """What is recorded as done reaches up to now at most, or the loads until then would be left out."""
    late = _ms(warehouse.now + CLOCK_STOPS)
    ahead = [one for one in warehouse.shown if one.intervals and one.intervals[-1][1] > late]
    for snapshot in ahead:
        until = datetime.fromtimestamp(snapshot.intervals[-1][1] / 1000, UTC)
        yield Finding(
            "error",
            f"{model_name(snapshot)}: done up to {until:%Y-%m-%d %H:%M}Z, which is in the future",
            "state.md#done-up-to-the-future",
            repairs=(restate, cut_future),
            subject=model_name(snapshot),
        )
    if not ahead:
        yield Finding("ok", "intervals: none reaches into the future")


def memory(warehouse: Warehouse) -> Findings:
    """The warehouse remembers every run. If the state knows of a later one, the warehouse is of an older day."""
    remembered = warehouse.value(
        "SELECT MAX(GREATEST(started_at, heartbeat_at, ended_at)) FROM ops.runs WHERE kind IN ('run', 'plan')"
    )
    now = _ms(warehouse.now)
    forgotten = sorted(
        model_name(one)
        for one in warehouse.stored.values()
        if remembered and model_name(one).startswith("staging.") and one.intervals
        if _ms(remembered + CLOCK_STOPS) < one.intervals[-1][1] <= now
    )
    for name in forgotten:
        yield Finding(
            "error",
            f"{name}: done later than {remembered:%Y-%m-%d %H:%M}Z, the last run that the warehouse remembers",
            "state.md#the-warehouse-is-of-an-older-day",
            repairs=(restate,),
            subject=name,
        )
    if not forgotten:
        yield Finding("ok", "memory: the warehouse remembers the last run of the state")


def empty_tables(warehouse: Warehouse) -> Findings:
    """A table that is recorded as filled and is empty, although its query has rows."""
    wrong = 0
    for table, snapshot in warehouse.stored.items():
        name = sql.Identifier(*table.split("."))
        if not snapshot.intervals or warehouse.value(sql.SQL("SELECT EXISTS (SELECT FROM {})").format(name)):
            continue
        try:
            is_wrong = _should_have_rows(warehouse, snapshot)
        except errors.QueryCanceled:
            told = (
                f"{model_name(snapshot)}: empty, and whether it should be takes more than {LOOK_SECONDS} s to find out"
            )
            yield Finding("ok", f"{told}: `make audit`")
            continue
        if is_wrong:
            wrong += 1
            yield Finding(
                "error",
                f"{model_name(snapshot)}: its table {table} is empty, and its query is not",
                "state.md#a-table-is-empty",
                Exit.DATA_QUALITY,
                repairs=(fill_seeds, restate),
                subject=model_name(snapshot),
            )
    if not wrong:
        yield Finding("ok", "tables: none is empty that should not be")


def _should_have_rows(warehouse: Warehouse, snapshot: "Snapshot") -> bool:
    if snapshot.is_seed:
        return True
    adapter = pipeline.deployed().engine_adapter
    new = snapshot.model_copy(update={"intervals": []})  # as in its first build, which looks at everything at once
    try:
        with adapter.transaction():
            adapter.execute("SET LOCAL lock_timeout = '2s'")
            adapter.execute(f"SET LOCAL statement_timeout = '{LOOK_SECONDS}s'")
            found = pipeline.deployed().snapshot_evaluator.evaluate_and_fetch(
                new,
                start=pipeline.EPOCH,
                end=warehouse.now,
                execution_time=warehouse.now,
                snapshots=warehouse.snapshots,
                limit=1,
            )
    except pandas.errors.DatabaseError as error:
        raise error.__cause__ or error from None
    return len(found) > 0


def indexes(warehouse: Warehouse) -> Findings:
    """What models declare by @create_index, and landing.sql, is there: grains are unique by it, runs fast."""
    rows = warehouse.ask(
        "SELECT nspname || '.' || relname, indisvalid FROM pg_index JOIN pg_class ON pg_class.oid = indexrelid"
        " JOIN pg_namespace ON pg_namespace.oid = relnamespace"
    )
    there = {name for name, is_valid in rows if is_valid}
    wrong = 0
    for table, snapshot in warehouse.stored.items():
        for columns, is_unique in declared_indexes(snapshot.model):
            schema, name = table.split(".")
            if f"{schema}.{index_name(name, columns)}" not in there:
                wrong += 1
                kind = "unique index of its grain" if is_unique else "index"
                if is_unique and _has_doubles(warehouse, table, columns):
                    told = f"{model_name(snapshot)}: rows are doubled in ({', '.join(columns)})"
                    page = "state.md#an-index-is-missing"
                    yield Finding(
                        "error", told, page, Exit.DATA_QUALITY, repairs=(restate,), subject=model_name(snapshot)
                    )
                yield Finding(
                    "error" if is_unique else "warn",
                    f"{model_name(snapshot)}: the {kind} on ({', '.join(columns)}) is missing",
                    "state.md#an-index-is-missing",
                    Exit.DATA_QUALITY,
                    repairs=(make_indexes,),
                    subject=model_name(snapshot),
                )
    for name in re.findall(r"INDEX IF NOT EXISTS (\w+)", (bootstrap.FILES / "landing.sql").read_text()):
        if f"landing.{name}" not in there:
            wrong += 1
            yield Finding(
                "error",
                f"landing: the index {name} is missing",
                "state.md#an-index-is-missing",
                repairs=(set_up,),
                subject=name,
            )
    if not wrong:
        yield Finding("ok", "indexes: all that models and landing.sql declare")


def _has_doubles(warehouse: Warehouse, table: str, columns: list[str]) -> bool:
    query = sql.SQL("SELECT EXISTS (SELECT FROM {} GROUP BY {} HAVING COUNT(*) > 1)")
    keys = sql.SQL(", ").join(map(sql.Identifier, columns))
    return bool(warehouse.value(query.format(sql.Identifier(*table.split(".")), keys)))


def foreign_keys(warehouse: Warehouse) -> Findings:
    """A key of another table that no index leads with is felt in large tables only."""
    rows = warehouse.ask(
        "SELECT nspname || '.' || relname, reltuples::BIGINT, ARRAY("
        " SELECT attname::TEXT FROM pg_index JOIN pg_attribute ON attrelid = indrelid AND attnum = indkey[0]"
        " WHERE indrelid = pg_class.oid) FROM pg_class JOIN pg_namespace ON pg_namespace.oid = relnamespace"
        " WHERE relkind = 'r' AND reltuples >= %s",
        LARGE_ROWS,
    )
    wrong = 0
    for table, estimate, leading in rows:
        snapshot = warehouse.stored.get(table)
        for audit, arguments in snapshot.model.audits if snapshot and snapshot.is_model else []:
            column = arguments["column"].name if audit == "foreign_key_holds" else None
            if snapshot and column and column not in leading:
                wrong += 1
                yield Finding(
                    "warn",
                    f"{model_name(snapshot)}: no index leads with {column}, a foreign key, in {estimate:,} rows",
                    "state.md#a-foreign-key-has-no-index",
                )
    if not wrong:
        yield Finding("ok", f"foreign keys: indexed in every table of {LARGE_ROWS:,} rows and more")


def orphans(warehouse: Warehouse) -> Findings:
    """Physical tables that no version of a model in the state owns: of a deployment that died, or of a lost state."""
    layers = {one.physical_schema: model_name(one).split(".")[0] for one in warehouse.shown}
    catalog = pipeline.deployed().default_catalog
    owners: dict[str, tuple[str, str]] = {}
    for table in warehouse.kinds:
        schema, name = table.split(".")
        if matched := re.fullmatch(r"(.+?)__(\d+)(?:__dev)?", name):
            fqn = exp.table_(matched[1], db=layers[schema], catalog=catalog, quoted=True).sql("postgres")
            owners[table] = (fqn, matched[2])
    known = {
        (one.name, version)
        for one in pipeline.deployed().state_sync.get_snapshots_by_names(
            {fqn for fqn, _ in owners.values()}, exclude_expired=False
        )
        for version in (one.version, one.dev_version, one.identifier, one.fingerprint.to_version())
    }
    lost = sorted(table for table, owner in owners.items() if owner not in known)
    for table in lost:
        yield Finding(
            "warn",
            f"{table} belongs to no model that the state knows",
            "state.md#a-table-without-a-model",
            repairs=(drop_orphans,),
            subject=table,
        )
    if not lost:
        yield Finding("ok", "physical tables: all belong to a model")


# ---- how it runs ------------------------------------------------------------------------------------------------


def bloat(warehouse: Warehouse) -> Findings:
    rows = warehouse.ask(
        "SELECT schemaname || '.' || relname, n_dead_tup, n_live_tup FROM pg_stat_user_tables"
        " WHERE n_dead_tup > %s AND n_dead_tup > %s * n_live_tup ORDER BY 2 DESC",
        DEAD_ROWS,
        DEAD_SHARE,
    )
    for table, dead, live in rows:
        yield Finding(
            "warn",
            f"{table}: {dead:,} dead rows beside {live:,}",
            "server.md#dead-rows",
            repairs=(vacuum,),
            subject=table,
        )
    if not rows:
        yield Finding("ok", "dead rows: few")


def slow_queries(warehouse: Warehouse) -> Findings:
    try:
        rows = warehouse.ask(
            "SELECT rolname, calls, mean_exec_time / 1000, REGEXP_REPLACE(query, '\\s+', ' ', 'g')"
            " FROM pg_stat_statements JOIN pg_roles ON pg_roles.oid = userid"
            " WHERE dbid = (SELECT oid FROM pg_database WHERE datname = CURRENT_DATABASE()) AND query LIKE 'SELECT%'"
            " ORDER BY mean_exec_time DESC LIMIT 1",
            login=warehouse.observer,
        )
    except (errors.UndefinedTable, errors.ObjectNotInPrerequisiteState):
        yield Finding("ok", "slow queries: not looked at, which takes the extension pg_stat_statements")
        return
    for user, calls, seconds, query in rows:
        level: Any = "warn" if seconds > SLOW_SECONDS else "ok"
        page = "server.md#a-query-is-slow" if level == "warn" else ""
        told = f"slow queries: the slowest takes {seconds:.1f} s, called {calls} times by {user}: {query[:80]}"
        yield Finding(level, told, page)


def loads(warehouse: Warehouse) -> Findings:
    newest = warehouse.value("SELECT MAX(loaded_at) FROM landing.batches")
    yield Finding("ok", f"last load: {_ago(newest, warehouse.now)}")
    done_to = min(
        (one.intervals[-1][1] if one.intervals else 0 for one in warehouse.stored.values() if not one.is_seed),
        default=0,
    )
    last = datetime.fromtimestamp(done_to / 1000, UTC)
    first = freshness.first_landed(warehouse.session("sqlmesh_user"), last)
    if first and warehouse.now - first > RUN_AGE:
        yield Finding(
            "error", f"last run: what was loaded {_ago(first, warehouse.now)} waits for one", "failed-run.md#no-run"
        )
    else:
        yield Finding(
            "ok",
            f"last run: {_ago(last if done_to else None, warehouse.now)}"
            + ("; newer loads wait for the next" if first else ""),
        )


def ages(warehouse: Warehouse) -> Findings:
    stale = freshness.check(warehouse.session("sqlmesh_user"))
    for one in stale:
        told = f"freshness: {one.subject} {one.what}"
        yield Finding(one.level, told, "late-data.md#data-are-too-old", Exit.DATA_QUALITY)
    if not stale:
        yield Finding("ok", "freshness: nothing is older than config/freshness.yaml allows")


def waiting_children(warehouse: Warehouse) -> Findings:
    if not warehouse.value("SELECT TO_REGCLASS('marts.waiting_records') IS NOT NULL"):
        return
    count, since, newest = warehouse.ask(
        "SELECT COUNT(*), MIN(waiting_since), (SELECT MAX(date_day) FROM marts.dim_dates) FROM marts.waiting_records"
    )[0]
    if not count:
        yield Finding("ok", "waiting records: none")
        return
    told = f"waiting records: {count} order(s) or ticket(s) have not arrived, the oldest since {since:%Y-%m-%d}"
    is_old = newest and newest - since.date() > WAITING_AGE
    yield Finding("warn" if is_old else "ok", told, "late-data.md#records-wait-for-an-order" if is_old else "")


def backups(warehouse: Warehouse) -> Findings:
    records = [backup.read(one) for one in backup.backups()]
    for what, moments, most, page in (
        ("last backup", [record["taken_at"] for record in records], BACKUP_AGE, "restore.md#no-backup"),
        (
            "last proven restore",
            [r["proven_at"] for r in records if "proven_at" in r],
            PROOF_AGE,
            "restore.md#the-drill",
        ),
    ):
        moment = datetime.fromisoformat(max(moments)) if moments else None
        is_late = moment is None or warehouse.now - moment > most
        yield Finding("warn" if is_late else "ok", f"{what}: {_ago(moment, warehouse.now)}", page if is_late else "")


def _ms(moment: datetime) -> int:
    return int(moment.timestamp() * 1000)


def _ago(moment: datetime | None, now: datetime) -> str:
    if moment is None:
        return "never"
    hours = (now - moment).total_seconds() / 3600
    return (
        f"{hours * 60:.0f} minutes ago"
        if hours < 2
        else f"{hours:.0f} hours ago"
        if hours < 72
        else f"{hours / 24:.0f} days ago"
    )


CHECKS: list[Callable[[Warehouse], Findings]] = [
    logins,
    roles,
    clock,
    disk,
    locks,
    unended_runs,
    deployment,
    views,
    intervals,
    memory,
    empty_tables,
    indexes,
    foreign_keys,
    orphans,
    bloat,
    slow_queries,
    loads,
    ages,
    waiting_children,
    backups,
]


# ---- repairs ----------------------------------------------------------------------------------------------------


def set_up(subjects: list[str]) -> None:
    """Make what `make init` makes."""
    bootstrap.apply()


def mark_crashed(subjects: list[str]) -> None:
    """Mark runs as crashed."""
    with closing(connect("sqlmesh_user")) as session, session, session.cursor() as cursor:
        cursor.execute(f"{MARK_CRASHED} AND run_id = ANY (%s)", [[int(run_id) for run_id in subjects]])


def finish_deployment(subjects: list[str]) -> None:
    """Go on with the deployment."""
    pipeline.finish()


def fill_seeds(subjects: list[str]) -> None:
    """Fill seeds from their files."""
    with closing(Warehouse()) as warehouse:
        seeds = [one for one in warehouse.shown if one.is_seed and model_name(one) in subjects]
        for seed in seeds:
            here = pipeline.context().get_snapshot(seed.name)
            if here is None or here.fingerprint != seed.fingerprint:
                raise WarehouseError(
                    f"the file of {model_name(seed)} in this folder is not that of prod",
                    "check out what was deployed, or deploy this: `make deploy`",
                    Exit.MISMATCH,
                )
            adapter = pipeline.context().engine_adapter
            with pipeline.no_run(), adapter.transaction():
                pipeline.context().snapshot_evaluator.create([here], {here.snapshot_id: here})
                if physical(seed) in warehouse.kinds:
                    for frame in cast("SeedModel", here.model).render_seed():
                        adapter.insert_append(
                            seed.table_name(), frame, target_columns_to_types=here.model.columns_to_types
                        )


def restate(subjects: list[str]) -> None:
    """Compute anew, with all that hangs on it."""
    with closing(Warehouse()) as warehouse:
        seeds = {one.snapshot_id for one in warehouse.shown if one.is_seed and model_name(one) in subjects}
        readers = [model_name(one) for one in warehouse.shown if seeds & set(one.parents)]
        tables = [model_name(one) for one in warehouse.shown if model_name(one) in subjects and not one.is_seed]
    if models := sorted({*tables, *readers}):
        pipeline.restate(models)


def cut_future(subjects: list[str]) -> None:
    """Forget that the future is done."""
    with closing(Warehouse()) as warehouse, pipeline.no_run():
        now = _ms(warehouse.now)
        ahead = [one for one in warehouse.shown if one.intervals and one.intervals[-1][1] > now]
        pipeline.deployed().state_sync.remove_intervals([(one, (now, one.intervals[-1][1])) for one in ahead])


def show(subjects: list[str]) -> None:
    """Let the views read what the state says."""
    pipeline.show()


def make_indexes(subjects: list[str]) -> None:
    """Make missing indexes; of doubled rows one stays."""
    with closing(Warehouse()) as warehouse, pipeline.no_run(), closing(connect("sqlmesh_user")) as session:
        for table, snapshot in warehouse.stored.items():
            for columns, is_unique in declared_indexes(snapshot.model) if model_name(snapshot) in subjects else ():
                schema, name = table.split(".")
                parts = {
                    "index": sql.Identifier(index_name(name, columns)),
                    "old": sql.Identifier(schema, index_name(name, columns)),
                    "table": sql.Identifier(schema, name),
                    "columns": sql.SQL(", ").join(map(sql.Identifier, columns)),
                }
                with session, session.cursor() as cursor:
                    cursor.execute(sql.SQL("DROP INDEX IF EXISTS {old}").format(**parts))
                    if is_unique:
                        cursor.execute(
                            sql.SQL(
                                "DELETE FROM {table} WHERE ctid IN (SELECT ctid FROM (SELECT ctid, ROW_NUMBER() OVER"
                                " (PARTITION BY {columns}) AS place FROM {table}) AS rows WHERE place > 1)"
                            ).format(**parts)
                        )
                    create = "CREATE UNIQUE INDEX" if is_unique else "CREATE INDEX"
                    cursor.execute(sql.SQL(create + " {index} ON {table} ({columns})").format(**parts))


def drop_orphans(subjects: list[str]) -> None:
    """Drop what no model owns and nobody reads."""
    with closing(Warehouse()) as warehouse, pipeline.no_run(), closing(connect("sqlmesh_user")) as session:
        session.autocommit = True
        for table in subjects:
            kind = sql.SQL("VIEW" if warehouse.kinds.get(table) == "v" else "TABLE")
            with session.cursor() as cursor:
                try:
                    cursor.execute(sql.SQL("DROP {} IF EXISTS {}").format(kind, sql.Identifier(*table.split("."))))
                except errors.DependentObjectsStillExist as error:
                    print(f"  kept {table}: {error.diag.message_detail}")


def vacuum(subjects: list[str]) -> None:
    """Vacuum."""
    with closing(Warehouse()) as warehouse, closing(connect(warehouse.observer, "warehouse")) as session:
        session.autocommit = True
        with session.cursor() as cursor:
            for table in subjects:
                cursor.execute(sql.SQL("VACUUM (ANALYZE) {}").format(sql.Identifier(*table.split("."))))


# In this order: a view can only read a table that is there.
REPAIRS = [
    set_up,
    mark_crashed,
    finish_deployment,
    make_indexes,
    fill_seeds,
    restate,
    cut_future,
    show,
    drop_orphans,
    vacuum,
]
