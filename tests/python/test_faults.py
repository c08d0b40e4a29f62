"""Whatever breaks, one run more makes every number right: no row is lost, none is there twice, nothing hostile runs.

One table of faults, of which `make test` tries one of each family and `make faults` all, as often as is told there. After
each fault everything is sent again, in other files; then one refresh, and every mart must equal its definition. At the
end are the controls: what protects is taken away, and the same comparison must see it.
"""

import json
import multiprocessing
import os
import random
import shutil
import signal
import subprocess
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager, suppress
from dataclasses import dataclass, field
from datetime import timedelta
from inspect import unwrap
from pathlib import Path
from typing import Any, NamedTuple

import psycopg2
import pytest
import sqlmesh.core.plan.evaluator as plans
import sqlmesh.core.scheduler as scheduling
import sqlmesh.core.snapshot.evaluator as snapshots
import time_machine
from sqlmesh.core.model import SqlModel
from sqlmesh.core.plan import BuiltInPlanEvaluator

from macros.touched import TOUCHED
from scripts import bootstrap, evaluator, pipeline
from scripts import load as loader
from scripts import server as embedded
from scripts.contract import TABLES
from scripts.errors import Exit, WarehouseError
from scripts.settings import ROOT, connect, settings
from tests.python import oracle, test_load
from tests.python.conftest import forget_caches
from tests.python.test_end_to_end import FAULTS as PLANTED
from tests.python.test_end_to_end import START, ZONE, Row, Warehouse, at, line, order, refund
from tests.python.test_exactness import change, empty

pytestmark = pytest.mark.slow

ALL = os.environ.get("FAULTS") == "all"  # of `make faults`
REPORT = ROOT / ".warehouse" / "faults.json"

FORKS = multiprocessing.get_context("forkserver")
FORKS.set_forkserver_preload(["tests.python.test_faults"])
"""Processes to kill: forked off one that has done the imports, which are most of what a small run costs."""


# ---- the report --------------------------------------------------------------------------------------------------


@dataclass
class Report:
    """What `make faults` says."""

    faults_tried: Counter[str] = field(default_factory=Counter)
    exact_after_one_re_run: int = 0
    rows_lost: int = 0
    rows_doubled: int = 0
    hostile_inputs: int = 0
    hostile_inputs_executed: int = 0
    bad_rows_planted: int = 0
    bad_rows_seen: int = 0
    longest_analyst_wait_seconds: float = 0
    controls_that_saw_it: list[str] = field(default_factory=list)

    def add(self, family: str, lost: int, doubled: int) -> None:
        self.faults_tried[family] += 1
        self.rows_lost += lost
        self.rows_doubled += doubled
        self.exact_after_one_re_run += not (lost or doubled)


@pytest.fixture(scope="session")
def report(request: pytest.FixtureRequest) -> Iterator[Report]:
    made = Report()
    yield made
    if ALL:
        session = request.session
        text = json.dumps(
            vars(made)
            | {
                "faults": sum(made.faults_tried.values()),
                "tests": session.testscollected,
                "tests_failed": session.testsfailed,
            },
            indent=2,
        )
        REPORT.parent.mkdir(exist_ok=True)
        REPORT.write_text(text + "\n")
        print(f"\n{text}\nwritten to {REPORT.relative_to(ROOT)}")


# ---- the warehouse under trial -----------------------------------------------------------------------------------


