"""Logs for machines: a JSON object per line in `logs/warehouse.jsonl`, and traces of bugs in `logs/traces.log`.

Both are rotated. A log that cannot be written costs one warning, and never a run.
"""

import logging
import sys
import traceback
from contextlib import suppress
from functools import cache
from logging.handlers import RotatingFileHandler
from pathlib import Path
from typing import Any

from scripts.settings import ROOT

LOGS = ROOT / "logs"
BYTES, KEPT = 5_000_000, 5
"""A file that has grown so large is set aside, and so many of these are kept."""


class _Rotating(RotatingFileHandler):
    """Opened at the first event; says once that it cannot write."""

    failed = False

    def handleError(self, record: logging.LogRecord) -> None:
        if not self.failed:
            print(f"warning: {self.baseFilename} cannot be written: {sys.exc_info()[1]}", file=sys.stderr)
        self.failed = True


def _file(name: str) -> logging.Logger:
    """A logger that writes its messages, as they are, into a file of `LOGS`."""
    made = logging.getLogger(f"warehouse.{name}")
    made.propagate = False
    made.setLevel(logging.INFO)
    with suppress(OSError):  # told when it is written to
        LOGS.mkdir(exist_ok=True)
    made.handlers = [_Rotating(LOGS / name, maxBytes=BYTES, backupCount=KEPT, delay=True)]
    return made


@cache
def _events() -> Any:
    import structlog  # 30 ms, only for commands that have something to say

    return structlog.wrap_logger(
        _file("warehouse.jsonl"),
        processors=[
            structlog.stdlib.add_log_level,
            structlog.processors.TimeStamper(fmt="iso", utc=True),
            structlog.processors.JSONRenderer(default=str),
        ],
        wrapper_class=structlog.stdlib.BoundLogger,
    )


def event(name: str, **values: Any) -> None:
    """Log that something happened: its name, and whatever tells more about it (never a secret)."""
    _events().info(name, **values)


def trace(error: BaseException) -> Path:
    """Write the trace of an error that nobody expected; returns where it is."""
    made = _file("traces.log")
    event("bug", error=f"{type(error).__name__}: {error}")
    made.error("%s", "".join(traceback.format_exception(error)))
    return LOGS / "traces.log"
