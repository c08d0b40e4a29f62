"""The loader: batches of files from a drop folder into the landing tables, each batch whole or not at all.

A file passes three stations that work at once, joined by pipes, in constant memory. Python splits CSV into records
(scripts/records.py). DuckDB types and checks every record. PostgreSQL's COPY takes the result into a temporary table,
from which it is published when all files of the batch are there. While a landing table is empty there is nothing to
compare with, and COPY goes straight into it, at nearly the speed of COPY alone.

A batch is one transaction. Before its first row goes into landing it takes the publish lock, then its stamp, and holds
the lock until the commit: for a moment as a rule, for as long as the COPY takes when a table gets its first rows.
"""

import difflib
import fcntl
import gzip
import hashlib
import io
import os
import re
import stat
import sys
import tempfile
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager, suppress
from dataclasses import dataclass, field
from datetime import datetime
from functools import cached_property
from pathlib import Path
from typing import IO, Any, TextIO, cast

import duckdb
import psycopg2
from psycopg2 import sql
from psycopg2.extensions import connection, cursor
from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn, TransferSpeedColumn

from scripts.contract import LONGEST, TABLES, WITHHELD, Table, checking_sql, stage_columns
from scripts.errors import Exit, WarehouseError, of_database
from scripts.records import BLOCK, Records, Refused
from scripts.settings import check_pii_key, connect, settings

PUBLISH_LOCK, LOADER_LOCK = (7274, 2), (7274, 3)
"""Advisory locks: held shared by whoever writes landing, until the commit; held by the one loader at work."""

ANALYZE_FROM = 50_000
"""After so many new rows a load refreshes the statistics itself; for fewer, autovacuum is soon enough."""

_NO_REASON = b"\t\\N\n"  # how a line ends whose last column, the reason of the reject, is NULL
_NO_REJECT = b"\t\\N\t\\N\t\\N\n"  # and that of a row which is none
_ENDINGS = (".csv", ".csv.gz", ".parquet")


@dataclass
class FileResult:
    """What became of one file. Rows read = loaded + duplicate + rejected; `seconds` is wall-clock time.

    `status` is loaded, known (its content was loaded before: every row counts as a duplicate) or refused (`error`).
    """

    path: str
    table: str | None
    status: str = "loaded"
    read: int = 0
    loaded: int = 0
    duplicate: int = 0
    rejected: int = 0
    seconds: float = 0.0
    error: str | None = None
    warnings: list[str] = field(default_factory=list)
    sha256: str | None = None
    bytes: int | None = None
    direct: bool = False  # its rows go straight into landing
    landed: int = 0  # how many of them did


@dataclass
class LoadResult:
    """What a load did, file by file in the order they were handled, and what it left alone (`notes`)."""

    files: list[FileResult] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)

    @property
    def refused(self) -> list[FileResult]:
        """The files that were refused: the load is complete only without any."""
        return [file for file in self.files if file.status == "refused"]

    @property
    def loaded(self) -> int:
        """Rows that are new in landing."""
        return sum(file.loaded for file in self.files)

    @property
    def exit_code(self) -> int:
        """0 when nothing was refused, else Exit.INPUT_REFUSED."""
        return Exit.INPUT_REFUSED if self.refused else 0

    def print_summary(self) -> None:
        """One line per table, and notes, on standard output; what went wrong on standard error."""
        for note in self.notes:
            print(f"note: {note}")
        for file in self.files:
            is_known = file.status == "known"
            for warning in file.warnings:
                kind, stream = ("note", sys.stdout) if is_known else ("warning", sys.stderr)
                print(f"{kind}: {file.path}: {warning}", file=stream)
            if file.error:
                print(f"refused: {file.path}: {file.error}", file=sys.stderr)
        if not self.files:
            print("nothing to load")
        for table in TABLES:
            files = [file for file in self.files if file.table == table and file.status != "refused"]
            if files:
                counts = "".join(
                    f"{sum(getattr(file, name) for file in files):>12,} {name}"
                    for name in ("read", "loaded", "duplicate", "rejected")
                )
                print(f"{table:<13}{counts}{sum(file.seconds for file in files):>8.1f} s")


