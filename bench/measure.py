"""What a piece of work costs: seconds on the clock, CPU of client and server, buffers, write-ahead log."""

import os
import resource
import statistics
import time
from collections.abc import Callable, Iterable
from contextlib import suppress
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any

from psycopg2.extensions import connection

from scripts import server

TICKS = os.sysconf("SC_CLK_TCK")
SETTLE_SECONDS = 10


@dataclass(frozen=True)
class Usage:
    """Seconds (`wall`, `client` and `server` CPU), buffers of 8 kB found or read, bytes of write-ahead log."""

    wall: float
    client: float
    server: float
    buffers: int
    wal: int

    @property
    def cpu(self) -> float:
        """Seconds of CPU, client and server together."""
        return self.client + self.server

    def as_json(self) -> dict[str, float]:
        return {name: round(value, 3) for name, value in asdict(self).items()}


def median(usages: Iterable[Usage]) -> Usage:
    """Each figure's own median."""
    rounds = list(usages)
    wall, client, cpu, buffers, wal = (
        statistics.median(getattr(usage, field.name) for usage in rounds) for field in fields(Usage)
    )
    return Usage(wall, client, cpu, round(buffers), round(wal))


def measured(admin: connection, work: Callable[[], object]) -> Usage:
    """Do the work after a checkpoint. The figures hold everything this process, its children and the server do."""
    _ask(admin, "CHECKPOINT")
    sessions = _sessions(admin)
    before, started = _counters(admin), time.perf_counter()
    work()
    wall = time.perf_counter() - started
    deadline = time.monotonic() + SETTLE_SECONDS
    while _sessions(admin) > sessions and time.monotonic() < deadline:  # counters are handed in when a session ends
        time.sleep(0.02)
    client, cpu, buffers, wal = _counters(admin)
    return Usage(wall, client - before[0], cpu - before[1], buffers - before[2], wal - before[3])


def _counters(admin: connection) -> tuple[float, float, int, int]:
    own, children = resource.getrusage(resource.RUSAGE_SELF), resource.getrusage(resource.RUSAGE_CHILDREN)
    client = own.ru_utime + own.ru_stime + children.ru_utime + children.ru_stime
    buffers, wal = _ask(
        admin,
        "SELECT SUM(blks_hit + blks_read)::BIGINT, pg_wal_lsn_diff(pg_current_wal_insert_lsn(), '0/0')::BIGINT"
        " FROM pg_stat_database",
    )
    return client, _server_cpu(), buffers, wal


def _server_cpu() -> float:
    """CPU seconds of the postmaster and its children, living and gone. A child that has just ended counts, too."""
    postmaster = server._postmaster()
    assert postmaster
    while True:
        own, gone = _times(postmaster)
        living = sum(_times(pid)[0] for pid in _children(postmaster))
        if _times(postmaster)[1] == gone:  # else a child went over from the one sum into the other meanwhile
            return (own + gone + living) / TICKS


def _stat(pid: int) -> list[str]:
    """The fields of /proc/<pid>/stat from the state on; empty for a process that is gone."""
    with suppress(OSError):
        return Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()
    return []


def _times(pid: int) -> tuple[int, int]:
    """Ticks that a process has used, and those of its children that have ended."""
    user, system, children_user, children_system = (int(text) for text in _stat(pid)[11:15] or "0000")
    return user + system, children_user + children_system


def _children(parent: int) -> list[int]:
    pids = [int(path.name) for path in Path("/proc").glob("[0-9]*")]
    return [pid for pid in pids if _stat(pid)[1:2] == [str(parent)]]


def _sessions(admin: connection) -> int:
    count: int = _ask(admin, "SELECT COUNT(*) FROM pg_stat_activity WHERE backend_type = 'client backend'")[0]
    return count


def _ask(admin: connection, query: str) -> tuple[Any, ...]:
    with admin.cursor() as cursor:
        cursor.execute(query)
        return (cursor.fetchone() or ()) if cursor.description else ()
