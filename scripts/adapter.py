"""SQLMesh's Postgres adapter, with five things it leaves open. It touches SQLMesh's private methods, as do
materializations/, scripts/renderer.py and scripts/snapshot_cache.py. When they move, test_adapter.py, test_renderer.py
and test_snapshot_cache.py in tests/python fail.

1. DataFrames go in by COPY, straight into a table of their types, else by way of a temporary one; a few rows by INSERT.
   Stock SQLMesh builds them as VALUES in syntax trees: 36 s of CPU per 100,000 rows.
2. Views are replaced in place where their columns allow, and what others have built on them is made again where not
   (scripts/guard.py), so that the views and grants of analysts survive a promotion.
3. An empty DataFrame is a result with no rows, not an error.
4. A connection that is refused says why and what to do.
5. Sessions can hash personal data (macros/keyed_hash.py), on DuckDB too, with a key that SQLMesh never sees.
"""

import json
import os
import threading
from collections.abc import Callable
from functools import cache
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd
import psycopg2
import sqlmesh.core.config.connection as sqlmesh_connection
from psycopg2 import errors
from psycopg2.extensions import connection
from psycopg2.extras import execute_values
from sqlglot import exp
from sqlmesh.core.config.connection import DuckDBConnectionConfig, PostgresConnectionConfig
from sqlmesh.core.engine_adapter.base import EngineAdapter
from sqlmesh.core.engine_adapter.base_postgres import BasePostgresEngineAdapter
from sqlmesh.core.engine_adapter.postgres import PostgresEngineAdapter
from sqlmesh.core.engine_adapter.shared import SourceQuery, set_catalog
from sqlmesh.utils import get_source_columns_to_types
from sqlmesh.utils.errors import SQLMeshError

from scripts import guard
from scripts.settings import HASHING, explain, export_environment, hashing_options, hmac_pads

if TYPE_CHECKING:
    import duckdb

CHUNK_ROWS = 50_000
"""Rows that are encoded at a time: what a frame takes beside itself."""

FEW_ROWS = 10
"""So many are inserted as they are: a COPY with its encoder costs 10 ms, and a run writes a row of state a model."""

ColumnTypes = dict[str, exp.DataType]

_INTEGERS, _TEXTS = exp.DataType.INTEGER_TYPES, exp.DataType.TEXT_TYPES
_NUMBERS: set[Any] = {*_INTEGERS, *exp.DataType.FLOAT_TYPES, exp.DataType.Type.DECIMAL}
_FAST: dict[str, tuple[str, set[Any]]] = {
    "string": ("object string", {*_TEXTS, *exp.DataType.TEMPORAL_TYPES, exp.DataType.Type.UUID}),
    "integer": ("object int64 int32 Int64", {*_NUMBERS, *_TEXTS}),
    "floating": ("float64", _NUMBERS),
    "decimal": ("object", _NUMBERS - _INTEGERS),
    "boolean": ("object bool boolean", {exp.DataType.Type.BOOLEAN}),
    "date": ("object", {*exp.DataType.TEMPORAL_TYPES}),
    "datetime64": ("datetime64", {exp.DataType.Type.TIMESTAMPTZ}),
}
"""What DuckDB writes as PostgreSQL reads it: a kind of values, as pandas infers it, in these dtypes for these types."""


def _text(value: Any) -> str:
    """A scalar as PostgreSQL reads it from text."""
    if isinstance(value, bytes):
        return "\\x" + value.hex()
    return str(value)


def _json(value: Any) -> str:
    return value if isinstance(value, str) else json.dumps(value, default=str)


def _array(value: Any) -> str:
    if isinstance(value, str):
        return value
    items = (_array_item(item) for item in value)
    return "{" + ",".join(items) + "}"


def _array_item(item: Any) -> str:
    if isinstance(item, list | tuple | np.ndarray):
        return _array(item)
    if item is None:
        return "NULL"
    return '"' + _text(item).replace("\\", "\\\\").replace('"', '\\"') + '"'


def _integer(value: Any) -> str:
    """Integers with gaps arrive as floats: 1.0 is 1, and 1.5 is for PostgreSQL to refuse."""
    return str(int(value)) if float(value).is_integer() else str(value)