class Trial(Warehouse):
    """A warehouse, the files that it was sent, and what must come of them."""

    def __init__(self, home: Path, scratch: Path, report: Report) -> None:
        super().__init__(home, scratch / "drops_0")
        self.scratch, self.report, self.sends = scratch, report, 0
        self.sent: dict[str, set[tuple[str, ...]]] = {table: set() for table in TABLES}

    def send(self) -> Path:
        """The files of one more day into the drop folder: new records of every kind, and corrections of those of the day before."""
        self.sends += 1
        n, day = self.sends, self.sends * 0.4 % 90
        new: dict[str, list[Row]] = {
            "customers": [{"customer_id": f"C{n}", "country_code": "US", "created_at": at(day), "updated_at": at(day)}],
            "products": [{"product_id": f"P{n}", "product_name": "tea", "list_price": n, "updated_at": at(day)}],
            "orders": [order(f"O{n}-{i}", day + i / 3, customer_id=f"C{n - i % 2}", currency=code)
                       for i, code in enumerate(["USD", "EUR", "JPY"])],
            "order_items": [line(f"O{n}-{i}", k, 7.77 * k, day, product_id=f"P{n}") for i in range(4) for k in (1, 2)],
            "refunds": [refund(f"R{n}", f"O{n}-0", 1.11, day + 2)],
            "tickets": [{"ticket_id": f"T{n}", "customer_id": f"C{n}", "priority": "high", "status": "open",
                         "created_at": at(day), "updated_at": at(day)}],
            "ticket_events": [{"event_id": f"E{n}", "ticket_id": f"T{n}", "event_type": "agent_reply",
                               "occurred_at": at(day + 0.1)}],
        }  # fmt: skip
        if n > 1:  # yesterday's first order moves to another day and customer; its first line goes
            new["orders"].append(order(f"O{n - 1}-0", day + 5, customer_id=f"C{n}", updated_at=at(day + 100)))
            gone = line(f"O{n - 1}-0", 1, 7.77, day, updated_at=at(day + 100), product_id=f"P{n - 1}", _deleted="true")
            new["order_items"].append(gone)
        return self.drop(**new)

    def drop(self, **tables: list[Row]) -> Path:
        for table, rows in tables.items():
            clock = ["updated_at"] if table != "ticket_events" else []
            names = [*oracle.KEYS[table].split(", "), *clock]
            self.sent[table] |= {tuple(str(row[name]) for name in names) for row in rows}
        return super().drop(**tables)

    def begin(self) -> None:
        """With an empty drop folder."""
        self.drops = self.scratch / f"drops_{self.sends}"

    def send_again(self) -> None:
        """All files of the drop folder once more, the rows the other way round: known rows in unknown files."""
        for folder in sorted(self.drops.glob("batch_???")):
            again = folder.with_name(f"{folder.name}_again")
            again.mkdir()
            for file in folder.glob("*.csv"):
                header, *lines = file.read_text().splitlines()
                (again / file.name).write_text("\n".join([header, *reversed(lines)]) + "\n")

    def settle(self) -> tuple[int, int]:
        """Everything is sent again, and one refresh; then the rows that are missing, and those there are too many of."""
        wait_for_the_dead()
        self.send_again()
        pipeline.refresh(self.drops)
        return self.compare()

    def compare(self) -> tuple[int, int]:
        lost = doubled = 0
        for table, sent in self.sent.items():
            clock = ", updated_at" if table != "ticket_events" else ""
            [(rows, versions)] = self.read(
                f"SELECT COUNT(*), COUNT(DISTINCT ({oracle.KEYS[table]}{clock})) FROM landing.{table}"
            )
            lost += max(0, len(sent) - versions)
            doubled += rows - versions
        with closing(connect("sqlmesh_user")) as session:
            expected = oracle.expected(session, self.scratch, ZONE, "USD")
        for mart, (columns, rows_there) in expected.items():
            here = Counter(oracle.canonical(self.read(f"SELECT {', '.join(columns)} FROM {mart}")))
            lost += (Counter(rows_there) - here).total()
            doubled += (here - Counter(rows_there)).total()
        return lost, doubled

    def table_of(self, model: str) -> str:
        """The physical table of prod."""
        environment = pipeline.deployed().state_reader.get_environment("prod")
        assert environment
        found = pipeline.deployed().state_reader.get_snapshots(environment.snapshots).values()
        return next(
            ".".join(part.strip('"') for part in s.table_name().split(".")[-2:])
            for s in found
            if s.is_model and s.model.name == model
        )

    def begin_anew(self) -> None:
        """After a control: nothing that it spoiled is left."""
        bootstrap.apply()
        empty(self)
        self.begin()
        self.sent = {table: set() for table in TABLES}


@pytest.fixture(scope="module")
def trial(homes: Path, tmp_path_factory: pytest.TempPathFactory, report: Report) -> Iterator[Trial]:
    made = Trial(homes / "faults", tmp_path_factory.mktemp("faults"), report)
    try:
        with made, pytest.MonkeyPatch.context() as patch:
            patch.setattr(pipeline, "FIRST_PAUSE", 0.05)
            patch.setattr(pipeline, "LONGEST_PAUSE", 0.2)
            pipeline.init()
            made.send()
            pipeline.refresh(made.drops)
            yield made
    finally:
        made.home.remove()


def execute(statement: str, database: str = "warehouse", *values: object) -> list[tuple[Any, ...]]:
    with closing(connect("postgres", database)) as admin, admin.cursor() as cursor:
        admin.autocommit = True
        cursor.execute(statement, values or None)
        return cursor.fetchall() if cursor.description else []


def wait_for_the_dead() -> None:
    """Until the server has noticed that killed clients are gone: at once when they sleep, in 2 s when they work."""
    deadline = time.monotonic() + 20
    while time.monotonic() < deadline:
        [(held,)] = execute("SELECT COUNT(*) FROM pg_locks WHERE locktype = 'advisory' AND classid IN (7274)")
        if not held:
            return
        time.sleep(0.05)


def attempt(work: Callable[[], object]) -> WarehouseError | None:
    """What people are told when it fails; any other exception is a stack trace for somebody."""
    failure = None
    try:
        work()
    except WarehouseError as error:
        failure = error
    assert failure is None or failure.code != Exit.BUG, str(failure)
    return failure


# ---- processes that die ------------------------------------------------------------------------------------------


def kill_me() -> None:
    os.kill(os.getpid(), signal.SIGKILL)


def _child(environment: dict[str, str], log: str, work: Callable[..., None], args: tuple[Any, ...]) -> None:
    os.environ.clear()
    os.environ.update(environment)
    with open(log, "a") as file:
        os.dup2(file.fileno(), 1)
        os.dup2(file.fileno(), 2)
    print("---", work.__name__, args, flush=True)
    forget_caches()
    try:
        work(*args)
    except WarehouseError as error:
        print(error, flush=True)
        os._exit(error.code)


def begin(trial: Trial, work: Callable[..., None], *args: Any) -> Any:
    process = FORKS.Process(target=_child, args=(dict(os.environ), str(trial.scratch / "children.log"), work, args))
    process.start()
    return process