def load(drop: Path) -> LoadResult:
    """Load every batch in the folder `drop`: its subfolders in the order of their names, or the folder itself.

    Loading is repeatable: what was loaded before is known by its content. Raises WarehouseError when there is no such
    folder, when another loader is at work, and when the server goes away.
    """
    if not drop.is_dir():
        raise WarehouseError(
            f"there is no folder {printable(str(drop))}",
            "name the drop folder: one that holds batch folders with files such as orders.csv",
            Exit.INPUT_REFUSED,
        )
    result = LoadResult()
    try:
        batches = _find_batches(drop, result)
    except OSError as error:
        raise WarehouseError(
            f"the drop folder cannot be read: {printable(str(error))}", "give this account access", Exit.INPUT_REFUSED
        ) from None
    if not batches:
        return result
    bar = Progress(
        TextColumn("{task.description}", markup=False),
        BarColumn(),
        TextColumn("{task.fields[rows]:,} rows"),
        TransferSpeedColumn(),
        console=(console := Console(stderr=True)),
        disable=not console.is_terminal,
        transient=True,
    )
    try:
        with closing(connect("loader")) as server, _engine() as engine, bar:
            server.autocommit = True
            with server.cursor() as cur:
                _be_the_only_loader(cur)
                check_pii_key(cur)  # with another, nobody who was forgotten would be known
                loader = _Loader(server, cur, engine, bar)
                analyzed = 0
                for name, paths in batches:
                    result.files += loader.load_batch(drop, name, paths)
                    if result.loaded - analyzed >= ANALYZE_FROM:
                        cur.execute("SELECT landing.analyze()")
                        analyzed = result.loaded
    except (psycopg2.OperationalError, psycopg2.InterfaceError) as error:
        raise of_database(
            error,
            "the server failed during the load",
            "every batch is whole in landing or absent: look after the server, then load again",
        ) from None
    return result


def printable(name: str) -> str:
    """The name with control characters escaped: fit for a terminal, a log and the ledger."""
    return "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in name)


# The drop folder ------------------------------------------------------------------------------------------------------


def _find_batches(drop: Path, result: LoadResult) -> list[tuple[str, list[Path]]]:
    """Names of the batches and their data files, in order. Other files are noted and left alone."""
    own_name = drop.resolve().name
    files, folders = _look_into(drop)
    if any(_table_of(path.name) for path in files):  # the folder itself is the one batch
        found, left = [(own_name, files)], folders
    else:
        # A data file beside the batch folders can only be misnamed: it will be refused.
        found, left = [(own_name, files)], []
        for folder in folders:
            inside, deeper = _look_into(folder)
            found.append((folder.name, inside))
            left += deeper
    left += [path for _, paths in found for path in paths if not _is_data(path)]
    result.notes += [f"left alone: {printable(str(path.relative_to(drop)))}" for path in sorted(left)]
    batches = [(name, [path for path in paths if _is_data(path)]) for name, paths in found]
    return [(name, paths) for name, paths in batches if paths]


def _look_into(folder: Path) -> tuple[list[Path], list[Path]]:
    """What a folder holds, and the batch folders among it, each by name."""
    paths = sorted(folder.iterdir())
    batches = [p for p in paths if p.is_dir() and not _is_data(p) and not p.name.startswith(".")]
    return [path for path in paths if path not in batches], batches


def _is_data(path: Path) -> bool:
    """Whether it is to be loaded, or else refused: no link is passed over in silence."""
    return not path.name.startswith(".") and (path.name.lower().endswith(_ENDINGS) or path.is_symlink())


def _table_of(file_name: str) -> Table | None:
    stem = next((file_name.removesuffix(ending) for ending in _ENDINGS if file_name.endswith(ending)), "")
    return TABLES.get(stem)


def _no_such_table(file_name: str) -> str:
    name = file_name.lower()
    ending = next((ending for ending in _ENDINGS if name.endswith(ending)), "")
    if close := difflib.get_close_matches(name.removesuffix(ending), TABLES, 1):
        return f"no table has this name: did you mean {close[0]}{ending}?"
    return f"no table has this name; the tables are {', '.join(TABLES)}"


# The server -----------------------------------------------------------------------------------------------------------


def _be_the_only_loader(cur: cursor) -> None:
    cur.execute("SET statement_timeout = 0; SET work_mem = '128MB'; SET temp_buffers = '256MB'")
    cur.execute("SELECT pg_try_advisory_lock(%s, %s)", LOADER_LOCK)
    if _one(cur)[0]:
        return
    cur.execute("SELECT coalesce(ops.lock_holder(%s), 'it has just ended')", [LOADER_LOCK[1]])
    raise WarehouseError(f"another loader is at work: {_one(cur)[0]}", "load again when it is done", Exit.LOCKED)


