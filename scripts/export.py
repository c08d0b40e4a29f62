"""What people take out of a mart: its rows as a file, or a profile of its columns; read as an analyst reads."""

import difflib
import os
import sys
import threading
from collections.abc import Iterator
from contextlib import closing, contextmanager
from datetime import datetime
from decimal import Decimal
from pathlib import Path
from typing import IO, Any, Literal

import duckdb
import psycopg2
from psycopg2.extensions import connection
from rich.console import Console
from rich.table import Table

from scripts.catalog import PUBLISHED
from scripts.contract import LONGEST
from scripts.errors import Exit, WarehouseError
from scripts.settings import connect

Format = Literal["csv", "parquet"]

EXACT_ROWS = 1_000_000
"""Tables with more rows are profiled with approximate counts of distinct values and quantiles."""

# Types that DuckDB has by the same names, and of which quartiles say something; others cross as text.
_ORDERED = {"bigint", "date", "double precision", "integer", "numeric", "smallint", "timestamp with time zone"}


def export(model: str, form: Format, target: Path | None = None) -> str:
    """Write the rows of a mart to a file, whole or not at all; returns one line for people.

    Raises WarehouseError when there is no such mart, or the file cannot be written.
    """
    with _session() as session:
        name, columns = _find(session, model)
        target = target or Path(f"{name.split('.')[1]}.{form}")
        draft = target.with_name(f".{target.name}.{os.getpid()}")
        try:
            if form == "csv":
                with draft.open("wb") as file:
                    rows = _copy(session, name, file)
            else:
                with _engine() as engine, _streamed(session, name, columns) as source:
                    path = str(draft).replace("'", "''")
                    copied = engine.execute(
                        f"COPY ({source}) TO '{path}' (FORMAT parquet, COMPRESSION zstd)"
                    ).fetchone()
                    rows = copied[0] if copied else 0
            draft.replace(target)
        except (OSError, duckdb.IOException) as error:
            raise WarehouseError(
                f"{target} cannot be written: {error}", "name another file: TO=...", Exit.INPUT_REFUSED
            ) from None
        finally:
            draft.unlink(missing_ok=True)
    return f"wrote {target}: {rows:,} rows of {name}"


def profile(model: str) -> None:
    """Print rows, and of each column nulls, distinct values, least, quartiles and greatest.

    Up to a million rows everything is exact; beyond, distinct values and quartiles are marked as approximate.
    Raises WarehouseError when there is no such mart.
    """
    with _session() as session, _engine() as engine:
        name, columns = _find(session, model)
        with session.cursor() as cursor:
            cursor.execute(f"SELECT COUNT(*) FROM {name}")
            (rows,) = cursor.fetchone() or (0,)
        is_exact = rows <= EXACT_ROWS
        distinct, quantile = (
            ("count(DISTINCT", "quantile_disc") if is_exact else ("approx_count_distinct(", "approx_quantile")
        )
        values = []
        for column, dtype in columns.items():
            quartiles = f'{quantile}("{column}", [0.25, 0.5, 0.75])' if _is_ordered(dtype) else "NULL"
            values.append(f'count("{column}"), {distinct} "{column}"), min("{column}"), max("{column}"), {quartiles}')
        with _streamed(session, name, columns) as source:
            found = engine.execute(f"SELECT {', '.join(values)} FROM ({source})").fetchone() or ()
    about = "" if is_exact else "≈ "
    table = Table(title=f"{name}: {rows:,} rows")
    table.add_column("column", no_wrap=True)
    for heading in ("nulls", f"{about}distinct", "least", f"{about}25 %", f"{about}median", f"{about}75 %", "greatest"):
        table.add_column(heading, justify="right", overflow="fold")
    for place, column in enumerate(columns):
        count, unlike, least, greatest, quartiles = found[5 * place : 5 * place + 5]
        table.add_row(column, *map(_cell, [rows - count, unlike, least, *(quartiles or [None] * 3), greatest]))
    Console(width=None if sys.stdout.isatty() else 130).print(table)
    if not is_exact:
        print(f"≈ approximate: the table has more than {EXACT_ROWS:,} rows")


