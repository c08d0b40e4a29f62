"""What an operator relies on: every run is remembered, every fault has its exit code, and nothing is done twice.

A project of two models, whose query calls a function that a test fills with the fault it wants.
"""

import json
import os
import shlex
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import closing
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest

from scripts import alerts, bootstrap, freshness, pipeline, recorder
from scripts import server as embedded
from scripts.errors import Exit, WarehouseError
from scripts.settings import ROOT, connect, export_environment
from tests.python.conftest import Home, forget_caches

pytestmark = pytest.mark.slow

PEOPLE = """
MODEL (name staging.people, kind FULL, owner commerce, audits (no_strangers, nobody_is_shouting));
SELECT customer_id, email, full_name, country_code, LOWER(email) AS email_lower
FROM landing.customers
"""
COUNTRIES = """
MODEL (name marts.countries, kind FULL, owner sales);
SELECT country_code, COUNT(*) AS people FROM staging.people WHERE (SELECT trial.fault()) GROUP BY country_code
"""
AUDITS = """
AUDIT (name no_strangers);
/* A returned row is of no known country: correct it. */
SELECT * FROM @this_model WHERE country_code = 'XX';

AUDIT (name nobody_is_shouting, blocking FALSE);
SELECT * FROM @this_model WHERE email <> email_lower
"""


class Trial:
    """The small project and its warehouse, in this process and in others."""

    def __init__(self, home: Path, folder: Path) -> None:
        self.home, self.folder, self.loads = Home(home), folder, 0
        (folder / "config").mkdir()
        (folder / "config.py").write_text((ROOT / "config.py").read_text())
        (folder / "config" / "gateways.yaml").symlink_to(ROOT / "config" / "gateways.yaml")
        settings_ = (ROOT / "config" / "warehouse.yaml").read_text()
        (folder / "config" / "warehouse.yaml").write_text(settings_.replace("enabled: true", "enabled: false"))
        for name, text in {
            "models/people.sql": PEOPLE,
            "models/countries.sql": COUNTRIES,
            "audits/a.sql": AUDITS,
        }.items():
            (folder / name).parent.mkdir(exist_ok=True)
            (folder / name).write_text(text)

    def read(self, query: str, *values: object, login: str = "postgres") -> list[tuple[Any, ...]]:
        with closing(connect(login, "warehouse")) as session, session.cursor() as cursor:
            session.autocommit = True
            cursor.execute(query, values or None)
            return cursor.fetchall() if cursor.description else []

    def fault(self, body: str = "RETURN TRUE;") -> None:
        """What the model marts.countries does when it is evaluated; `calls` counts, also what is rolled back."""
        self.read(
            "CREATE SCHEMA IF NOT EXISTS trial; GRANT USAGE ON SCHEMA trial TO sqlmesh_user;"
            " CREATE SEQUENCE IF NOT EXISTS trial.calls; GRANT USAGE ON SEQUENCE trial.calls TO sqlmesh_user;"
            " ALTER SEQUENCE trial.calls RESTART;"
            " CREATE OR REPLACE FUNCTION trial.fault() RETURNS BOOLEAN LANGUAGE plpgsql VOLATILE AS "
            f"$$ DECLARE call BIGINT := NEXTVAL('trial.calls'); BEGIN {body} RETURN TRUE; END $$;"
            " GRANT EXECUTE ON FUNCTION trial.fault() TO sqlmesh_user"
        )

    def calls(self) -> int:
        """How often the model was evaluated, since the fault was planted."""
        last, is_called = self.read("SELECT last_value, is_called FROM trial.calls")[0]
        return int(last) if is_called else 0

    def load(self, country: str = "DE", email: str = "ann@example.com", **age: str) -> None:
        """One customer more, as if a file had brought it."""
        self.loads += 1
        self.read(
            "INSERT INTO landing.customers (customer_id, email, full_name, country_code, updated_at, _batch_id, _loaded_at)"
            " VALUES (%s, %s, 'Ann Example', %s, NOW(), 0, CLOCK_TIMESTAMP() - %s::INTERVAL)",
            f"C{self.loads}", email, country, age.get("age", "0"),
        )  # fmt: skip

    def start(self, *args: str, **extra: str) -> subprocess.Popen[str]:
        """`python -m scripts ARGS` on this project, in another process."""
        program = (
            "import sys; from pathlib import Path; from scripts import pipeline\n"
            f"pipeline.ROOT = Path({str(self.folder)!r}); pipeline.FIRST_PAUSE = 0.1\n"
            "from scripts.__main__ import main; main()"
        )
        return subprocess.Popen(
            [sys.executable, "-c", program, *args], cwd=ROOT, env=self.home.environment(**extra), text=True,
            stdout=subprocess.PIPE, stderr=subprocess.PIPE,
        )  # fmt: skip

    def last_run(self) -> dict[str, Any]:
        """The newest row of ops.runs, with its models and its failed audits."""
        return dict(
            self.read(
                "SELECT TO_JSONB(runs) || JSONB_BUILD_OBJECT("
                " 'models', (SELECT JSONB_OBJECT_AGG(model_name, status) FROM ops.model_runs AS m WHERE m.run_id = runs.run_id),"
                " 'audits', (SELECT JSONB_OBJECT_AGG(audit_name, count) FROM ops.audit_results AS a WHERE a.run_id = runs.run_id))"
                " FROM ops.runs ORDER BY run_id DESC LIMIT 1"
            )[0][0]
        )