def _one(cur: cursor) -> tuple[Any, ...]:
    row = cur.fetchone()
    assert row is not None
    return row


def _stage(table: Table) -> sql.Composable:
    return sql.SQL("pg_temp.{}").format(sql.Identifier(f"stage_{table.name}"))


def _list(names: list[str], alias: str | None = None) -> sql.Composable:
    return sql.SQL(", ").join(sql.Identifier(alias, name) if alias else sql.Identifier(name) for name in names)


@dataclass
class _Loader:
    server: connection
    cur: cursor
    engine: duckdb.DuckDBPyConnection
    bar: Progress
    batch: tuple[int, datetime] | None = None  # number and stamp of the batch that is being published

    def load_batch(self, drop: Path, name: str, paths: list[Path]) -> list[FileResult]:
        self.batch = None
        self.server.autocommit = False
        try:
            with self.server:  # rolls back after a failure
                return self.load_files(drop, name, paths)
        finally:
            with suppress(psycopg2.Error):  # the connection may be gone
                self.server.autocommit = True

    def load_files(self, drop: Path, name: str, paths: list[Path]) -> list[FileResult]:
        def begin() -> tuple[int, datetime]:
            return self.begin_publishing(str(drop.resolve()), name)

        tables = [_table_of(path.name) for path in paths]
        results = []
        for path, table in zip(paths, tables, strict=True):
            file = FileResult(printable(f"{name}/{path.name}"), table.name if table else None)
            results.append(file)
            started = time.monotonic()
            try:
                if path.is_symlink():
                    raise Refused("it is a symbolic link: put the file itself here")
                if table is None:
                    raise Refused(_no_such_table(path.name))
                if tables.count(table) > 1:
                    raise Refused(f"the batch has {tables.count(table)} files for {table.name}: make them one")
                self.take_file(path, table, file, begin)
            except Refused as refusal:
                file.status, file.error = "refused", printable(str(refusal))
                file.read = file.loaded = file.duplicate = file.rejected = 0
            file.seconds = time.monotonic() - started
        started = time.monotonic()
        self.publish(results, begin)
        # The files are published together: the time is theirs by their rows.
        share = (time.monotonic() - started) / max(1, sum(file.loaded for file in results))
        for file in results:
            file.seconds += share * file.loaded
        self.cur.execute("DISCARD TEMP")
        return results

    def take_file(self, path: Path, table: Table, file: FileResult, begin: Callable[[], tuple[int, datetime]]) -> None:
        """Take the file in, checked and without duplicates: into its temporary table, or straight into landing."""
        before = self.batch
        self.cur.execute("SAVEPOINT file")
        try:
            self.cur.execute(sql.SQL("SELECT EXISTS (SELECT FROM {})").format(sql.Identifier("landing", table.name)))
            file.direct = not _one(self.cur)[0] and not self.knows_forgotten
            self.stage_file(path, table, file, begin)
            if file.direct and self.has_repeated(table):  # seldom; nobody may delete from landing
                self.cur.execute("ROLLBACK TO SAVEPOINT file")
                self.batch, file.direct, file.warnings = before, False, []
                self.stage_file(path, table, file, begin)
        except Refused:
            self.cur.execute("ROLLBACK TO SAVEPOINT file")
            self.batch = before
            raise

    def stage_file(self, path: Path, table: Table, file: FileResult, begin: Callable[[], tuple[int, datetime]]) -> None:
        with _open(path) as raw:
            before = os.fstat(raw.fileno())
            file.bytes = before.st_size
            file.sha256 = hashlib.file_digest(raw, "sha256").hexdigest()
            if self.is_known(table, file):
                return
            raw.seek(0)
            definition = sql.SQL(", ").join(
                sql.SQL("{} {}").format(sql.Identifier(name), sql.SQL(type_))
                for name, type_ in stage_columns(table).items()
            )
            self.cur.execute(sql.SQL("CREATE TEMP TABLE {} ({})").format(_stage(table), definition))
            stamp = (*begin(), file.path) if file.direct else None
            self.cur.execute("SELECT clock_timestamp() AT TIME ZONE 'UTC'")
            now: datetime = _one(self.cur)[0]
            task = self.bar.add_task(file.path, total=before.st_size, rows=0)

            def progress(rows: int) -> None:
                self.bar.update(task, completed=os.lseek(raw.fileno(), 0, os.SEEK_CUR), rows=rows)

            try:
                if path.name.endswith(".parquet"):
                    query, columns = _parquet_sql(self.engine, raw, table, file, now)
                    self.pour(table, file, query, columns, progress, stamp)
                else:
                    records = Records(gzip.GzipFile(fileobj=raw) if path.name.endswith(".gz") else raw)
                    positions = _match_header(records.header, table, file)
                    pipe = _Pipe()
                    query, columns = _csv_sql(pipe, len(records.header), positions, table, now)
                    self.pour(table, file, query, columns, progress, stamp, (records, pipe))
            finally:
                self.bar.remove_task(task)
            after = os.fstat(raw.fileno())
            if (before.st_size, before.st_mtime_ns) != (after.st_size, after.st_mtime_ns):
                raise Refused("it changed while it was read: write it under a hidden name, then rename it")
        if self.knows_forgotten:
            self.keep_forgotten(table)
        self.judge_rejects(table, file)
        if not file.direct:
            self.drop_duplicates(table, file)
        file.loaded = file.read - file.rejected - file.duplicate

    def is_known(self, table: Table, file: FileResult) -> bool:
        self.cur.execute(
            """
            SELECT batch_name, to_char(loaded_at, 'YYYY-MM-DD HH24:MI:SS'), rows_read
            FROM landing.files JOIN landing.batches USING (batch_id)
            WHERE table_name = %s AND sha256 = %s AND status = 'loaded'
            """,
            (table.name, file.sha256),
        )
        if not (known := self.cur.fetchone()):
            return False
        file.status, file.read, file.duplicate = "known", known[2], known[2]
        file.warnings.append(f"already loaded in batch {known[0]} on {known[1]} UTC")
        return True

    def pour(
        self,
        table: Table,
        file: FileResult,
        query: str,
        columns: list[str],
        progress: Callable[[int], None],
        stamp: tuple[int, datetime, str] | None = None,
        feed: "tuple[Records, _Pipe] | None" = None,
    ) -> None:
        """Copy what DuckDB makes of the query, which may read the records through a pipe, into `columns` of the stage.

        With a stamp, what is no reject goes into landing instead. Counts the rows read and rejected.
        """
        out = _Pipe()
        copy = sql.SQL("COPY {} ({}) FROM STDIN")
        into_stage = copy.format(_stage(table), _list(columns))
        landed = [name for name in columns if not name.startswith("reject_")]
        into_landing = copy.format(
            sql.Identifier("landing", table.name), _list([*landed, "_batch_id", "_loaded_at", "_source_file"])
        )
        failures: list[BaseException] = []

        def write() -> None:
            assert feed
            records, into = feed
            with open(into.writer, "wb") as sink:
                for block in records:
                    sink.write(block)

        def read() -> None:
            with open(out.reader, "rb", buffering=0) as source:
                with tempfile.TemporaryFile() as rejects:
                    stream = _Counting(source, progress, stamp, rejects)
                    self.cur.copy_expert(into_landing if stamp else into_stage, cast(TextIO, stream), BLOCK)
                    file.landed = self.cur.rowcount
                    if rejects.tell():
                        rejects.seek(0)
                        self.cur.copy_expert(into_stage, cast(TextIO, rejects), BLOCK)
                file.read, file.rejected = stream.lines, stream.lines - stream.accepted

        def run(work: Callable[[], None]) -> None:
            try:
                work()
            except BaseException as failure:  # goes on in the main thread
                failures.append(failure)

        threads = [threading.Thread(target=run, args=(work,)) for work in ([write, read] if feed else [read])]
        for thread in threads:
            thread.start()
        try:
            self.engine.execute(
                f"COPY ({query}) TO '/dev/fd/{out.writer}' (FORMAT csv, HEADER false, DELIM '\t', QUOTE '', ESCAPE '', "
                "NULLSTR '\\N', USE_TMP_FILE false)"
            )
        except duckdb.Error as error:
            failures.append(error)
        finally:
            # Ends of pipes that DuckDB has opened for itself: while ours are open, nobody sees that the data ended.
            os.close(out.writer)
            if feed:
                os.close(feed[1].reader)
            for thread in threads:
                thread.join()
        if failures:
            # Whoever fails breaks the pipes of the others: what they say then tells nothing.
            kinds = [Refused, psycopg2.Error, duckdb.Error]
            failure = min(failures, key=lambda f: next((i for i, kind in enumerate(kinds) if isinstance(f, kind)), 9))
            if isinstance(failure, (duckdb.Error, psycopg2.DataError)):
                # Either may quote a value, which may be personal data.
                raise Refused(f"it cannot be read: {_without_values(_first_line(failure))}")
            raise failure

    def judge_rejects(self, table: Table, file: FileResult) -> None:
        if not file.rejected:
            return
        self.cur.execute(
            sql.SQL(
                """
                SELECT _row_number, reject_column, reject_value, reject_reason FROM {}
                WHERE reject_reason IS NOT NULL ORDER BY _row_number LIMIT 1
                """
            ).format(_stage(table))
        )
        number, column, value, reason = _one(self.cur)
        first = f"{'row' if file.path.endswith('.parquet') else 'line'} {number}"
        first += f", {column}" if column else ""
        first += f" '{_excerpt(value, 60)}'" if value is not None else ""
        first += f": {reason}"
        limit = settings().max_reject_share
        if file.rejected > limit * file.read:
            raise Refused(
                f"{file.rejected:,} of {file.read:,} rows rejected, over the limit of {limit:.0%}; first: {first}"
            )
        rows = "1 row" if file.rejected == 1 else f"{file.rejected:,} rows"
        file.warnings.append(f"{rows} rejected; first: {first}; all in landing.rejects")

    @cached_property
    def knows_forgotten(self) -> bool:
        """Whether any customer was forgotten (scripts/forget.py), which nobody is while a load is at work."""
        self.cur.execute("SELECT EXISTS (SELECT FROM ops.forgotten)")
        return bool(_one(self.cur)[0])

    def keep_forgotten(self, table: Table) -> None:
        """What is said of forgotten customers goes to their pseudonyms, without personal data."""
        if table.customer:
            self.cur.execute(
                sql.SQL(
                    """
                    WITH hashed AS MATERIALIZED (
                      SELECT id, ops.customer_hash(id) AS customer_hash
                      FROM (SELECT DISTINCT {customer} AS id FROM {stage} WHERE {condition}) AS named
                    ), forgotten AS MATERIALIZED (
                      SELECT id, pseudonym FROM hashed JOIN ops.forgotten USING (customer_hash)
                    )
                    UPDATE {stage} AS s SET {changes} FROM forgotten WHERE s.{customer} = id AND {condition}
                    """
                ).format(
                    stage=_stage(table),
                    customer=sql.Identifier(table.customer),
                    condition=sql.SQL(table.names_customer),
                    changes=sql.SQL(", ").join(
                        [
                            sql.SQL("{} = pseudonym").format(sql.Identifier(table.customer)),
                            *(sql.SQL("{} = NULL").format(sql.Identifier(name)) for name in table.personal),
                        ]
                    ),
                )
            )
        self.cur.execute(
            sql.SQL(
                """
                UPDATE {stage} SET reject_value = %s
                WHERE EXISTS (
                  SELECT FROM unnest(string_to_array(reject_value, ',')) AS part
                  JOIN ops.forgotten ON customer_hash = ops.customer_hash(part)
                )
                """
            ).format(stage=_stage(table)),
            [WITHHELD],
        )

    def has_repeated(self, table: Table) -> bool:
        """Whether a version comes twice in landing."""
        self.cur.execute(
            # Not EXISTS: in the hope of a hit the planner would walk the index, row by row through the whole table.
            sql.SQL("SELECT count(*) FROM (SELECT FROM {} GROUP BY {} HAVING count(*) > 1) AS repeated").format(
                sql.Identifier("landing", table.name), _list(table.version)
            )
        )
        return bool(_one(self.cur)[0])

    def drop_duplicates(self, table: Table, file: FileResult) -> None:
        """Delete records that are equal, in all columns of the contract, to an earlier one or to one in landing."""
        everything = [*table.names, "_deleted"]
        parts = {
            "stage": _stage(table),
            "landing": sql.Identifier("landing", table.name),
            "version": _list(table.version),
            "everything": _list(everything),
            "same_version": sql.SQL(" AND ").join(
                sql.SQL("s.{0} = l.{0}").format(sql.Identifier(name)) for name in table.version
            ),
            "ours": _list(everything, "s"),
            "theirs": _list(everything, "l"),
        }
        # Comparing all columns is dear, and is needed only where a version comes twice.
        self.cur.execute(
            sql.SQL(
                """
                WITH repeated AS (
                  SELECT {version} FROM {stage} WHERE reject_reason IS NULL GROUP BY {version} HAVING count(*) > 1
                ), ranked AS (
                  SELECT s.ctid AS place, row_number() OVER (PARTITION BY {ours} ORDER BY s._row_number) AS copy
                  FROM {stage} AS s JOIN repeated USING ({version})
                  WHERE s.reject_reason IS NULL
                )
                DELETE FROM {stage} AS s USING ranked WHERE s.ctid = ranked.place AND ranked.copy > 1
                """
            ).format(**parts)
        )
        file.duplicate = self.cur.rowcount
        self.cur.execute(sql.SQL("ANALYZE {stage}").format(**parts))
        self.cur.execute(
            sql.SQL(
                """
                DELETE FROM {stage} AS s USING {landing} AS l
                WHERE s.reject_reason IS NULL AND {same_version} AND ({ours}) IS NOT DISTINCT FROM ({theirs})
                """
            ).format(**parts)
        )
        file.duplicate += self.cur.rowcount

    def begin_publishing(self, drop: str, name: str) -> tuple[int, datetime]:
        """Take the publish lock, until the commit, and then the stamp; both once in a batch."""
        if self.batch is None:
            # The stamp comes after the lock: a run that began before does not look for these rows yet.
            self.cur.execute("SELECT pg_advisory_xact_lock_shared(%s, %s)", PUBLISH_LOCK)
            self.cur.execute(
                """
                INSERT INTO landing.batches (batch_name, drop_folder, loaded_at)
                SELECT %s, %s, greatest(clock_timestamp(), max(loaded_at) + interval '1 microsecond')
                FROM landing.batches
                RETURNING batch_id, loaded_at
                """,
                (printable(name), printable(drop)),
            )
            self.batch = cast(tuple[int, datetime], _one(self.cur))
        return self.batch

    def publish(self, files: list[FileResult], begin: Callable[[], tuple[int, datetime]]) -> None:
        """Make the files visible at one instant, and write the ledger."""
        for file in files:
            if file.status == "loaded" or (file.error and self.is_new_refusal(file)):
                batch = begin()
                if file.status == "loaded":
                    self.publish_file(file, *batch)
                self.cur.execute(
                    """
                    INSERT INTO landing.files (
                      batch_id, path, table_name, sha256, bytes, status, rows_read, rows_loaded, rows_duplicate,
                      rows_rejected, seconds, error
                    ) VALUES (%s, %s, %s, %s, %s, %s, %s, %s, %s, %s, %s, %s)
                    """,
                    (
                        *(batch[0], file.path, file.table, file.sha256, file.bytes, file.status, file.read),
                        *(file.loaded, file.duplicate, file.rejected, round(file.seconds, 3), file.error),
                    ),
                )
        self.server.commit()

    def is_new_refusal(self, file: FileResult) -> bool:
        """Whether the ledger lacks it: a scheduled load meets the same bad file again and again."""
        self.cur.execute(
            """
            SELECT NOT EXISTS (
              SELECT FROM landing.files WHERE path = %s AND error = %s AND sha256 IS NOT DISTINCT FROM %s
            )
            """,
            (file.path, file.error, file.sha256),
        )
        return bool(_one(self.cur)[0])

    def publish_file(self, file: FileResult, batch_id: int, stamp: datetime) -> None:
        assert file.table
        table = TABLES[file.table]
        columns = _list([*table.names, "_deleted", "_row_number"])
        loaded, rejected = file.landed, 0
        if not file.direct:
            self.cur.execute(
                sql.SQL(
                    """
                    INSERT INTO {landing} ({columns}, _batch_id, _loaded_at, _source_file)
                    SELECT {columns}, %s, %s, %s FROM {stage} WHERE reject_reason IS NULL
                    """
                ).format(landing=sql.Identifier("landing", table.name), columns=columns, stage=_stage(table)),
                (batch_id, stamp, file.path),
            )
            loaded = self.cur.rowcount
        if file.rejected:
            self.cur.execute(
                sql.SQL(
                    """
                    INSERT INTO landing.rejects (
                      batch_id, source_file, table_name, line, column_name, value, reason, rejected_at
                    )
                    SELECT %s, %s, %s, _row_number, reject_column, reject_value, reject_reason, %s
                    FROM {stage} WHERE reject_reason IS NOT NULL
                    """
                ).format(stage=_stage(table)),
                (batch_id, file.path, table.name, stamp),
            )
            rejected = self.cur.rowcount
        if file.read != loaded + file.duplicate + rejected:
            raise WarehouseError(
                f"{file.path}: {file.read} rows read, but {loaded} + {file.duplicate} + {rejected} accounted for",
                "this is a bug of the loader; nothing of the batch was published",
                Exit.BUG,
            )