def _cell(value: Any) -> str:
    """A value for people: thousands apart, no zeros that say nothing, times in UTC, text cut short."""
    if isinstance(value, Decimal):
        return f"{value.normalize():,f}"
    if isinstance(value, datetime):
        return f"{value:%Y-%m-%d %H:%M}"
    if value is None or isinstance(value, bool):
        return "" if value is None else str(value).lower()
    return f"{value:,}" if isinstance(value, int | float) else str(value)[:24]


def _engine() -> duckdb.DuckDBPyConnection:
    engine = duckdb.connect(config={"threads": 1})
    engine.execute("SET TimeZone = 'UTC'")
    return engine


@contextmanager
def _session() -> Iterator[connection]:
    """A session of the analyst, of one moment; a query that the server ends is a WarehouseError."""
    with closing(connect("analyst")) as session:
        session.set_session(isolation_level="REPEATABLE READ", readonly=True)
        try:
            yield session
        except psycopg2.Error as error:
            raise WarehouseError(
                f"the server ended the query: {str(error).strip()}", "see `make status`; then try again", Exit.TRANSIENT
            ) from None


def _find(session: connection, model: str) -> tuple[str, dict[str, str]]:
    """Full name of a mart, and its columns with their types. Raises WarehouseError naming the nearest."""
    with session.cursor() as cursor:
        cursor.execute(
            """
            SELECT CONCAT_WS('.', nspname, relname), attname, FORMAT_TYPE(atttypid, atttypmod)
            FROM pg_class
            JOIN pg_namespace ON pg_namespace.oid = relnamespace
            JOIN pg_attribute ON attrelid = pg_class.oid AND attnum > 0 AND NOT attisdropped
            WHERE nspname = ANY(%s) AND relkind IN ('r', 'v', 'm') AND HAS_TABLE_PRIVILEGE(pg_class.oid, 'SELECT')
            ORDER BY nspname, relname, attnum
            """,
            [list(PUBLISHED)],
        )
        models: dict[str, dict[str, str]] = {}
        for name, column, dtype in cursor.fetchall():
            models.setdefault(name, {})[column] = dtype
    short = {name.split(".")[1]: name for name in models}
    if found := model if model in models else short.get(model):
        return found, models[found]
    near = difflib.get_close_matches(model.split(".")[-1], short, n=3, cutoff=0.5)
    hint = f"did you mean {' or '.join(short[name] for name in near)}?" if near else f"there are: {', '.join(models)}"
    raise WarehouseError(f"there is no table {model} in {' or '.join(PUBLISHED)}", hint, Exit.INPUT_REFUSED)


def _copy(session: connection, name: str, file: IO[bytes]) -> int:
    """The rows as CSV with a header; returns how many."""
    with session.cursor() as cursor:
        cursor.copy_expert(f"COPY (SELECT * FROM {name}) TO STDOUT (FORMAT csv, HEADER)", file, 1 << 18)
        return cursor.rowcount


@contextmanager
def _streamed(session: connection, model: str, columns: dict[str, str]) -> Iterator[str]:
    """SQL for DuckDB that reads the rows while PostgreSQL sends them: nothing is kept in between."""
    reader, writer = os.pipe()
    failures: list[BaseException] = []

    def send() -> None:
        try:
            with open(writer, "wb") as file:
                _copy(session, model, file)
        except BaseException as failure:  # goes on in the main thread
            failures.append(failure)

    types = {column: dtype if _is_ordered(dtype) or dtype == "boolean" else "text" for column, dtype in columns.items()}
    thread = threading.Thread(target=send)
    thread.start()
    try:
        yield (
            f"SELECT * FROM read_csv('/dev/fd/{reader}', auto_detect = false, header = true, columns = {types}, "
            "delim = ',', quote = '\"', escape = '\"', nullstr = '', allow_quoted_nulls = false, parallel = false, "
            f"max_line_size = {8 * LONGEST}, buffer_size = {16 * LONGEST})"
        )
    except duckdb.IOException:
        raise
    except duckdb.Error as error:
        what = f"{model} holds what a column of its type cannot: {str(error).splitlines()[0]}"
        raise WarehouseError(what, f"`make export MODEL={model} FORMAT=csv` takes it as it is", Exit.BUG) from None
    finally:
        os.close(reader)  # ends a sender whose rows nobody wants
        thread.join()
        if failures and not isinstance(failures[0], BrokenPipeError):
            raise failures[0]


def _is_ordered(dtype: str) -> bool:
    return dtype.split("(")[0] in _ORDERED