@pytest.fixture(scope="module")
def built(homes: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Trial]:
    made = Trial(homes / "operations", tmp_path_factory.mktemp("project"))
    patch = pytest.MonkeyPatch()
    patch.setenv("WAREHOUSE_HOME", str(made.home.path))
    patch.setattr(pipeline, "ROOT", made.folder)
    patch.setattr(pipeline, "FIRST_PAUSE", 0.01)
    forget_caches()
    pipeline.deployed.cache_clear()
    try:
        embedded.up()
        bootstrap.apply()
        export_environment()
        made.fault()
        pipeline.deploy()
        yield made
        pipeline.deployed().close()
    finally:
        pipeline.deployed.cache_clear()
        made.home.remove()
        patch.undo()
        forget_caches()


@pytest.fixture
def trial(built: Trial) -> Iterator[Trial]:
    """With something to do, and in order again afterwards."""
    built.load()
    yield built
    built.fault()
    built.read("UPDATE landing.customers SET country_code = 'DE', email = LOWER(email)")
    built.read("UPDATE ops.incidents SET closed_at = NOW() WHERE closed_at IS NULL")
    built.load()
    pipeline.run_missing()


def refused(work: Callable[[], None] = pipeline.run_missing) -> WarehouseError:
    with pytest.raises(WarehouseError) as caught:
        work()
    return caught.value


# ---- the flight recorder ----------------------------------------------------------------------------------------


def test_a_run_is_remembered(trial: Trial) -> None:
    pipeline.run_missing()
    run = trial.last_run()
    commit = subprocess.run(["git", "rev-parse", "HEAD"], cwd=ROOT, text=True, capture_output=True, check=True).stdout
    assert (run["kind"], run["environment"], run["status"], run["exit_code"]) == ("run", "prod", "done", 0)
    assert (run["git_commit"], run["pid"], run["error"]) == (commit.strip(), os.getpid(), None)
    assert run["versions"]["sqlmesh"] == "0.236.4" and run["versions"]["postgresql"].startswith("17")
    assert run["started_at"] <= run["heartbeat_at"] <= run["ended_at"]
    assert run["models"] == {"staging.people": "done", "marts.countries": "done"}
    assert run["audits"] == {"no_strangers": 0, "nobody_is_shouting": 0}
    rows, is_past, table = trial.read(
        "SELECT rows, interval_end <= recorded_at, TO_REGCLASS('analytics_staging.people__' || snapshot_version) IS NOT NULL"
        " FROM ops.model_runs WHERE model_name = 'staging.people' ORDER BY recorded_at DESC LIMIT 1"
    )[0]
    assert (rows, is_past, table) == (trial.loads, True, True)
    pipeline.run_missing()
    assert trial.last_run()["models"] is None and trial.last_run()["status"] == "done"