# Reading files --------------------------------------------------------------------------------------------------------


@contextmanager
def _engine() -> Iterator[duckdb.DuckDBPyConnection]:
    with tempfile.TemporaryDirectory() as scratch:
        config: dict[str, Any] = {"memory_limit": "512MB", "threads": 1, "temp_directory": scratch}
        with duckdb.connect(config=config) as engine:
            engine.execute("SET TimeZone = 'UTC'; SET enable_progress_bar = false")
            yield engine


@contextmanager
def _open(path: Path) -> Iterator[io.BufferedReader]:
    try:
        # NOFOLLOW: no link leads out of the drop folder. NONBLOCK: a FIFO would wait for ever.
        fd = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK)
    except OSError as error:
        raise Refused(f"it cannot be opened: {error.strerror}") from None
    if not stat.S_ISREG(os.fstat(fd).st_mode):
        os.close(fd)
        raise Refused("it is not a regular file")
    with open(fd, "rb") as raw:
        yield raw


class _Pipe:
    """A pipe; DuckDB opens its end once more, as /dev/fd/N."""

    def __init__(self) -> None:
        self.reader, self.writer = os.pipe()
        with suppress(AttributeError, OSError):  # not on every platform, and not without limit
            fcntl.fcntl(self.writer, fcntl.F_SETPIPE_SZ, 1 << 20)


