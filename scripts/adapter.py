"""SQLMesh's Postgres adapter, with four things it leaves open. With materializations/ the only place that touches
SQLMesh's private methods; tests/python/test_adapter.py fails when they move.

1. DataFrames go in by COPY. Stock SQLMesh builds them as VALUES in syntax trees: 36 s of CPU per 100,000 rows.
2. Views are replaced in place where their columns allow, so that the views and grants of analysts survive a promotion.
3. An empty DataFrame is a result with no rows, not an error.
4. A connection that is refused says why and what to do.
"""

import io
import json
from collections.abc import Callable
from typing import Any

import numpy as np
import pandas as pd
import psycopg2
import sqlmesh.core.config.connection as sqlmesh_connection
from psycopg2 import errors
from psycopg2.extensions import connection
from sqlglot import exp
from sqlmesh.core.config.connection import PostgresConnectionConfig
from sqlmesh.core.console import get_console
from sqlmesh.core.engine_adapter.base import EngineAdapter
from sqlmesh.core.engine_adapter.base_postgres import BasePostgresEngineAdapter
from sqlmesh.core.engine_adapter.postgres import PostgresEngineAdapter
from sqlmesh.core.engine_adapter.shared import SourceQuery, set_catalog
from sqlmesh.utils import get_source_columns_to_types
from sqlmesh.utils.errors import SQLMeshError

from scripts.settings import explain, export_environment

NULL = "\\N"
ESCAPES = str.maketrans({"\\": "\\\\", "\t": "\\t", "\n": "\\n", "\r": "\\r"})
CHUNK_ROWS = 50_000

ColumnTypes = dict[str, exp.DataType]


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


def copy_lines(frame: pd.DataFrame, types: ColumnTypes) -> str:
    """The rows of `frame` in PostgreSQL's COPY text format: tab between columns, `\\N` for NULL, NaN, NaT and NA."""
    columns = []
    for name, dtype in types.items():
        encode, series = _encoder(dtype), frame[name]
        columns.append(
            [
                NULL if missing else encode(value).translate(ESCAPES)
                for value, missing in zip(series, series.isna(), strict=True)
            ]
        )
    return "".join("\t".join(row) + "\n" for row in zip(*columns, strict=True))


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
            nothing = exp.select(
                *(exp.cast(exp.null(), dtype).as_(name, quoted=True) for name, dtype in target_columns_to_types.items())
            ).where(exp.false())
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
        copied = False

        def query_factory() -> exp.Query:
            nonlocal copied  # SQLMesh asks more than once, and for a table that it drops once
            if not copied:
                self._copy(df, temp_table, types)
                copied = True
            return exp.select(*self._casted_columns(target_columns_to_types, source_columns=source_columns)).from_(
                temp_table
            )

        return [SourceQuery(query_factory=query_factory, cleanup_func=lambda: self.drop_table(temp_table))]

    def _copy(self, frame: pd.DataFrame, table: exp.Table, types: ColumnTypes) -> None:
        """COPY `frame` into a new temporary table, a chunk at a time."""
        self._create_table_from_columns(table, types, exists=False, table_kind="TEMPORARY TABLE")
        columns = ", ".join(exp.to_identifier(name, quoted=True).sql(self.dialect) for name in types)
        statement = f"COPY {table.sql(self.dialect, identify=True)} ({columns}) FROM STDIN"
        with self.transaction():
            for start in range(0, len(frame), CHUNK_ROWS):
                lines = copy_lines(frame.iloc[start : start + CHUNK_ROWS], types)
                self.cursor.copy_expert(statement, io.StringIO(lines))

    def create_view(self, view_name: Any, query_or_df: Any, *args: Any, **kwargs: Any) -> None:
        """CREATE OR REPLACE VIEW where PostgreSQL allows it, else DROP ... CASCADE that names what goes along."""
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
                reason = refusal.diag.message_primary
            dependents = self._dependent_views(exp.to_table(view_name))
            if dependents:
                get_console().log_warning(
                    f"{exp.to_table(view_name).sql(self.dialect)} changes its columns ({reason}); "
                    f"views that read it are dropped with it: {', '.join(dependents)}"
                )
            super().create_view(view_name, query_or_df, *args, **kwargs)

    def _dependent_views(self, view: exp.Table) -> list[str]:
        """Views that read `view`, directly or through others, by name."""
        name = exp.table_(view.name, db=view.db, quoted=True).sql(self.dialect)
        rows = self.fetchall(
            f"""
            WITH RECURSIVE dependents (oid) AS (
              SELECT TO_REGCLASS({exp.Literal.string(name).sql(self.dialect)})::OID
              UNION
              SELECT pg_rewrite.ev_class
              FROM dependents
              JOIN pg_depend ON pg_depend.refobjid = dependents.oid
                AND pg_depend.refclassid = 'pg_class'::REGCLASS
                AND pg_depend.classid = 'pg_rewrite'::REGCLASS
              JOIN pg_rewrite ON pg_rewrite.oid = pg_depend.objid
            )
            SELECT oid::REGCLASS::TEXT FROM dependents
            WHERE oid <> TO_REGCLASS({exp.Literal.string(name).sql(self.dialect)})::OID
            ORDER BY 1
            """
        )
        return [row[0] for row in rows]


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
    try:
        made: connection = psycopg2.connect(**kwargs)
        return made
    except psycopg2.OperationalError as error:
        raise SQLMeshError(str(explain(error, kwargs["user"], kwargs["database"]))) from None


def register() -> None:
    """Make SQLMesh use this adapter wherever its configuration says `type: postgres`."""
    sqlmesh_connection.CONNECTION_CONFIG_TO_TYPE["postgres"] = WarehouseConnection