def end(trial: Trial, process: Any) -> int:
    process.join(180)
    if process.exitcode is None:
        process.kill()
    code = process.exitcode
    log = (trial.scratch / "children.log").read_text()
    assert code in (0, -signal.SIGKILL, *Exit) and code != Exit.BUG, log
    assert "Traceback" not in log, log
    return int(code)


def loading(drops: Path, point: str | None) -> None:
    if point:
        test_load.crash_at(*test_load.POINTS[point], kill_me)
    pipeline.load(drops)


def running(module: Any = None, target: str = "", call: int = 0, when: str = "") -> None:
    pipeline.deployed()  # the project's own parts are in place: a death comes after what they do
    if target:
        test_load.crash_at(target, call, when, kill_me, {"snapshots": snapshots, "scheduling": scheduling}[module])
    pipeline.run_missing()


def deploying(number: int, stage: str = "", when: str = "") -> None:
    """A plan of the kind that has the stage; by default a change that builds marts anew."""
    project = pipeline.context()
    if stage:
        test_load.crash_at(f"BuiltInPlanEvaluator.{stage}", 1, when, kill_me, plans)
    if stage == RESTATEMENT:
        pipeline.restate(["marts.daily_revenue"])
    elif stage == AUDITS_ONLY:
        model = project.get_model("marts.daily_revenue", raise_if_missing=True)
        project.upsert_model(model, audits=[*model.audits, *[("revenue_spike", {})] * number])
        pipeline.apply("the changed model was not deployed")
    else:
        change("marts.daily_revenue", number)


# ---- the faults --------------------------------------------------------------------------------------------------


def loader_killed_at(trial: Trial, number: int) -> bool:
    process = begin(trial, loading, trial.drops, list(test_load.POINTS)[number])
    assert end(trial, process) == -signal.SIGKILL
    return True


def loader_killed_at_random(trial: Trial, number: int) -> bool:
    """Anywhere, from before its first connection to after its last: the same seed, the same moments."""
    process = begin(trial, loading, trial.drops, None)
    time.sleep(random.Random(number).random() * 0.8)
    process.kill()
    end(trial, process)
    return True


def run_killed_at(module: str, target: str, when: str) -> Callable[[Trial, int], bool]:
    def fault(trial: Trial, number: int) -> bool:
        """False when the run has no such boundary any more."""
        pipeline.load(trial.drops)
        code = end(trial, begin(trial, running, module, target, number + 1, when))
        assert code in (0, -signal.SIGKILL), (trial.scratch / "children.log").read_text()
        return code != 0

    return fault


AUDITS_ONLY, RESTATEMENT = "visit_audit_only_run_stage", "visit_restatement_stage"
OF_PLANS_WITHOUT_ROWS = "visit_physical_layer_update_stage"  # here every plan for prod catches up
STAGES = [name for name in vars(BuiltInPlanEvaluator) if name.startswith("visit_") and name != OF_PLANS_WITHOUT_ROWS]
deployments = iter(range(1, 1000))