def test_what_failed_is_remembered_without_personal_data(trial: Trial) -> None:
    """In the database, in what a person reads, and in the logs: neither the address nor the name, nor what is made of them."""
    trial.load("XX", "Bob@Example.COM")
    error = refused()
    assert error.code == Exit.DATA_QUALITY
    assert [tuple(failure) for failure in error.failures] == [
        ("staging.people", "commerce", "did not pass no_strangers")
    ]
    run = trial.last_run()
    assert (run["status"], run["exit_code"], run["models"]) == ("failed", 30, {"staging.people": "failed"})
    query, first_rows = trial.read(
        "SELECT query, first_rows FROM ops.audit_results WHERE audit_name = 'no_strangers' AND count = 1"
    )[0]
    assert "country_code" in query
    blank = "(personal)"
    assert first_rows == [
        {
            "customer_id": f"C{trial.loads}",
            "email": blank,
            "full_name": blank,
            "country_code": "XX",
            "email_lower": blank,
        }
    ]
    assert trial.read(
        "SELECT count, is_blocking FROM ops.audit_results WHERE audit_name = 'nobody_is_shouting' AND count > 0"
    ) == [(1, False)]
    assert f"customer_id C{trial.loads}, email {blank}" in error.hint
    everything = str(error) + str(trial.read("SELECT r::TEXT, a::TEXT FROM ops.runs AS r, ops.audit_results AS a"))
    assert "bob" not in everything.lower() and "Ann" not in everything


def test_a_constraint_that_fails_quotes_no_row(trial: Trial) -> None:
    """PostgreSQL's details do: Failing row contains (C1, ann@example.com, ...)."""
    trial.fault("RAISE not_null_violation USING MESSAGE = 'a NULL', DETAIL = 'Failing row contains (ann@example.com)';")
    error = refused()
    assert (error.code, trial.last_run()["exit_code"]) == (Exit.BUG, 70)
    assert "a NULL (SQLSTATE 23502)" in error.what
    assert "example.com" not in str(error) + str(trial.last_run())


def test_plain_sqlmesh_is_remembered_too(trial: Trial) -> None:
    def sqlmesh(*args: str) -> int:
        program = [str(Path(sys.executable).with_name("sqlmesh")), *args]
        environment = trial.home.environment(PYTHONPATH=str(ROOT))
        return subprocess.run(program, cwd=trial.folder, env=environment, capture_output=True, check=False).returncode

    assert sqlmesh("plan", "dev_me", "--auto-apply", "--no-prompts", "--include-unmodified") == 0
    run = trial.last_run()
    assert (run["kind"], run["environment"], run["status"]) == ("plan", "dev_me", "done")
    trial.fault("RAISE 'planted';")
    assert sqlmesh("run", "prod", "--ignore-cron") == 1
    run = trial.last_run()
    assert (run["kind"], run["status"], run["exit_code"]) == ("run", "failed", 1)
    assert "marts.countries: planted (SQLSTATE P0001)" in run["error"]
    assert run["models"] == {"staging.people": "done", "marts.countries": "failed"}