class _Counting:
    """A stream on its way into COPY: how many lines went through, and how many of them are no rejects.

    With a stamp (batch, time, path) it is on its way into landing: the rows get the stamp, `rejects` the others.
    """

    def __init__(
        self,
        source: io.FileIO,
        progress: Callable[[int], None],
        stamp: tuple[int, datetime, str] | None,
        rejects: IO[bytes],
    ) -> None:
        self.lines = self.accepted = 0
        self._source, self._progress, self._rejects = source, progress, rejects
        self._tail = self._stamp = b""
        if stamp:
            batch, at, path = stamp
            self._stamp = "\t{}\t{}\t{}\n".format(batch, at.isoformat(), path.replace("\\", "\\\\")).encode()

    def read(self, size: int) -> bytes:
        """Some of the next lines, whole; nothing at the end."""
        while block := self._source.read(size):
            head, end, self._tail = (self._tail + block).rpartition(b"\n")
            lines = head + end
            count, accepted = lines.count(b"\n"), lines.count(_NO_REASON)
            self.lines, self.accepted = self.lines + count, self.accepted + accepted
            self._progress(self.lines)
            if self._stamp:
                if accepted < count:
                    each = [line + b"\n" for line in head.split(b"\n")]
                    self._rejects.writelines(line for line in each if not line.endswith(_NO_REASON))
                    lines = b"".join(line for line in each if line.endswith(_NO_REASON))
                lines = lines.replace(_NO_REJECT, self._stamp)
            if lines:
                return lines
        rest, self._tail = self._tail, b""
        return rest