def plan_killed_at(trial: Trial, number: int) -> bool:
    """Before or after a stage; then a deployment, as an operator would."""
    stage, when = STAGES[number // 2], ("before", "after")[number % 2]
    pipeline.load(trial.drops)
    deployment = next(deployments)
    code = end(trial, begin(trial, deploying, deployment, stage, when))
    assert code == -signal.SIGKILL, f"the plan has no stage {stage}"
    wait_for_the_dead()
    assert end(trial, begin(trial, deploying, deployment)) == 0
    return True


@contextmanager
def struck(module: Any, target: str, call: int, when: str, strike: Callable[[], object]) -> Iterator[None]:
    """In this process: something happens at the nth call of a method; in order again afterwards."""
    with pytest.MonkeyPatch.context() as patch:
        owner, name = target.split(".")
        patch.setattr(getattr(module, owner), name, getattr(getattr(module, owner), name))
        test_load.crash_at(target, call, when, strike, module)
        yield


def crash_the_server() -> None:
    """Immediate shutdown, as by `pg_ctl stop -m immediate`: no checkpoint, and the next start recovers."""
    data = settings().warehouse_home / "data"
    postmaster = int((data / "postmaster.pid").read_text().split()[0])
    os.kill(postmaster, signal.SIGQUIT)
    deadline = time.monotonic() + 20
    while (data / "postmaster.pid").exists() and time.monotonic() < deadline:
        time.sleep(0.02)


def server_crashes(trial: Trial, number: int) -> bool:
    """During a load, a backfill and a promotion; it is up again before the work that was cut tries again."""

    def strike() -> None:
        crash_the_server()
        embedded.up()

    def deploy() -> None:
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(pipeline, "PROD", "prod")
            pipeline.show()

    points: list[tuple[Any, str, int, str, Callable[[], object]]] = [
        (loader, "_Loader.publish_file", 2, "after", lambda: pipeline.load(trial.drops)),
        (loader, "_Counting.read", 2, "before", lambda: pipeline.load(trial.drops)),
        (snapshots, "SnapshotEvaluator.evaluate", 9, "before", lambda: pipeline.refresh(trial.drops)),
        (snapshots, "SnapshotEvaluator.evaluate", 15, "after", lambda: pipeline.refresh(trial.drops)),
        (scheduling, "Scheduler.evaluate", 15, "after", lambda: pipeline.refresh(trial.drops)),
        (snapshots, "SnapshotEvaluator._promote_snapshot", 9, "after", deploy),
    ]
    module, target, call, when, work = points[number]
    with struck(module, target, call, when, strike):
        error = attempt(work)
    assert error is None or error.code in (Exit.TRANSIENT, Exit.SERVICE_DOWN)
    if work is deploy:
        pipeline.deployed().close()
        pipeline.deployed.cache_clear()
        pipeline.show()
    return True


def close_the_state() -> None:
    execute("ALTER DATABASE sqlmesh_state WITH ALLOW_CONNECTIONS false", "postgres")
    execute("SELECT PG_TERMINATE_BACKEND(pid) FROM pg_stat_activity WHERE datname = 'sqlmesh_state'", "postgres")


def open_the_state() -> None:
    execute("ALTER DATABASE sqlmesh_state WITH ALLOW_CONNECTIONS true", "postgres")


def state_is_away(trial: Trial, number: int) -> bool:
    """Before a run, and after so many of its models."""
    try:
        if number == 0:
            close_the_state()
            pipeline.deployed.cache_clear()
            error = attempt(lambda: pipeline.refresh(trial.drops))
        else:
            with struck(snapshots, "SnapshotEvaluator.evaluate", 6 * number, "after", close_the_state):
                error = attempt(lambda: pipeline.refresh(trial.drops))
        assert error and error.code in (Exit.SERVICE_DOWN, Exit.TRANSIENT)
    finally:
        open_the_state()
    pipeline.deployed.cache_clear()
    return True


def timeouts(trial: Trial, number: int) -> bool:
    """Somebody holds a table for longer than statements may last, or than they may wait for locks."""
    setting = ("statement_timeout", "lock_timeout")[number]
    table = trial.table_of("marts.daily_revenue")
    execute(f"ALTER ROLE sqlmesh_user SET {setting} = '400ms'")
    pipeline.deployed().close()
    pipeline.deployed.cache_clear()
    try:
        with closing(connect("postgres", "warehouse")) as other, other.cursor() as cursor:
            cursor.execute(f"LOCK TABLE {table} IN ACCESS EXCLUSIVE MODE")
            error = attempt(lambda: pipeline.refresh(trial.drops))
        assert error and error.code == Exit.TRANSIENT, error
    finally:
        bootstrap.apply()  # sets anew what roles have by themselves
    pipeline.deployed().close()
    pipeline.deployed.cache_clear()
    return True


class Watch:
    """Somebody who asks the same again and again, every 20 ms, and notes the answers and how long they took."""

    def __init__(self, query: str, login: str = "analyst") -> None:
        self.query, self.login = query, login
        self.seen: Counter[Any] = Counter()
        self.longest, self.is_over = 0.0, threading.Event()
        self.failure: Exception | None = None
        self.thread = threading.Thread(target=self._ask)

    def _ask(self) -> None:
        try:
            with closing(connect(self.login, "warehouse")) as session, session.cursor() as cursor:
                session.autocommit = True
                while not self.is_over.wait(0.02):
                    begun = time.monotonic()
                    cursor.execute(self.query)
                    self.seen[cursor.fetchall()[0][0]] += 1
                    self.longest = max(self.longest, time.monotonic() - begun)
        except Exception as failure:
            self.failure = failure

    def __enter__(self) -> "Watch":
        self.thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.is_over.set()
        self.thread.join()
        if self.failure:
            raise self.failure


def long_query_during_a_promotion(trial: Trial, number: int) -> bool:
    """A deployment waits for an analyst's transaction, or gives up; other analysts wait no longer than its lock may."""
    pipeline.load(trial.drops)
    deployment = next(deployments)
    with Watch("SELECT COUNT(*) FROM marts.daily_revenue") as other:
        with closing(connect("analyst")) as slow, slow.cursor() as cursor:
            cursor.execute("SELECT COUNT(*) FROM marts.daily_revenue")  # and the transaction stays open
            process = begin(trial, deploying, deployment)
            waits = "SELECT COUNT(*) FROM pg_locks WHERE NOT granted AND mode = 'AccessExclusiveLock'"
            deadline = time.monotonic() + 120
            while not execute(waits)[0][0] and process.is_alive() and time.monotonic() < deadline:
                time.sleep(0.05)
            time.sleep(2)
        end(trial, process)
    trial.report.longest_analyst_wait_seconds = max(trial.report.longest_analyst_wait_seconds, other.longest)
    assert len(other.seen) and other.longest < 12  # lock_timeout of sqlmesh_user is 10 s
    wait_for_the_dead()
    assert end(trial, begin(trial, deploying, deployment)) == 0
    return True


def two_at_once(first: Callable[..., None], second: Callable[..., None]) -> Callable[[Trial, int], bool]:
    def fault(trial: Trial, number: int) -> bool:
        pipeline.load(trial.drops)
        both = []
        for work in (first, second):
            both.append(begin(trial, work, *([next(deployments)] if work is deploying else [])))
            time.sleep(random.Random(number).random() * 0.5)
        for process in both:
            process.join(180)
        codes = [process.exitcode for process in both]
        assert 0 in codes and set(codes) <= {0, Exit.LOCKED, 1}, (codes, (trial.scratch / "children.log").read_text())
        return True

    return fault


def days_of_outage(trial: Trial, number: int) -> bool:
    """Three days come together: one call does all of it, in order."""
    execute("UPDATE ops.runs SET started_at = started_at - INTERVAL '3 days 2 hours'")
    for _ in range(2):
        trial.send()
    return True


def clock_is_wrong(trial: Trial, number: int) -> bool:
    """This machine's, by days: the job refuses, and a run that is started all the same goes by the server's."""
    days = (3, -3, 400, -400)[number]
    with time_machine.travel(timedelta(days=days) + _now(), tick=True):
        error = attempt(lambda: pipeline.refresh(trial.drops))
        assert error and error.code == Exit.SERVICE_DOWN and "clock is" in error.what
        pipeline.load(trial.drops)
        attempt(pipeline.run_missing)
    ahead = execute(
        "SELECT COUNT(*) FROM sqlmesh._intervals WHERE end_ts > EXTRACT(EPOCH FROM NOW() + INTERVAL '1 min') * 1000",
        "sqlmesh_state",
    )
    assert ahead == [(0,)]  # or what is loaded until then would never be looked at
    return True


def _now() -> Any:
    return execute("SELECT NOW()")[0][0]


def clocks_change(trial: Trial, number: int) -> bool:
    """Orders every quarter of an hour around both changes in New York, when an hour is missing and when it comes twice."""
    day = (1.75, -124.25)[number]  # 8 March 2026, 2 November 2025
    assert START.month == 3
    trial.drop(
        orders=[order(f"DST{number}-{n}", day + n / 96) for n in range(60)],
        order_items=[line(f"DST{number}-{n}", 1, 3.33, day) for n in range(60)],
        refunds=[refund(f"DST{number}-{n}", f"DST{number}-{n}", 0.5, day + n / 96) for n in range(0, 60, 7)],
    )
    return True


def session_in_another_zone(trial: Trial, number: int) -> bool:
    """Of every login and of the process: the day of an order is that of the reporting zone, whoever works it out."""
    zone = ("Asia/Kathmandu", "America/Los_Angeles")[number]
    for login in ("sqlmesh_user", "loader", "sqlmesh_state_user"):
        execute(f"ALTER ROLE {login} SET timezone = '{zone}'")
    pipeline.deployed().close()
    pipeline.deployed.cache_clear()
    try:
        with pytest.MonkeyPatch.context() as patch:
            patch.setenv("PGTZ", zone)
            patch.setenv("TZ", zone)
            time.tzset()
            pipeline.refresh(trial.drops)
    finally:
        time.tzset()
        bootstrap.apply()
    pipeline.deployed().close()
    pipeline.deployed.cache_clear()
    return True


HEADER = b"product_id,product_name,updated_at\n"
HOSTILE: list[tuple[str, bytes]] = [
    *((name, content) for name, content, _ in test_load.UNREADABLE),
    *(("products.csv", HEADER + content) for content, _ in test_load.STRUCTURE),
    ("products.csv", HEADER + b"X,a,2011-01-01\n\\.\nY,b,now\n\\.\n"),
    ("products.csv", HEADER + b'X,"' + b"a" * (64 << 20) + b'",2011-01-01\n'),
    ("products.csv", HEADER),
    ("products.csv", b"\xef\xbb\xbf" + HEADER.replace(b"\n", b"\r\n")),
    ("products.csv", "product_id,product_name,updated_at\nÄ,ö,now\n".encode("latin-1")),
    ("products.csv", HEADER + b'"\'; DROP TABLE landing.products; --","$(touch {canary})",now\n'),
    ("products.csv", HEADER + b"=cmd|'/C touch {canary}'!A0,`touch {canary}`,now\n"),
    ("products.csv", HEADER.replace(b"product_name", b'"x""; COPY (SELECT 1) TO PROGRAM \'touch {canary}\'; --"')),
    ("products.csv'; touch {canary};'.csv", HEADER),
    ("$(touch {canary}).csv", HEADER),
    ("..csv", HEADER),
    ("\x1b[2J\x1b]0;owned\x07.csv", HEADER),
]


def hostile_files(trial: Trial, number: int) -> bool:
    """Each in a batch with the day's own files' neighbours; none of them loads a row, runs, or keeps the others back."""
    canary = trial.scratch / "canary"
    objects = (
        "SELECT COUNT(*) FROM pg_class UNION ALL SELECT COUNT(*) FROM pg_proc UNION ALL SELECT COUNT(*) FROM pg_roles"
    )
    drops = trial.drops
    before, landed = execute(objects), execute("SELECT COUNT(*) FROM landing.products")
    trial.drops = trial.scratch / f"hostile_{number}"
    (trial.drops / "'; DROP TABLE landing.orders; --").mkdir(parents=True)
    for place, (name, content) in enumerate(HOSTILE[number::HOSTILE_TIMES]):
        folder = trial.drops / f"hostile_{place:02d}"
        folder.mkdir()
        path = folder / name.replace("{canary}", str(canary).replace("/", "\N{DIVISION SLASH}"))
        path.write_bytes(content.replace(b"{canary}", str(canary).encode()))
        trial.report.hostile_inputs += 1
    folder = trial.drops / "hostile_special"
    folder.mkdir()
    (folder / "orders.csv").symlink_to("/etc/passwd")
    os.mkfifo(folder / "customers.csv")
    (folder / "refunds.csv").symlink_to("../../../../etc/shadow")
    trial.report.hostile_inputs += 4
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("MAX_REJECT_SHARE", "0")
        settings.cache_clear()
        error = attempt(lambda: pipeline.load(trial.drops))
    settings.cache_clear()
    assert error and error.code == Exit.INPUT_REFUSED
    executed = canary.exists() + (execute(objects) != before)
    trial.report.hostile_inputs_executed += executed
    assert not executed
    shutil.rmtree(trial.drops)
    trial.drops = drops
    loaded = {key for (key,) in execute("SELECT product_id FROM landing.products")} - {
        p for p, _ in trial.sent["products"]
    }
    execute("DELETE FROM landing.products WHERE product_id = ANY(%s)", "warehouse", list(loaded))
    assert len(loaded) < len(HOSTILE), landed
    return True


HOSTILE_TIMES = 4


def cut_at_a_row_boundary(trial: Trial, number: int) -> bool:
    """Nothing tells such a file from a whole one; the whole one, sent later, brings just what was missing."""
    whole = {file: file.read_text() for file in trial.drops.glob("*/*.csv")}
    for file, text in whole.items():
        file.write_text("".join(text.splitlines(keepends=True)[:2]))
    attempt(lambda: pipeline.refresh(trial.drops))
    for file, text in whole.items():
        file.write_text(text)
    return True


class Fault(NamedTuple):
    """`do` is told the how manyth time it is, and says whether there is something to try so often."""

    family: str
    do: Callable[[Trial, int], bool]
    times: int


FAULTS = {
    "loader killed at each point": Fault("kill -9 of the loader", loader_killed_at, len(test_load.POINTS)),
    "loader killed at random": Fault("kill -9 of the loader", loader_killed_at_random, 100),
    "run killed between commit and record": Fault(
        "kill -9 of a run", run_killed_at("snapshots", "SnapshotEvaluator.evaluate", "after"), 100
    ),
    "run killed after the record": Fault(
        "kill -9 of a run", run_killed_at("scheduling", "Scheduler.evaluate", "after"), 100
    ),
    "plan killed around each stage": Fault("kill -9 of a plan", plan_killed_at, 2 * len(STAGES)),
    "server crashes": Fault("immediate shutdown of PostgreSQL", server_crashes, 6),
    "state database away": Fault("state database away", state_is_away, 4),
    "timeouts": Fault("statement and lock timeouts", timeouts, 2),
    "long query during a promotion": Fault("long analyst query", long_query_during_a_promotion, 2),
    "two runs at once": Fault("two at once", two_at_once(running, running), 20),
    "run and plan at once": Fault("two at once", two_at_once(running, deploying), 20),
    "days of outage": Fault("days of outage", days_of_outage, 1),
    "wrong clock": Fault("wrong clock", clock_is_wrong, 4),
    "clocks change": Fault("clocks change", clocks_change, 2),
    "session in another zone": Fault("session in another zone", session_in_another_zone, 2),
    "hostile files": Fault("hostile files", hostile_files, HOSTILE_TIMES),
    "file cut at a row boundary": Fault("hostile files", cut_at_a_row_boundary, 1),
}

PROMOTION = 2 * STAGES.index("visit_virtual_layer_update_stage")
SHORT: list[dict[str, int]] = [
    {"loader killed at each point": 5, "hostile files": 0, "days of outage": 0, "clocks change": 1, "wrong clock": 0},
    {"run killed between commit and record": 7, "state database away": 1, "timeouts": 0, "server crashes": 3},
    {"plan killed around each stage": PROMOTION, "two runs at once": 0},
]
"""What `make test` tries: several, one after the other, then one comparison."""


@pytest.mark.skipif(ALL, reason="each of them by itself: `make faults`")
@pytest.mark.parametrize("faults", SHORT, ids=lambda faults: next(iter(faults)))
def test_one_run_more_makes_all_right(trial: Trial, report: Report, faults: dict[str, int]) -> None:
    trial.begin()
    for name, number in faults.items():
        trial.send()
        assert FAULTS[name].do(trial, number)
        report.faults_tried[FAULTS[name].family] += 1
    assert trial.settle() == (0, 0)


@pytest.mark.skipif(not ALL, reason="takes long: `make faults`")
@pytest.mark.parametrize("name", FAULTS)
def test_one_run_more_makes_all_right_each_time(trial: Trial, report: Report, name: str) -> None:
    fault, tried = FAULTS[name], 0
    for number in range(fault.times):
        trial.begin()
        trial.send()
        was_tried = fault.do(trial, number)
        lost, doubled = trial.settle()
        assert (lost, doubled) == (0, 0) or was_tried
        if not was_tried:
            break
        tried += 1
        report.add(fault.family, lost, doubled)
        assert (lost, doubled) == (0, 0), f"{name}, number {number}"
    assert tried


# ---- write, audit, publish ---------------------------------------------------------------------------------------

BLOCKING = {
    name: (model, plant.replace(" WHERE ctid = (SELECT MIN(ctid) FROM {t})", ""))
    for name, (model, plant) in PLANTED.items()
    if "blocking FALSE" not in (ROOT / "audits" / f"{name}.sql").read_text()
}
DOUBLE = "; INSERT INTO {t} SELECT * FROM {t}"


@contextmanager
def planted(trial: Trial, model: str, plant: str, is_stock: bool = False) -> Iterator[None]:
    """A model writes bad rows, in a run as it is here, or as SQLMesh has it: rows are committed, and audited then."""
    pipeline.deployed()
    evaluate, audit = unwrap(snapshots.SnapshotEvaluator.evaluate), unwrap(snapshots.SnapshotEvaluator.audit)
    plant += DOUBLE if "{unique}" in plant else ""

    def planting(self: Any, snapshot: Any, **kwargs: Any) -> Any:
        if is_stock:
            self.get_adapter(snapshot.model_gateway).execute(f"DROP TABLE IF EXISTS pg_temp.{TOUCHED}")
        result = evaluate(self, snapshot, **kwargs)
        if snapshot.is_model and snapshot.model.name == model:
            adapter = self.get_adapter(snapshot.model_gateway)
            adapter.execute(plant.format(t=trial.table_of(model), unique=unique_index(trial.table_of(model))))
        return result

    with pytest.MonkeyPatch.context() as patch:
        for name, stock, ours in (
            ("evaluate", planting, evaluator._evaluate(planting, audit)),
            ("audit", audit, evaluator._audit(audit)),
        ):
            patch.setattr(snapshots.SnapshotEvaluator, name, stock if is_stock else ours)
        yield


def unique_index(table: str) -> str:
    return str(
        execute(
            "SELECT schemaname || '.' || indexname FROM pg_indexes"
            " WHERE schemaname || '.' || tablename = %s AND indexdef LIKE 'CREATE UNIQUE%%'",
            "warehouse",
            table,
        )[0][0]
    )


def states_seen(model: str) -> Watch:
    """Somebody who looks at all rows of a view; staging is not for analysts."""
    login = "analyst" if model.startswith("marts.") else "sqlmesh_user"
    return Watch(f"SELECT MD5(STRING_AGG(t::TEXT, '|' ORDER BY t::TEXT)) FROM {model} AS t", login)


@pytest.mark.parametrize("audit", list(BLOCKING) if ALL else ["revenue_reconciles"])
def test_nobody_sees_the_rows_of_a_check_that_fails(trial: Trial, report: Report, audit: str) -> None:
    model, plant = BLOCKING[audit]
    trial.begin()
    trial.send()
    pipeline.load(trial.drops)
    [(before,)] = trial.read(f"SELECT MD5(STRING_AGG(t::TEXT, '|' ORDER BY t::TEXT)) FROM {model} AS t")
    with planted(trial, model, plant), states_seen(model) as watch:
        error = attempt(pipeline.run_missing)
    assert error and error.code == Exit.DATA_QUALITY and f"{audit} found" in error.hint, error
    report.bad_rows_planted += 1
    report.bad_rows_seen += len(watch.seen) - 1
    assert set(watch.seen) == {before} and watch.seen.total() > 5
    lost_doubled = trial.settle()
    report.add("bad rows under a blocking check", *lost_doubled)
    assert lost_doubled == (0, 0)


# ---- disks that are full -----------------------------------------------------------------------------------------


@contextmanager
def small_disk(folder: Path, megabytes: int) -> Iterator[None]:
    """A file system of its own. Skips the test where none can be made."""
    made = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", f"size={megabytes}m,mode=711", "tmpfs", folder],
        capture_output=True, text=True, check=False,
    )  # fmt: skip
    if made.returncode:
        pytest.skip(f"no disk to fill: mount needs root, and says {made.stderr.strip()}")
    try:
        yield
    finally:
        subprocess.run(["umount", "--lazy", folder], check=True)


