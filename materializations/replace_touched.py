"""Kind of every incremental model: recompute the keys that loads touched, and replace them in one transaction."""

from collections.abc import Iterable
from typing import Any

from sqlglot import exp
from sqlmesh import CustomMaterialization
from sqlmesh.core.model import CustomKind, Model
from sqlmesh.utils.errors import ConfigError

from macros.create_index import hashed_name
from macros.touched import TOUCHED, first_column

RECOMPUTED = "recomputed"


class ReplaceTouched(CustomMaterialization[CustomKind]):
    """Replaces the rows of the keys that its query's first CTE, `touched`, lists.

    The query filters its sources by `@touched(key)`; further columns of `touched` are its own. Rows of touched keys
    that do not come out the same are deleted, and the recomputed ones that are not there inserted: a key that has no
    rows any more disappears, and most rows stay where they are, which spares their indexes, the WAL and vacuum. Where
    the filter is absent, because the table is empty or new (macros/touched.py), everything is inserted plainly, in the
    order of `clustered_by`: what is read together then lies together, however large the table grows.
    """

    NAME = "replace_touched"

    def insert(
        self,
        table_name: str,
        query_or_df: Any,
        model: Model,
        is_first_insert: bool,
        render_kwargs: dict[str, Any],
        **kwargs: Any,
    ) -> None:
        key = model.custom_materialization_properties.get("key")
        if not isinstance(key, exp.Expr):
            raise ConfigError(f"{model.name}: replace_touched needs materialization_properties (key = <column>)")
        query = query_or_df
        touched = pop_touched(query)
        if touched is None:
            raise ConfigError(f"{model.name}: replace_touched needs a CTE named {TOUCHED} with the keys to replace")
        is_filtered = any(table.name == TOUCHED and not table.db for table in query.find_all(exp.Table))
        if not is_filtered:
            with self.adapter.transaction():
                self._drop_indexes(table_name)
                rows = clustered(query, model)
                self._replace_query_for_model(model, table_name, rows, render_kwargs, **kwargs)
                self._analyze(table_name)
            return
        with self.adapter.transaction():
            self._keep(TOUCHED, self._asked_once(touched, render_kwargs["execution_time"]))
            if self.adapter.fetchone(exp.select("1").from_(TOUCHED).limit(1)) is None:
                return
            columns = self.adapter.columns(table_name)  # the model's would be inferred from its query
            self._keep(
                RECOMPUTED, exp.select(*_columns(columns)).from_(query.subquery("rows", copy=False)), _grain(model)
            )
            is_touched = exp.column(key.name, "this", quoted=True).isin(
                query=exp.select(exp.column(key.name, quoted=True)).from_(TOUCHED)
            )
            this, new = exp.alias_(exp.to_table(table_name), "this", table=True), f"{RECOMPUTED} AS new"
            is_same = self._is_same(model, list(columns))
            stays = exp.Exists(this=exp.select("1").from_(new).where(is_same))
            self.adapter.execute(exp.delete(this, exp.and_(is_touched, exp.not_(stays))))
            there = exp.select(*_columns(columns, "this"), exp.true().as_("stays")).from_(this).where(is_touched)
            self.adapter.insert_append(
                table_name,
                exp.select(*_columns(columns, "new"))
                .from_(new)
                .join(there.subquery("this"), on=is_same, join_type="LEFT")
                .where(exp.column("stays", "this").is_(exp.null())),
                target_columns_to_types=columns,
            )
            self.adapter.drop_table(RECOMPUTED)

    def _asked_once(self, touched: exp.Query, execution_time: Any) -> exp.Query:
        """Read views of touches once a session: what an interval touched is the same for every model of a run.

        A view `..._touches` reads only what is finished before any model that reads it begins. It is kept by its name,
        the interval and the run; a run is known by its `execution_time`.
        """
        for source in [table for table in touched.find_all(exp.Table) if "_touches" in table.name]:
            loaded = _loaded(source)
            if loaded is None:
                continue
            rows = exp.select("*").from_(exp.table_(source.this, source.args.get("db"))).where(loaded)
            name = hashed_name(source.name, f"{rows.sql()} {execution_time}")
            if first_column(self.adapter, name) is None:
                self._keep(name, rows)
            source.replace(exp.alias_(exp.to_table(name), source.alias_or_name, table=True))
        return touched

    def _is_same(self, model: Model, columns: list[str]) -> exp.Expr:
        """That a row of `this` and one of `new` agree in all columns; by equality in the grain, which can be hashed."""
        grain = _grain(model)
        return exp.and_(
            *(
                (exp.EQ if name in grain else exp.NullSafeEQ)(
                    this=exp.column(name, "this", quoted=True), expression=exp.column(name, "new", quoted=True)
                )
                for name in columns
            )
        )

    def _keep(self, name: str, rows: exp.Query, keys: Iterable[str] = ()) -> None:
        """Rows as a temporary table; the query reads `touched` there instead of the CTE, and the audits after it.

        A table has statistics, by which PostgreSQL finds that it should look up these keys, not scan everything. Those
        of the columns that nobody joins by are not worth their cost.
        """
        create = exp.Create(
            this=exp.to_table(name),
            kind="TABLE",
            properties=exp.Properties(expressions=[exp.TemporaryProperty()]),
            expression=rows,
        )
        self.adapter.execute(create)
        self._analyze(name, keys)

    def _drop_indexes(self, table_name: str) -> None:
        """Into an empty table rows go far cheaper without them; @create_index, after the query, makes them again."""
        if self.adapter.dialect != "postgres":
            return
        table = exp.to_table(table_name)
        found = (
            exp.select("indexname")
            .from_("pg_indexes")
            .where(f"schemaname = '{table.db}'", f"tablename = '{table.name}'")
        )
        for (index,) in self.adapter.fetchall(found):
            self.adapter.execute(exp.Drop(this=exp.table_(index, db=table.db, quoted=True), kind="INDEX"))

    def _analyze(self, table_name: str, keys: Iterable[str] = ()) -> None:
        columns = ", ".join(exp.to_identifier(key, quoted=True).sql(self.adapter.dialect) for key in keys)
        table = exp.to_table(table_name).sql(self.adapter.dialect, identify=True)
        self.adapter.execute(f"ANALYZE {table}" + (f" ({columns})" if columns else ""))


def pop_touched(query: exp.Query) -> exp.Query | None:
    """Take the CTE `touched` out of a query, if it has one; returns the query of the CTE."""
    found = next((cte for cte in query.ctes if cte.alias == TOUCHED), None)
    if found is None:
        return None
    found.pop()
    if not query.ctes:
        query.set("with_", None)
    taken: exp.Query = found.this
    return taken


def clustered(query: exp.Query, model: Model) -> exp.Query:
    """The query in the order in which a first insert stores its rows: that of `clustered_by`, if there is one."""
    return query.order_by(*model.clustered_by) if model.clustered_by else query


def _loaded(source: exp.Table) -> exp.Between | None:
    """The interval that the SELECT which reads `source` asks for, by `@loaded()`."""
    select = source.find_ancestor(exp.Select)
    where = select and select.args.get("where")
    intervals = where.find_all(exp.Between) if where else ()
    return next((interval for interval in intervals if interval.this.name == "_loaded_at"), None)


def _grain(model: Model) -> list[str]:
    return [column.name for column in model.grains[0].find_all(exp.Column)] if model.grains else []


def _columns(names: Iterable[str], table: str | None = None) -> list[exp.Column]:
    return [exp.column(name, table, quoted=True) for name in names]