def _encoder(dtype: exp.DataType) -> Callable[[Any], str]:
    if dtype.is_type(exp.DataType.Type.JSON, exp.DataType.Type.JSONB):
        return _json
    if dtype.is_type(exp.DataType.Type.ARRAY):
        return _array
    if dtype.is_type(*exp.DataType.INTEGER_TYPES):
        return _integer
    return _text


def _texts(series: "pd.Series[Any]", dtype: exp.DataType) -> list[str | None]:
    """Values as PostgreSQL reads them from text."""
    encode = _encoder(dtype)
    return [None if none else encode(one) for one, none in zip(series, series.isna(), strict=True)]


def write_csv(engine: "duckdb.DuckDBPyConnection", frame: pd.DataFrame, types: ColumnTypes, path: str) -> None:
    """Write the rows as CSV: text in quotes, and nothing for NULL, NaN, NaT and NA.

    DuckDB writes the usual types; of the others Python makes texts first, value by value.
    """
    columns: dict[str, Any] = {}
    values, quoted = [], []
    for number, (name, dtype) in enumerate(types.items()):
        series, value = frame[name], f"c{number}"
        kind = pd.api.types.infer_dtype(series, skipna=True)
        dtypes, targets = _FAST.get(kind, ("", set()))
        if str(series.dtype).split("[")[0] not in dtypes.split() or dtype.this not in targets:
            series, kind = pd.Series(_texts(series, dtype), dtype=object), "string"
        elif isinstance(series.dtype, pd.DatetimeTZDtype):  # thrice as fast as DuckDB's own time zones
            series, value = series.dt.tz_convert(None), f"{value}::VARCHAR || '+00'"
        elif kind == "date":
            places, days = pd.factorize(series)  # few days, many rows; the place of what is missing is -1
            series = pd.Series(np.array([*map(str, days), None], dtype=object)[places])
        elif kind == "floating" and dtype.this in _INTEGERS:
            whole = f"CASE WHEN {value} = trunc({value}) THEN TRY_CAST({value} AS HUGEINT) END"
            value = f"coalesce({whole}::VARCHAR, {value}::VARCHAR)"
        if kind == "string":
            series = series.astype(object, copy=False)  # of many dtypes, some of which DuckDB does not know
            quoted.append(f"c{number}")
        columns[f"c{number}"] = series.array
        if series.dtype == object and (missing := series.isna()).any():
            columns[f"missing{number}"] = missing.array
            value = f"CASE WHEN NOT missing{number} THEN {value} END"
        values.append(f"{value} AS c{number}")
    engine.register("frame", pd.DataFrame(columns, copy=False))
    quotes = f"FORCE_QUOTE ({', '.join(quoted)}), " if quoted else ""
    engine.execute(
        f"COPY (SELECT {', '.join(values)} FROM frame) TO '{path}' "
        f"(FORMAT csv, HEADER false, {quotes}USE_TMP_FILE false)"
    )
    engine.unregister("frame")


@cache
def _engine() -> "duckdb.DuckDBPyConnection":
    """DuckDB, opened once, and only by runs that have many rows to write."""
    import duckdb

    engine = duckdb.connect(config={"threads": 1, "pandas_analyze_sample": 0})
    engine.execute("SET GLOBAL TimeZone = 'UTC'")
    return engine


def no_rows(types: ColumnTypes) -> exp.Select:
    """A query of these columns that returns nothing."""
    columns = (exp.cast(exp.null(), dtype).as_(name, quoted=True) for name, dtype in types.items())
    return exp.select(*columns).where(exp.false())