def _match_header(names: list[str], table: Table, file: FileResult) -> dict[str, int]:
    """Position of each column of the contract. What a header says is compared, and never becomes part of any SQL."""
    given = [name.strip().lower() for name in names]
    known = [*table.names, "_deleted"]
    # What is no column's name is not quoted: without a header it is somebody's address.
    if twice := [name for name, times in Counter(given).items() if times > 1]:
        places = " and ".join(str(at) for at, name in enumerate(given, 1) if name == twice[0])
        raise Refused(f"the header has the column {f'{twice[0]} ' if twice[0] in known else ''}twice: at {places}")
    if missing := [column.name for column in table.columns if column.required and column.name not in given]:
        found = ", ".join(name for name in given if name in known) or "no column of the contract"
        comma = " (the separator must be a comma)" if len(given) == 1 else ""
        raise Refused(f"required column {', '.join(missing)} is missing; the header has {found}{comma}")
    if unknown := [name for name in given if name not in known]:
        file.warnings.append(f"columns outside the contract, left out: {_excerpt(', '.join(unknown))}")
    return {name: given.index(name) for name in known if name in given}


def _excerpt(text: str, length: int = 200) -> str:
    return printable(text[:length]) + ("..." if len(text) > length else "")


def _first_line(error: Exception) -> str:
    return str(error).strip().splitlines()[0]