def fill(folder: Path) -> Path:
    """A file that leaves no byte for others."""
    ballast = folder / "ballast"
    with ballast.open("wb", buffering=0) as file:
        for size in (1 << 20, 1 << 12):
            try:
                while file.write(bytes(size)) == size:
                    pass
            except OSError:
                continue
    return ballast


@pytest.mark.skipif(not ALL, reason="servers of their own: `make faults`")
@pytest.mark.parametrize("what", ["data", "WAL"])
def test_a_full_disk_loses_nothing(homes: Path, tmp_path: Path, report: Report, what: str) -> None:
    """Of the whole home, where tables grow; or of the WAL alone, where PostgreSQL stops in panic."""
    home = homes / f"full_{what}"
    home.mkdir(mode=0o711)
    small = Trial(home, tmp_path, report)
    with small_disk(home, 1200):
        try:
            with small:
                pipeline.init()
                small.begin()
                small.send()
                pipeline.refresh(small.drops)
                if what == "WAL":
                    wal = home / "data" / "pg_wal"
                    embedded.down()
                    kept = wal.rename(home / "kept")
                    wal.mkdir(mode=0o700)
                    with small_disk(wal, 160):
                        shutil.copytree(kept, wal, dirs_exist_ok=True)
                        give(wal, kept)
                        embedded.up()
                        _work_without_room(small, wal, report)
                        embedded.down()
                else:
                    _work_without_room(small, home, report)
        finally:
            with suppress(WarehouseError):
                small.home.run("down")