class FrameQuery(SourceQuery):
    """A DataFrame, which SQLMesh finds in a temporary table once it enters."""

    def __init__(self, frame: pd.DataFrame, fill: Callable[[], None], **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.frame, self._fill = frame, fill

    def __enter__(self) -> Any:
        self._fill()
        return super().__enter__()


@set_catalog()
class WarehouseAdapter(PostgresEngineAdapter):
    """PostgreSQL as SQLMesh drives it here."""

    def _get_source_queries(
        self,
        query_or_df: Any,
        target_columns_to_types: ColumnTypes | None,
        target_table: Any,
        **kwargs: Any,
    ) -> list[SourceQuery]:
        if isinstance(query_or_df, pd.DataFrame) and query_or_df.empty and target_columns_to_types:
            nothing = no_rows(target_columns_to_types)
            return [SourceQuery(query_factory=lambda: nothing)]
        return super()._get_source_queries(query_or_df, target_columns_to_types, target_table, **kwargs)

    def _df_to_source_queries(
        self,
        df: Any,
        target_columns_to_types: ColumnTypes,
        batch_size: int,
        target_table: Any,
        source_columns: list[str] | None = None,
    ) -> list[SourceQuery]:
        types = get_source_columns_to_types(target_columns_to_types, source_columns)
        temp_table = self._get_temp_table(target_table or "frame", table_only=True)
        query = exp.select(*self._casted_columns(target_columns_to_types, source_columns=source_columns))

        def fill() -> None:
            self._create_table_from_columns(temp_table, types, exists=False, table_kind="TEMPORARY TABLE")
            self._write(df, temp_table, types)

        return [
            FrameQuery(
                df,
                fill,
                query_factory=lambda: query.from_(temp_table),
                cleanup_func=lambda: self.drop_table(temp_table),
            )
        ]

    def _insert_append_source_queries(
        self,
        table_name: Any,
        source_queries: list[SourceQuery],
        target_columns_to_types: ColumnTypes | None = None,
        track_rows_processed: bool = True,
    ) -> None:
        if frame := self._frame_that_fits(table_name, source_queries, target_columns_to_types):
            self._write(*frame, track_rows_processed)
        else:
            super()._insert_append_source_queries(
                table_name, source_queries, target_columns_to_types, track_rows_processed
            )

    def _insert_overwrite_by_condition(
        self,
        table_name: Any,
        source_queries: list[SourceQuery],
        target_columns_to_types: ColumnTypes | None = None,
        where: Any = None,
        *args: Any,
        **kwargs: Any,
    ) -> None:
        frame = self._frame_that_fits(table_name, source_queries, target_columns_to_types)
        if frame and where is None:
            with self.transaction():
                self.delete_from(table_name, where=exp.true())
                self._write(*frame, track_rows_processed=True)
        else:
            super()._insert_overwrite_by_condition(
                table_name, source_queries, target_columns_to_types, where, *args, **kwargs
            )

    def _frame_that_fits(
        self, table_name: Any, source_queries: list[SourceQuery], types: ColumnTypes | None
    ) -> tuple[pd.DataFrame, exp.Table, ColumnTypes] | None:
        """A DataFrame that is all of the source, and whose types are those of the table: it needs no INSERT."""
        if len(source_queries) != 1 or not isinstance(source_queries[0], FrameQuery) or not types:
            return None
        frame, table = source_queries[0].frame, exp.to_table(table_name)
        has = self.columns(table)
        fits = all(name in frame and has.get(name) == dtype for name, dtype in types.items())
        return (frame, table, types) if fits else None

    def _write(
        self, frame: pd.DataFrame, table: exp.Table, types: ColumnTypes, track_rows_processed: bool = False
    ) -> None:
        """Append the rows of `frame` to a table."""
        columns = ", ".join(exp.to_identifier(name, quoted=True).sql(self.dialect) for name in types)
        target = f"{table.sql(self.dialect, identify=True)} ({columns})"
        with self.transaction():
            if len(frame) <= FEW_ROWS:
                rows = zip(*(_texts(frame[name], dtype) for name, dtype in types.items()), strict=True)
                execute_values(self.cursor, f"INSERT INTO {target.replace('%', '%%')} VALUES %s", rows)
            else:
                self._copy(frame, types, f"COPY {target} FROM STDIN (FORMAT csv)")
            if track_rows_processed:
                self._record_execution_stats(target, len(frame))

    def _copy(self, frame: pd.DataFrame, types: ColumnTypes, statement: str) -> None:
        """COPY `frame`, while it is encoded a chunk at a time."""
        failures: list[BaseException] = []

        def encode(writer: int) -> None:
            try:
                with _engine().cursor() as engine:
                    engine.execute("SET enable_progress_bar = false")
                    for start in range(0, len(frame), CHUNK_ROWS):
                        write_csv(engine, frame.iloc[start : start + CHUNK_ROWS], types, f"/dev/fd/{writer}")
            except BaseException as failure:  # goes on in the main thread
                failures.append(failure)
                _engine.cache_clear()  # after some errors DuckDB refuses all further work
            finally:
                os.close(writer)

        reader, writer = os.pipe()
        thread = threading.Thread(target=encode, args=(writer,))
        thread.start()
        try:
            with open(reader, "rb", buffering=0) as source:  # closed, it stops a writer whose rows are refused
                self.cursor.copy_expert(statement, source, 1 << 18)
        finally:
            thread.join()
        if failures:  # the rows came to an early end
            raise failures[0]

    def columns(self, table_name: Any, include_pseudo_columns: bool = False) -> ColumnTypes:
        """Names and types of a table's columns; asked before every audit, so without a syntax tree for the question."""
        table = exp.to_table(table_name)
        name = exp.table_(table.name, db=table.db, quoted=True).sql(self.dialect)
        self.cursor.execute(
            """
            SELECT attname, FORMAT_TYPE(atttypid, atttypmod)
            FROM pg_attribute
            WHERE attrelid = TO_REGCLASS(%s) AND attnum > 0 AND NOT attisdropped
            ORDER BY attnum
            """,
            [name],
        )
        columns = {column: _data_type(text).copy() for column, text in self.cursor.fetchall()}
        if not columns:
            raise SQLMeshError(f"there is no table {name}")
        return columns

    def create_view(self, view_name: Any, query_or_df: Any, *args: Any, **kwargs: Any) -> None:
        """CREATE OR REPLACE VIEW where PostgreSQL allows it, else DROP ... CASCADE that makes again what went along."""
        if not kwargs.get("replace", True) or kwargs.get("materialized"):
            super().create_view(view_name, query_or_df, *args, **kwargs)
            return
        with self.transaction():
            self.execute("SAVEPOINT replace_view")
            try:
                # past BasePostgresEngineAdapter, whose create_view drops first
                super(BasePostgresEngineAdapter, self).create_view(
                    view_name, query_or_df, *args, **{**kwargs, "replace": True}
                )
                self.execute("RELEASE SAVEPOINT replace_view")
                return
            except errors.InvalidTableDefinition as refusal:
                self.execute("ROLLBACK TO SAVEPOINT replace_view")
                reason = str(refusal.diag.message_primary)
            with guard.kept(self.cursor, exp.to_table(view_name), reason):
                super().drop_view(view_name)
                super(BasePostgresEngineAdapter, self).create_view(view_name, query_or_df, *args, **kwargs)

    def drop_view(self, view_name: Any, *args: Any, **kwargs: Any) -> None:
        """DROP VIEW ... CASCADE, unless it breaks what others have built."""
        with self.transaction(), guard.kept(self.cursor, exp.to_table(view_name), "it is removed"):
            super().drop_view(view_name, *args, **{**kwargs, "cascade": True})


@cache
def _data_type(text: str) -> exp.DataType:
    return exp.DataType.build(text, dialect="postgres", udt=True)


class WarehouseConnection(PostgresConnectionConfig):
    """`type: postgres` in config/gateways.yaml."""

    @property
    def _engine_adapter(self) -> type[EngineAdapter]:
        return WarehouseAdapter

    @property
    def _connection_factory(self) -> Callable[..., Any]:
        return _connect


def _connect(**kwargs: Any) -> connection:
    export_environment()  # SQLMesh takes back what config.py puts into the environment, and libpq needs it here
    if kwargs["user"] in HASHING:
        kwargs["options"] = f"{kwargs.get('options') or ''} {hashing_options()}"
    try:
        made: connection = psycopg2.connect(**kwargs)
        return made
    except psycopg2.OperationalError as error:
        explained = explain(error, kwargs["user"], kwargs["database"])
        raise SQLMeshError(str(explained)) from explained


class SecondConnection(DuckDBConnectionConfig):
    """`type: duckdb` in config/gateways.yaml."""

    @property
    def _cursor_init(self) -> Callable[[Any], None]:
        init = super()._cursor_init

        def with_key(cursor: "duckdb.DuckDBPyConnection") -> None:
            if init:
                init(cursor)
            if not (pads := hmac_pads()):
                raise SQLMeshError("there is no key for personal data; `make init` makes one")
            for name, pad in zip(("pii_inner", "pii_outer"), pads, strict=True):
                cursor.execute(f"SET VARIABLE {name} = '{pad}'")

        return with_key


def register() -> None:
    """Make SQLMesh use this adapter wherever its configuration says `type: postgres`, and the key on DuckDB."""
    sqlmesh_connection.CONNECTION_CONFIG_TO_TYPE["postgres"] = WarehouseConnection
    sqlmesh_connection.CONNECTION_CONFIG_TO_TYPE["duckdb"] = SecondConnection