def _without_values(text: str) -> str:
    """A message without what it quotes."""
    return re.sub(r"""(["']).*\1""", "...", text)


def _csv_sql(pipe: _Pipe, width: int, positions: dict[str, int], table: Table, now: datetime) -> tuple[str, list[str]]:
    columns = {"line": "BIGINT", "fault": "VARCHAR"} | {f"c{at}": "VARCHAR" for at in range(width)}
    source = f"""
        (SELECT *, c0 AS excerpt FROM read_csv(
          '/dev/fd/{pipe.reader}', auto_detect = false, columns = {columns}, header = false, delim = '\t', quote = '',
          escape = '', nullstr = '', new_line = '\\n', max_line_size = {5 * LONGEST}, buffer_size = {8 * LONGEST}
        ))
    """
    return checking_sql(table, source, {name: f"c{at}" for name, at in positions.items()}, now)


def _parquet_sql(
    engine: duckdb.DuckDBPyConnection, raw: IO[bytes], table: Table, file: FileResult, now: datetime
) -> tuple[str, list[str]]:
    # By descriptor: the very file that was hashed, and no `*` in its name taken for a pattern.
    reader = f"read_parquet('/dev/fd/{raw.fileno()}', binary_as_string = true"
    try:
        described = engine.execute(f"DESCRIBE FROM {reader})").fetchall()
    except duckdb.Error as error:
        raise Refused(f"it is not a readable parquet file: {_without_values(_first_line(error))}") from None
    positions = _match_header([row[0] for row in described], table, file)
    are_text = {column.name for column in table.columns if column.type == "text"}
    for name, at in positions.items():
        type_ = described[at][1]
        inexact = name in are_text and type_ in ("FLOAT", "DOUBLE")  # the key 123 would become '123.0'
        if inexact or type_.endswith("]") or type_.startswith(("STRUCT", "MAP", "UNION", "BLOB")):
            raise Refused(f"column {name} has the type {_excerpt(type_)}: make it text")
    texts = {name: f"nullif(CAST(c{at} AS VARCHAR), '')" for name, at in positions.items()}
    has_nul = " OR ".join(f"contains({name}, chr(0))" for name in texts)
    is_long = " OR ".join(f"length({name}) > {LONGEST}" for name in texts)
    source = f"""
        (
          SELECT
            line + 1 AS line,
            CASE WHEN {has_nul} THEN 'holds a NUL character' WHEN {is_long} THEN 'longer than 1 MiB' END AS fault,
            NULL AS excerpt,
            {", ".join(f"CASE WHEN fault IS NULL THEN {_escaped(f'texts.{name}')} END AS {name}" for name in texts)}
          FROM (
            SELECT line, {", ".join(f"{text} AS {name}" for name, text in texts.items())}
            FROM {reader}, file_row_number = true) AS t ({", ".join(f"c{at}" for at in range(len(described)))}, line)
          ) AS texts
        )
    """
    return checking_sql(table, source, {name: name for name in positions}, now)


def _escaped(text: str) -> str:
    """DuckDB SQL: the text in the escapes of PostgreSQL's COPY."""
    escaped = text
    for character, escape in ((r"'\'", r"'\\'"), ("chr(9)", r"'\t'"), ("chr(10)", r"'\n'"), ("chr(13)", r"'\r'")):
        escaped = f"replace({escaped}, {character}, {escape})"
    return rf"CASE WHEN regexp_matches({text}, '[\\\t\n\r]') THEN {escaped} ELSE {text} END"
