"""What a command tells a person when it cannot go on, and how a fault of the database becomes that."""

import re
from collections.abc import Iterator
from enum import IntEnum
from typing import NamedTuple

import psycopg2


class Exit(IntEnum):
    """Exit codes of every command. `make` itself turns any of them into 2 and prints the number."""

    LOCKED = 20
    DATA_QUALITY = 30
    INPUT_REFUSED = 40
    TRANSIENT = 50
    MISMATCH = 60
    BUG = 70
    SERVICE_DOWN = 75


class Failure(NamedTuple):
    """A model that failed: who owns it, and what happened."""

    model: str
    owner: str
    what: str


def plain_name(name: str) -> str:
    """marts.daily_revenue, of SQLMesh's "warehouse"."marts"."daily_revenue"."""
    return ".".join(name.replace('"', "").split(".")[-2:])


class WarehouseError(Exception):
    """A fault that a person can act on: `what` happened and where, and what to do about it (`hint`).

    Commands print it without a stack trace and end with `code`. `failures` are the models that failed, if any did.
    """

    def __init__(self, what: str, hint: str, code: Exit = Exit.SERVICE_DOWN) -> None:
        super().__init__(f"{what}\n  {hint}")
        self.what, self.hint, self.code = what, hint, code
        self.failures: list[Failure] = []


OLDER_SETUP = ("this database was set up by an older version of the project", "run `make init`", Exit.MISMATCH)
"""What a WarehouseError says where a function or table of config/postgres is not there yet."""


class PassingFault(WarehouseError):
    """One that may pass by itself: commands try again before they give up."""


# SQLSTATEs. Passing: connections lost or refused for now, deadlocks, lock timeouts. 55P03 of our own lock functions is
# told by its text before (scripts/pipeline.py). Of the server: no room, cancelled or out of order, but not passing.
_PASSING = re.compile("08...|40001|40P01|55P03|57P0[123]|53300")
_OF_THE_SERVER = re.compile("53...|57...|58...|XX...")
# Something that a run expects is not there, or not as it was: tables, columns, schemas, rights.
_MISSING = re.compile("42P01|42703|3F000|42501")


def chain(error: BaseException | None) -> Iterator[BaseException]:
    """The error and what caused it, nearest first."""
    seen: list[BaseException] = []
    while error is not None and error not in seen:
        seen.append(error)
        yield error
        error = error.__cause__ or (None if error.__suppress_context__ else error.__context__)


def sqlstate(error: BaseException) -> str | None:
    """SQLSTATE of the database error behind an error; None without one."""
    for one in chain(error):
        if isinstance(one, WarehouseError) and one.code == Exit.SERVICE_DOWN:
            return "08001"  # a connection was refused, and explained (scripts/adapter.py)
        if isinstance(one, psycopg2.Error):
            if one.pgcode:
                return one.pgcode
            if isinstance(one, psycopg2.OperationalError | psycopg2.InterfaceError):
                return "08006"  # a connection broke: psycopg2 has no code for what libpq finds by itself
    return None


def describe(error: BaseException) -> str:
    """One line on what happened, without the rows that PostgreSQL quotes in details (they may be personal data)."""
    for one in chain(error):
        if isinstance(one, WarehouseError):
            return one.what
        if isinstance(one, psycopg2.Error):
            text = one.diag.message_primary or str(one)
            return f"{' '.join(text.split())} (SQLSTATE {sqlstate(one)})"
    return " ".join(str(error).split()) or type(error).__name__


def of_database(error: BaseException, what: str, hint: str, deployed: bool = False) -> WarehouseError:
    """The fault that a database error means. With `deployed`, what it names was there when prod was deployed."""
    state = sqlstate(error) or ""
    text = f"{what}: {describe(error)}"
    if _PASSING.fullmatch(state):
        return PassingFault(text, hint, Exit.TRANSIENT)
    if _OF_THE_SERVER.fullmatch(state):
        return WarehouseError(text, hint, Exit.TRANSIENT)
    if deployed and _MISSING.fullmatch(state):
        return WarehouseError(
            text,
            "state and warehouse disagree: `make doctor` says how, and `make init` makes schemas and rights anew",
            Exit.MISMATCH,
        )
    return WarehouseError(text, hint, Exit.BUG)