def test_a_killed_run_is_found_by_the_next_and_two_at_once_are_refused(trial: Trial) -> None:
    """kill -9 in the middle of a model; while it lived it was no crash, and a second refresh was told who runs."""
    trial.fault("PERFORM PG_SLEEP(60);")
    killed = trial.start("refresh")
    deadline = time.monotonic() + 60
    while not trial.calls():
        assert killed.poll() is None, killed.communicate()
        assert time.monotonic() < deadline
        time.sleep(0.05)
    second = trial.start("refresh", "--quiet")
    out, err = second.communicate(timeout=60)
    assert (second.returncode, out) == (Exit.LOCKED, "")
    assert "another sqlmesh plan or run is at work: pid " in err and "user sqlmesh_user" in err
    alive = trial.read("SELECT run_id, status FROM ops.runs WHERE pid = %s", killed.pid)
    assert alive[0][1] == "running"
    time.sleep(1.2)  # what it has done is written every second
    os.kill(killed.pid, signal.SIGKILL)
    killed.communicate()
    trial.read(
        "SELECT PG_TERMINATE_BACKEND(pid) FROM pg_stat_activity WHERE query LIKE '%trial.fault()%' AND pid <> PG_BACKEND_PID()"
    )
    trial.fault()
    pipeline.run_missing()
    status, is_dated, models = trial.read(
        "SELECT status, ended_at = heartbeat_at, (SELECT STRING_AGG(model_name, ',') FROM ops.model_runs AS m WHERE m.run_id = r.run_id)"
        " FROM ops.runs AS r WHERE run_id = %s", alive[0][0],
    )[0]  # fmt: skip
    assert (status, is_dated, models) == ("crashed", True, "staging.people")
    assert trial.last_run()["status"] == "done"
    assert trial.read("SELECT SUM(people) FROM marts.countries") == [(trial.loads,)]


BROKEN = {
    "no tables": ("ALTER TABLE ops.runs RENAME TO hidden", "ALTER TABLE ops.hidden RENAME TO runs"),
    "no right": (
        "REVOKE INSERT ON ops.model_runs FROM sqlmesh_user",
        "GRANT INSERT ON ops.model_runs TO sqlmesh_user",
    ),
}