def give(folder: Path, like: Path) -> None:
    owner = like.stat()
    for path in (folder, *folder.rglob("*")):
        os.chown(path, owner.st_uid, owner.st_gid)


def _work_without_room(small: Trial, disk: Path, report: Report) -> None:
    small.send()
    pipeline.load(small.drops)
    ballast = fill(disk)
    with suppress(psycopg2.Error, WarehouseError):  # until there is no room within the files that are there, either
        execute("CREATE TABLE public.filler AS SELECT REPEAT(MD5(n::TEXT), 20) FROM GENERATE_SERIES(1, 2000000) AS n")
    with suppress(psycopg2.Error, WarehouseError):
        execute("CREATE TABLE public.filler AS SELECT n FROM GENERATE_SERIES(1, 1000000) AS n")
    error = attempt(lambda: pipeline.refresh(small.drops))
    assert error and error.code in (Exit.TRANSIENT, Exit.SERVICE_DOWN), error
    ballast.unlink()
    pipeline.deployed.cache_clear()
    embedded.up()
    bootstrap.apply()
    execute("DROP TABLE IF EXISTS public.filler")
    lost, doubled = small.settle()
    report.add("full disk", lost, doubled)
    assert (lost, doubled) == (0, 0)


# ---- controls: the comparison sees what it claims to -------------------------------------------------------------


