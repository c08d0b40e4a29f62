"""Fixtures shared by all Python tests: servers of their own, never the one in the user's `.warehouse`."""

import gc
import os
import pwd
import shutil
import signal
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

import psycopg2
import pytest
from psycopg2.extensions import connection

from scripts import bootstrap, recorder
from scripts import server as embedded
from scripts.settings import LOGINS, ROOT, export_environment, settings

gc.set_threshold(100_000, 50)  # SQLMesh's syntax trees are many and live long

OURS = ("WAREHOUSE_", "REPORTING_", "MAX_REJECT_SHARE", "PII_", "PG", "SQLMESH_")


def forget_caches() -> None:
    """Let settings be read anew after a change of the environment, and runs be recorded on the server they name."""
    settings.cache_clear()
    embedded._programs.cache_clear()
    if recorder._writer and recorder._writer.session:
        recorder._writer.session.close()  # it makes itself another


def server_account() -> str | None:
    """The account that an embedded server of this process runs as; None: its own."""
    return embedded._account().pw_name if os.geteuid() == 0 else None  # type: ignore[union-attr]


@dataclass(frozen=True)
class Home:
    """A WAREHOUSE_HOME, and commands run in it as a person would: in another process, in a clean environment."""

    path: Path

    @property
    def data(self) -> Path:
        return self.path / "data"

    @property
    def port(self) -> int:
        return int((self.path / "port").read_text())

    def environment(self, **extra: str) -> dict[str, str]:
        clean = {name: value for name, value in os.environ.items() if not name.startswith(OURS)}
        dotenv = self.path.parent / "no.env"  # an empty file, so that the user's own .env is not read
        return clean | {"WAREHOUSE_HOME": str(self.path), "SQLMESH_DOTENV_PATH": str(dotenv)} | extra

    def start(self, *args: str, **extra: str) -> subprocess.Popen[str]:
        """Begin `python -m scripts ARGS`, with `extra` in its environment."""
        command = [sys.executable, "-m", "scripts", *args]
        pipe = subprocess.PIPE
        return subprocess.Popen(
            command, cwd=ROOT, env=self.environment(**extra), text=True, stdout=pipe, stderr=subprocess.STDOUT
        )

    def run(self, *args: str, code: int = 0, **extra: str) -> str:
        """Run `python -m scripts ARGS` to its end; it must end with `code` and without a stack trace."""
        process = self.start(*args, **extra)
        output, _ = process.communicate(timeout=600)
        assert process.returncode == code, output
        assert "Traceback" not in output
        return output

    def bootstrap(self, code: int = 0, **extra: str) -> str:
        """Run `bootstrap.apply()` to its end; it must end with `code` and without a stack trace."""
        program = (
            "import sys\nfrom scripts import bootstrap\nfrom scripts.errors import WarehouseError\n"
            "try: print(bootstrap.apply())\n"
            "except WarehouseError as error: print(error); sys.exit(error.code)"
        )
        command = [sys.executable, "-c", program]
        done = subprocess.run(
            command, cwd=ROOT, env=self.environment(**extra), text=True, capture_output=True, check=False
        )
        assert done.returncode == code, done.stdout + done.stderr
        return done.stdout + done.stderr

    def passwords(self) -> dict[str, str]:
        lines = (self.path / "pgpass").read_text().splitlines()
        return {line.split(":")[3]: line.split(":")[4] for line in lines}

    def connect(self, login: str = "postgres", database: str | None = None) -> connection:
        """A connection past the code under test."""
        session: connection = psycopg2.connect(
            host="127.0.0.1",
            port=self.port,
            user=login,
            password=self.passwords()[login],
            dbname=database or LOGINS.get(login, "postgres"),
            sslmode="require",
            sslrootcert=str(self.path / "server.crt"),
        )
        session.autocommit = True
        return session

    def processes(self) -> list[int]:
        """The PostgreSQL processes at work in this home."""
        found = []
        for process in Path("/proc").glob("[0-9]*"):
            with suppress(OSError):
                if os.readlink(process / "cwd") == str(self.data):
                    found.append(int(process.name))
        return sorted(found)

    def postmaster(self) -> int:
        return int((self.data / "postmaster.pid").read_text().split()[0])

    def remove(self) -> None:
        """Stop what runs here, kindly or not, and delete it."""
        with suppress(Exception):
            self.run("down")
        for pid in self.processes():
            with suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        shutil.rmtree(self.path, ignore_errors=True)


@pytest.fixture(scope="session")
def homes() -> Iterator[Path]:
    """A directory for homes that the server's account can enter, when root runs the tests."""
    directory = Path(tempfile.mkdtemp(prefix="warehouse-test-", dir="/var/tmp")).resolve()
    directory.chmod(0o711)
    (directory / "no.env").touch(mode=0o644)
    yield directory
    for home in directory.iterdir():
        if home.is_dir():
            Home(home).remove()
    shutil.rmtree(directory, ignore_errors=True)


@pytest.fixture(scope="session", autouse=True)
def _away_from_the_user(homes: Path) -> Iterator[None]:
    """No test sees the user's server, settings or `.env`, whatever it forgets."""
    with pytest.MonkeyPatch.context() as patch:
        for name in [name for name in os.environ if name.startswith(OURS)]:
            patch.delenv(name)
        patch.setenv("WAREHOUSE_HOME", str(homes / "session"))
        patch.setenv("SQLMESH_DOTENV_PATH", str(homes / "no.env"))
        before = dict(os.environ)
        forget_caches()
        yield
        os.environ.clear()
        os.environ.update(before)
        forget_caches()


@pytest.fixture(scope="session")
def server(homes: Path, _away_from_the_user: None) -> Iterator[Home]:
    """A running server with roles, databases and landing tables; this process's settings point at it."""
    home = Home(homes / "session")
    try:
        embedded.up()
        bootstrap.apply()
        export_environment()
        yield home
    finally:
        home.remove()


@pytest.fixture
def new_home(homes: Path) -> Iterator[Callable[[str], Home]]:
    """Makes further homes, by name, independent of `server` and not started; removed after the test."""
    made: list[Home] = []

    def make(name: str) -> Home:
        made.append(Home(homes / name))
        return made[-1]

    yield make
    for home in made:
        home.remove()


@pytest.fixture
def environment(monkeypatch: pytest.MonkeyPatch) -> Iterator[pytest.MonkeyPatch]:
    """The environment of this process, without any of our variables, to be set as a test likes."""
    home, dotenv = os.environ["WAREHOUSE_HOME"], os.environ["SQLMESH_DOTENV_PATH"]
    before = dict(os.environ)
    for name in [name for name in os.environ if name.startswith(OURS)]:
        del os.environ[name]
    os.environ |= {"WAREHOUSE_HOME": home, "SQLMESH_DOTENV_PATH": dotenv}
    forget_caches()
    yield monkeypatch
    monkeypatch.undo()
    os.environ.clear()
    os.environ.update(before)
    forget_caches()


@pytest.fixture
def as_server_account() -> dict[str, object]:
    """Options of subprocess.Popen that start a process as the account the server runs as."""
    name = server_account()
    if not name:
        return {}
    account = pwd.getpwnam(name)
    return {"user": account.pw_uid, "group": account.pw_gid, "extra_groups": []}