@pytest.mark.parametrize("case", BROKEN)
def test_a_recorder_that_is_broken_fails_no_run(
    trial: Trial, case: str, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(recorder, "_writer", None)
    breaks, mends = BROKEN[case]
    trial.read(breaks)
    try:
        pipeline.refresh()
    finally:
        trial.read(mends)
    assert trial.read("SELECT SUM(people) FROM marts.countries") == [(trial.loads,)]
    assert capsys.readouterr().err.count("not recorded in schema ops") == 1


def test_a_recorder_that_hangs_delays_no_run(
    trial: Trial, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(recorder, "_writer", None)
    monkeypatch.setattr(recorder, "PATIENCE_SECONDS", 1)
    with closing(connect("postgres", "warehouse")) as other, other.cursor() as cursor:
        cursor.execute("LOCK TABLE ops.runs IN ACCESS EXCLUSIVE MODE")
        began = time.monotonic()
        pipeline.run_missing()
        assert time.monotonic() - began < 5
    assert trial.read("SELECT SUM(people) FROM marts.countries") == [(trial.loads,)]
    assert capsys.readouterr().err.count("not recorded in schema ops") == 1


def test_a_connection_of_the_recorder_that_is_cut_loses_nothing(
    trial: Trial, capsys: pytest.CaptureFixture[str]
) -> None:
    trial.fault("PERFORM PG_SLEEP(1.5);")
    cut = threading.Timer(
        1,
        lambda: trial.read(
            "SELECT PG_TERMINATE_BACKEND(pid) FROM pg_stat_activity WHERE application_name = 'recorder'"
        ),
    )
    cut.start()
    pipeline.run_missing()
    cut.join()
    run = trial.last_run()
    assert (run["status"], run["models"]) == ("done", {"staging.people": "done", "marts.countries": "done"})
    assert "not recorded" not in capsys.readouterr().err


# ---- exit codes and retries -------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("state", "code", "attempts"),
    [
        ("08006", Exit.TRANSIENT, 3), ("40001", Exit.TRANSIENT, 3), ("40P01", Exit.TRANSIENT, 3),
        ("55P03", Exit.TRANSIENT, 3), ("57P01", Exit.TRANSIENT, 3), ("57P03", Exit.TRANSIENT, 3),
        ("53300", Exit.TRANSIENT, 3), ("53100", Exit.TRANSIENT, 1), ("57014", Exit.TRANSIENT, 1),
        ("42P01", Exit.MISMATCH, 1), ("42501", Exit.MISMATCH, 1), ("22012", Exit.BUG, 1), ("P0001", Exit.BUG, 1),
    ],
)  # fmt: skip
def test_each_fault_of_the_database_has_its_code(
    trial: Trial, capsys: pytest.CaptureFixture[str], state: str, code: Exit, attempts: int
) -> None:
    trial.fault(f"RAISE SQLSTATE '{state}' USING MESSAGE = 'planted';")
    error = refused()
    assert (error.code, trial.calls()) == (code, attempts)
    assert f"planted (SQLSTATE {state})" in error.what and "\n" not in error.what
    assert capsys.readouterr().err.count("trying again in") == attempts - 1
    assert trial.last_run()["exit_code"] == code


@pytest.mark.parametrize("body", ["RAISE SQLSTATE '40001';", "PERFORM PG_TERMINATE_BACKEND(PG_BACKEND_PID());"])
def test_what_passes_is_done_in_the_end(trial: Trial, capsys: pytest.CaptureFixture[str], body: str) -> None:
    trial.fault(f"IF call < 3 THEN {body} END IF;")
    pipeline.run_missing()
    assert trial.calls() == 3
    assert "trying again in 0 s (3 of 3)" in capsys.readouterr().err
    assert trial.last_run()["status"] == "done"
    assert trial.read("SELECT SUM(people) FROM marts.countries") == [(trial.loads,)]


def test_a_state_that_lost_its_table_is_told(trial: Trial) -> None:
    table = trial.read(
        "SELECT 'analytics_staging.' || relname FROM pg_class WHERE relname LIKE 'people\\_\\_%' AND relkind = 'r'"
    )[0][0]
    trial.read(f"ALTER TABLE {table} RENAME TO gone")
    try:
        error = refused()
    finally:
        trial.read(f"ALTER TABLE analytics_staging.gone RENAME TO {table.split('.')[1]}")
    assert (error.code, error.what) == (Exit.MISMATCH, f"state and warehouse disagree: there is no table {table}")


def unfinalize(trial: Trial) -> None:
    with closing(connect("sqlmesh_state_user")) as state, state.cursor() as cursor:
        cursor.execute("UPDATE sqlmesh._environments SET finalized_ts = NULL WHERE name = 'prod'")
        state.commit()
    pipeline.deployed.cache_clear()


def test_a_deployment_that_died_is_finished_by_the_next_refresh(
    trial: Trial, capsys: pytest.CaptureFixture[str]
) -> None:
    unfinalize(trial)
    with closing(connect("sqlmesh_user", application_name="a deployment")) as other, other.cursor() as cursor:
        cursor.execute("SELECT ops.acquire_run_lock(CLOCK_TIMESTAMP())")
        error = refused(pipeline.refresh)
        assert error.code == Exit.LOCKED and "a deployment is at work: pid" in error.what
    model = trial.folder / "models" / "countries.sql"
    model.write_text(COUNTRIES.replace("AS people", "AS people, 7 AS seven"))
    try:
        unfinalize(trial)
        error = refused(pipeline.refresh)
        assert error.code == Exit.MISMATCH and "not that of the deployment which did not finish" in error.what
    finally:
        model.write_text(COUNTRIES)
    unfinalize(trial)
    pipeline.refresh()
    assert "a deployment of prod did not finish" in capsys.readouterr().out
    assert trial.read("SELECT SUM(people) FROM marts.countries") == [(trial.loads,)]
    pipeline.refresh()
    assert "did not finish" not in capsys.readouterr().out


# ---- the scheduled job ------------------------------------------------------------------------------------------


def test_days_of_outage_are_made_up_for_in_one_run(
    trial: Trial, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    for day in ("2026-03-02", "2026-03-03", "2026-03-04"):
        (tmp_path / day).mkdir()
        (tmp_path / day / "products.csv").write_text(f"product_id,updated_at\nP{day},2026-03-02T00:00:00Z\n")
    trial.read("UPDATE ops.runs SET started_at = started_at - INTERVAL '3 days 2 hours'")
    trial.fault()
    pipeline.refresh(tmp_path)
    assert "the last run was 3 day(s), 2 hour(s) ago: doing all that is missing since" in capsys.readouterr().out
    assert trial.calls() == 1
    names = trial.read("SELECT batch_name FROM landing.batches WHERE drop_folder = %s ORDER BY batch_id", str(tmp_path))
    assert [name for (name,) in names] == ["2026-03-02", "2026-03-03", "2026-03-04"]
    assert trial.read("SELECT kind, status FROM ops.runs ORDER BY run_id DESC LIMIT 2") == [
        ("run", "done"),
        ("load", "done"),
    ]
    pipeline.refresh(tmp_path)
    assert "the last run was" not in capsys.readouterr().out


def test_quiet_is_silent_on_success_and_says_all_of_a_failure(trial: Trial, tmp_path: Path) -> None:
    (tmp_path / "b").mkdir()
    (tmp_path / "b" / "products.csv").write_text("product_id,updated_at\nQ1,2026-03-02T00:00:00Z\n")
    (tmp_path / "b" / "README").touch()
    good = trial.start("refresh", "--quiet", str(tmp_path))
    assert (good.communicate(timeout=60), good.returncode) == (("", ""), 0)
    (tmp_path / "b" / "orders.csv").write_text("no,such,header\n1,2,3\n")
    bad = trial.start("refresh", "--quiet", str(tmp_path))
    out, err = bad.communicate(timeout=60)
    assert (out, bad.returncode) == ("", Exit.INPUT_REFUSED)
    assert "products" in err and "already loaded" in err and "refused: b/orders.csv" in err and "Traceback" not in err


def test_before_anything_is_begun_the_server_is_looked_at(trial: Trial, monkeypatch: pytest.MonkeyPatch) -> None:
    runs = trial.read("SELECT COUNT(*) FROM ops.runs")
    monkeypatch.setattr(pipeline, "FREE_BYTES", 1 << 60)
    assert "MB left" in refused(pipeline.refresh).what
    monkeypatch.setattr(pipeline, "CLOCK_SECONDS", -1)
    error = refused(pipeline.refresh)
    assert (error.code, "this machine's clock is" in error.what) == (Exit.SERVICE_DOWN, True)
    assert trial.read("SELECT COUNT(*) FROM ops.runs") == runs


# ---- alerts -----------------------------------------------------------------------------------------------------


@pytest.fixture
def sent(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """What is delivered; the delivery itself is tried in test_alerts.py."""
    subjects: list[str] = []

    def send(messages: list[alerts.Message]) -> bool:
        subjects.extend(message.subject.split(": ", 1)[1] for message in messages)
        return True

    monkeypatch.setattr(alerts, "send", send)
    return subjects


def test_one_alert_and_one_recovery_by_owner(trial: Trial, sent: list[str]) -> None:
    trial.load("XX")
    for _ in range(3):
        refused(pipeline.refresh)
    assert sent == ["run failed, for commerce"]
    trial.read("UPDATE landing.customers SET country_code = 'DE'")
    trial.fault("RAISE 'planted';")
    trial.load()
    refused(pipeline.refresh)
    assert sent[1:] == ["run failed, for sales", "run is well again, for commerce"]
    trial.fault()
    trial.load()
    for _ in range(2):
        pipeline.refresh()
    assert sent[3:] == ["run is well again, for sales"]
    assert trial.read("SELECT COUNT(*) FROM ops.incidents WHERE closed_at IS NULL") == [(0,)]


def test_an_alert_that_was_not_delivered_is_sent_again(trial: Trial, monkeypatch: pytest.MonkeyPatch) -> None:
    delivered: list[str] = []
    monkeypatch.setattr(alerts, "send", lambda messages: not messages and False)
    trial.fault("RAISE 'planted';")
    refused(pipeline.refresh)
    monkeypatch.setattr(alerts, "send", lambda messages: not delivered.extend(m.text for m in messages))  # type: ignore[func-returns-value]
    trial.load()
    refused(pipeline.refresh)
    refused(pipeline.refresh)
    assert delivered == ["marts.countries: planted (SQLSTATE P0001)"]


def test_a_server_that_is_away_is_one_incident_too(trial: Trial, sent: list[str]) -> None:
    embedded.down()
    try:
        for _ in range(2):
            assert refused(pipeline.refresh).code == Exit.SERVICE_DOWN
        assert sent == ["server failed, for operator"]
    finally:
        embedded.up()
        pipeline.deployed.cache_clear()
    for _ in range(2):
        pipeline.refresh()
    assert sent == ["server failed, for operator", "server is well again, for operator"]
    assert not (trial.home.path / "incidents.json").exists()
    assert trial.read("SELECT kind, closed_at IS NOT NULL FROM ops.incidents ORDER BY incident_id DESC LIMIT 1") == [
        ("server", True)
    ]


# ---- freshness --------------------------------------------------------------------------------------------------


def limits(landing: dict[str, Any], marts: dict[str, Any]) -> Callable[[], freshness.Thresholds]:
    return lambda: freshness.Thresholds.model_validate({"landing": landing, "marts": marts})


def test_what_is_too_old_is_told_alerted_and_well_again(
    trial: Trial, sent: list[str], capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    trial.read("UPDATE landing.customers SET _loaded_at = NOW() - INTERVAL '30 hours'")
    pipeline.refresh()
    assert freshness.check() == []  # the defaults: nothing must come, and the marts have what came
    monkeypatch.setattr(
        freshness, "thresholds", limits({"customers": {"warn": "26h", "error": "3d"}, "orders": {"error": "1h"}}, {})
    )
    assert [(finding.subject, finding.level) for finding in freshness.check()] == [
        ("landing.orders", "error"),
        ("landing.customers", "warn"),
    ]
    error = refused(pipeline.refresh)
    assert (error.code, error.what) == (Exit.DATA_QUALITY, "landing.orders no row was loaded for more than 1 h")
    assert "warning: landing.customers no row was loaded for more than 26 h" in capsys.readouterr().out
    assert sent == ["freshness failed, for operator"]
    monkeypatch.setattr(freshness, "thresholds", limits({"customers": {"warn": "2d", "error": "3d"}}, {}))
    pipeline.refresh()
    assert sent[1:] == ["freshness is well again, for operator"]


def test_a_mart_is_stale_when_it_lacks_what_was_loaded(trial: Trial, monkeypatch: pytest.MonkeyPatch) -> None:
    """However old its rows: only what was loaded and is not in it counts."""
    pipeline.run_missing()
    monkeypatch.setattr(freshness, "thresholds", limits({}, {"default": {"warn": "1h", "error": "2h"}}))
    assert freshness.check() == []
    [(model, owner, done_to)] = freshness._models()
    assert (model, owner) == ("marts.countries", "sales") and datetime.now(UTC) - done_to < timedelta(minutes=1)
    trial.read("UPDATE landing.customers SET _loaded_at = NOW() - INTERVAL '6 hours'")
    monkeypatch.setattr(freshness, "_models", lambda: [(model, owner, done_to - timedelta(hours=5))])
    trial.load()
    assert freshness.check() == []  # five hours without a run, in which nothing came but what is seconds old
    trial.load(age="3 hours")
    [finding] = freshness.check()
    assert (finding.subject, finding.level, finding.owner) == ("marts.countries", "error", "sales")
    assert finding.what == "lacks what was loaded 3 h ago"


def test_json_lines_tell_each_run_and_rotate(trial: Trial, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from scripts import log

    monkeypatch.setattr(log, "LOGS", tmp_path / "logs")
    monkeypatch.setattr(log, "BYTES", 2000)
    log._events.cache_clear()
    try:
        pipeline.run_missing()
        for _ in range(40):
            log.event("filler", text="x" * 50)
    finally:
        monkeypatch.undo()
        log._events.cache_clear()
    files = sorted((tmp_path / "logs").iterdir())
    assert 2 < len(files) <= 1 + log.KEPT and all(file.stat().st_size <= 2000 for file in files)
    events = [json.loads(line) for file in files for line in file.read_text().splitlines()]
    done = next(event for event in events if event["event"] == "run done")
    assert done["exit_code"] == 0 and done["run_id"] == trial.last_run()["run_id"] and shlex.quote(done["timestamp"])