@pytest.mark.skipif(not ALL, reason="takes long: `make faults`")
def test_control_without_lock_and_index_two_runs_double_rows(trial: Trial, report: Report) -> None:
    trial.begin()
    trial.drop(orders=[order("TWICE", 3)])  # new: a row that is there would be waited for
    pipeline.load(trial.drops)
    table = trial.table_of("staging.orders")
    index = unique_index(table)
    [(definition,)] = execute("SELECT PG_GET_INDEXDEF(%s::REGCLASS)", "warehouse", index)
    execute(
        f"DROP INDEX {index}; {definition.replace('UNIQUE ', '')}; CREATE OR REPLACE FUNCTION ops.acquire_run_lock(run_end TIMESTAMPTZ) RETURNS VOID"
        " LANGUAGE sql AS 'SELECT'"
    )
    try:
        both = [begin(trial, running_beside, str(trial.scratch / "barrier"), me) for me in range(2)]
        for process in both:
            process.join(180)
        [(rows, orders)] = trial.read("SELECT COUNT(*), COUNT(DISTINCT order_id) FROM staging.orders")
        assert rows > orders
        assert trial.compare()[1] > 0
        report.controls_that_saw_it.append("two runs without the run lock and the unique index double rows")
    finally:
        trial.begin_anew()
        execute(f"DROP INDEX {index}; {definition}")
        trial.send()
    assert trial.settle() == (0, 0)


