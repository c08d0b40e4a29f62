"""How commands end: exit codes, messages without traces, and the crontab line."""

import fcntl
import os
import subprocess
import sys
from pathlib import Path

import psycopg2
import pytest

from scripts import __main__ as commands
from scripts import errors, log, pipeline, schedule
from scripts.errors import Exit, PassingFault, WarehouseError
from scripts.settings import ROOT
from tests.python.conftest import forget_caches


@pytest.fixture
def logs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setattr(log, "LOGS", tmp_path / "logs")
    log._events.cache_clear()
    return tmp_path / "logs"


def end(monkeypatch: pytest.MonkeyPatch, error: Exception | None) -> int:
    """Exit code of `python -m scripts audit` when it fails so."""

    def work() -> None:
        print("on the way")
        if error:
            raise error

    monkeypatch.setattr(pipeline, "audit", work)
    monkeypatch.setattr("sys.argv", ["scripts", "audit"])
    with pytest.raises(SystemExit) as ended:
        commands.main()
    return ended.value.code or 0  # type: ignore[return-value]


def test_every_exit_code(logs: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    assert end(monkeypatch, None) == 0
    assert [int(code) for code in Exit] == [20, 30, 40, 50, 60, 70, 75]
    for code in Exit:
        capsys.readouterr()
        assert end(monkeypatch, WarehouseError("what happened", "what to do", code)) == code
        assert capsys.readouterr().err == "error: what happened\n  what to do\n"


def test_a_bug_leaves_its_trace_in_the_logs(
    logs: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    assert end(monkeypatch, KeyError("nobody thought of it")) == Exit.BUG
    told = capsys.readouterr().err
    assert told == (
        "error: a bug: KeyError: 'nobody thought of it'\n"
        f"  report it with its trace, at the end of {logs / 'traces.log'}\n"
    )
    trace = (logs / "traces.log").read_text()
    assert trace.startswith("Traceback") and "in work\n" in trace
    assert '"event": "bug"' in (logs / "warehouse.jsonl").read_text()


def test_a_database_that_fails_is_no_bug_and_a_wrong_query_is(
    logs: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    assert end(monkeypatch, psycopg2.OperationalError("server closed the connection")) == Exit.TRANSIENT
    assert capsys.readouterr().err.startswith("error: the database failed: server closed the connection")
    assert end(monkeypatch, psycopg2.ProgrammingError("no results to fetch")) == Exit.BUG
    assert "error: a bug: ProgrammingError" in capsys.readouterr().err


def test_logs_that_cannot_be_written_fail_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "logs").write_text("a file where the folder should be")
    monkeypatch.setattr(log, "LOGS", tmp_path / "logs")
    log._events.cache_clear()
    for _ in range(3):
        log.event("something")
    assert capsys.readouterr().err.count("cannot be written") == 1
    log._events.cache_clear()


def test_a_cause_is_found_however_deep() -> None:
    deep = psycopg2.errors.DeadlockDetected("deadlock")
    try:
        try:
            raise deep
        except psycopg2.Error as inner:
            raise ValueError("wrapped") from inner
    except ValueError as middle:
        outer = RuntimeError("node failed")
        outer.__cause__ = middle
    assert errors.sqlstate(ValueError("no database")) is None
    assert errors.sqlstate(psycopg2.InterfaceError("connection already closed")) == "08006"
    assert errors.sqlstate(RuntimeError()) is None
    assert deep in list(errors.chain(outer))
    loop = ValueError("a")
    loop.__cause__ = loop
    assert list(errors.chain(loop)) == [loop]
    refused = RuntimeError("sqlmesh's")
    refused.__cause__ = WarehouseError("no server answers", "run `make up`")
    fault = errors.of_database(refused, "the run did not finish", "again")
    assert isinstance(fault, PassingFault) and fault.what == "the run did not finish: no server answers"


# ---- the crontab line -------------------------------------------------------------------------------------------


@pytest.fixture
def crontab(tmp_path: Path, environment: pytest.MonkeyPatch) -> Path:
    """A crontab program that keeps its table in a file; and a warehouse whose name asks for quotes."""
    (tmp_path / "bin").mkdir()
    program = tmp_path / "bin" / "crontab"
    table = tmp_path / "table"
    program.write_text(
        f"#!/bin/sh\nif [ \"$1\" = -l ]; then cat '{table}' 2>/dev/null || {{ echo no crontab for me >&2; exit 1; }}\n"
        f"else cat > '{table}'; fi\n"
    )
    program.chmod(0o755)
    environment.setenv("PATH", f"{tmp_path / 'bin'}:{os.environ['PATH']}")
    environment.setenv("WAREHOUSE_HOME", str(tmp_path / "my home"))
    forget_caches()
    return table


def test_the_line_does_what_it_says(crontab: Path, tmp_path: Path) -> None:
    """Run as cron would: sh, no environment, and % means the end of a line unless escaped."""
    drop = tmp_path / "what's 100% new"
    drop.mkdir()
    line = schedule.line(drop)
    assert line.startswith("7 * * * * ") and "TZ=UTC" in line
    command = line.removeprefix("7 * * * * ").replace("\\%", "%")
    assert line.count("%") == line.count("\\%")
    (tmp_path / "my home").mkdir()
    spy = tmp_path / "spy"
    spy.write_text('#!/bin/sh\nprintf "%s|" "$PWD" "$TZ" "$WAREHOUSE_HOME" "$@"\n')
    spy.chmod(0o755)
    python = str(Path(sys.prefix) / "bin" / "python")
    command = command.replace(python, str(spy))
    environment = {"PATH": "/usr/bin:/bin"}
    said = subprocess.run(["sh", "-c", command], env=environment, capture_output=True, text=True, check=True).stdout
    assert said.split("|")[:-1] == [
        str(ROOT), "UTC", str(tmp_path / "my home"), "-m", "scripts", "refresh", "--quiet", str(drop)
    ]  # fmt: skip
    with open(tmp_path / "my home" / "refresh.lock") as held:
        fcntl.flock(held, fcntl.LOCK_EX)
        busy = subprocess.run(["sh", "-c", command], env=environment, capture_output=True, text=True, check=False)
        assert (busy.stdout, busy.stderr) == ("", "") and busy.returncode == 1


def test_it_is_installed_once_beside_other_lines(crontab: Path, tmp_path: Path) -> None:
    assert schedule.install().startswith("installed: 7 * * * *")
    assert crontab.read_text() == f"{schedule.line()}\n"
    others = "# mine\n0 3 * * * backup # warehouse in /elsewhere\n\nMAILTO=me\n"
    crontab.write_text(others)
    schedule.install()
    before = crontab.read_text()
    assert before == f"{others}{schedule.line()}\n"
    assert schedule.install().startswith("installed already")
    assert crontab.read_text() == before
    schedule.install(tmp_path)
    assert crontab.read_text() == f"{others}{schedule.line(tmp_path)}\n"


def test_a_crontab_that_refuses_is_told(crontab: Path, environment: pytest.MonkeyPatch) -> None:
    program = crontab.parent / "bin" / "crontab"
    program.write_text("#!/bin/sh\necho 'you may not' >&2; exit 1\n")
    with pytest.raises(WarehouseError, match="crontab refused: you may not"):
        schedule.install()
    environment.setenv("PATH", str(crontab.parent))
    with pytest.raises(WarehouseError, match="there is no crontab program here"):
        schedule.install()
