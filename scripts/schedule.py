"""The crontab line of the scheduled job."""

import os
import shlex
import subprocess
import sys
from pathlib import Path

from scripts.errors import Exit, WarehouseError
from scripts.settings import ROOT, settings

EVERY = "7 * * * *"
"""Each hour, off the full one: no change of the clocks skips or doubles it, whatever zone cron lives in."""

CARRIED = ("WAREHOUSE_HOST", "WAREHOUSE_PORT", "WAREHOUSE_SSLMODE", "PGPASSFILE")
"""What a shell may hold to name another server, which cron does not have. Secrets stay in .env."""


def line(drop: Path | None = None) -> str:
    """The line that calls `make refresh`'s command each hour, in UTC, never twice at once, quiet when all is well."""
    home = settings().warehouse_home
    values = {"TZ": "UTC", "WAREHOUSE_HOME": str(home)}
    if not settings().embedded:
        values |= {name: os.environ[name] for name in CARRIED if os.environ.get(name)}
    python = str(Path(sys.prefix) / "bin" / "python")
    command = ["env", *(f"{name}={value}" for name, value in values.items())]
    command += ["flock", "-n", str(home / "refresh.lock"), python, "-m", "scripts", "refresh", "--quiet"]
    command += [str(drop.resolve())] if drop else []
    text = f"cd {shlex.quote(str(ROOT))} && {shlex.join(command)}"
    if "\n" in text:
        raise WarehouseError(
            "a path has a line break in its name", "cron cannot hold it: rename it", Exit.INPUT_REFUSED
        )
    return f"{EVERY} {text.replace('%', chr(92) + '%')} {_mark()}"


def install(drop: Path | None = None) -> str:
    """Put the line into this account's crontab, in the place of an older one; other lines stay as they are."""
    new = line(drop)
    before = _crontab("-l").splitlines()
    kept = [other for other in before if not other.endswith(_mark())]
    after = [*kept, new]
    if sorted(before) == sorted(after):
        return f"installed already: {new}"
    _crontab("-", "".join(f"{text}\n" for text in after))
    return f"installed: {new}\n`crontab -e` changes or removes it"


def _mark() -> str:
    """How the line of this warehouse ends."""
    return f"# warehouse in {str(settings().warehouse_home).replace('%', '_')}"


def _crontab(argument: str, text: str | None = None) -> str:
    try:
        done = subprocess.run(["crontab", argument], input=text, capture_output=True, text=True, check=False)
    except FileNotFoundError:
        raise WarehouseError(
            "there is no crontab program here", "install cron, or give the line of `make schedule` to another scheduler"
        ) from None
    if done.returncode and not (argument == "-l" and "no crontab for" in done.stderr):
        raise WarehouseError(f"crontab refused: {done.stderr.strip()}", "ask whoever keeps this machine")
    return done.stdout