def running_beside(barrier: str, me: int) -> None:
    """A run that writes staging.orders at the same time as another one, and checks nothing."""
    pipeline.deployed()
    evaluate = unwrap(snapshots.SnapshotEvaluator.evaluate)

    def beside(self: Any, snapshot: Any, **kwargs: Any) -> Any:
        result = evaluate(self, snapshot, **kwargs)
        if snapshot.is_model and snapshot.model.name == "staging.orders":
            Path(f"{barrier}_{me}").touch()
            deadline = time.monotonic() + 30
            while not Path(f"{barrier}_{1 - me}").exists() and time.monotonic() < deadline:
                time.sleep(0.01)
        return result

    SqlModel.render_post_statements = lambda *_, **__: []  # type: ignore[method-assign]  # making the index is a lock, too
    snapshots.SnapshotEvaluator.evaluate = evaluator._evaluate(beside, lambda *_, **__: [])  # type: ignore[method-assign]
    pipeline.run_missing()


def test_control_rows_audited_after_the_commit_are_seen(trial: Trial, report: Report) -> None:
    model, plant = BLOCKING["revenue_reconciles"]
    trial.begin()
    trial.send()
    pipeline.load(trial.drops)
    try:
        with planted(trial, model, plant, is_stock=True), states_seen(model) as watch:
            error = attempt(pipeline.run_missing)
        assert error and error.code == Exit.DATA_QUALITY
        assert len(watch.seen) > 1
        lost, doubled = trial.compare()
        assert lost and doubled
        report.controls_that_saw_it.append("SQLMesh's own order, commit before audit, shows bad rows to analysts")
    finally:
        trial.begin_anew()
        trial.send()
    assert trial.settle() == (0, 0)


def test_control_a_row_that_is_lost_or_doubled_is_counted(trial: Trial, report: Report) -> None:
    """In landing and in a mart: one, not none and not many."""
    for damage, expected in (
        ("DELETE FROM landing.ticket_events WHERE ctid = (SELECT MIN(ctid) FROM landing.ticket_events)", (1, 0)),
        ("DELETE FROM {t} WHERE ctid = (SELECT MIN(ctid) FROM {t})", (1, 0)),
        ("DROP INDEX {unique}; INSERT INTO {t} SELECT * FROM {t} LIMIT 1", (0, 1)),
    ):
        table = trial.table_of("marts.waiting_records")
        with closing(connect("postgres", "warehouse")) as admin, admin.cursor() as cursor:
            cursor.execute(damage.format(t=table, unique=unique_index(table)))
            trial.read = lambda query, login="": _rows(cursor, query)  # type: ignore[method-assign]
            try:
                counted = trial.compare()
            finally:
                del trial.read
        assert [bool(n) for n in counted] == [bool(n) for n in expected], (damage, counted)
    report.controls_that_saw_it.append("a row that is lost or doubled by hand is counted")


def _rows(cursor: Any, query: str) -> oracle.Rows:
    cursor.execute(query)
    found: oracle.Rows = cursor.fetchall()
    return found
