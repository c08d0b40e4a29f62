"""Kind of every incremental model: recompute the keys that loads touched, and replace them in one transaction."""

from typing import Any

from sqlglot import exp
from sqlmesh import CustomMaterialization
from sqlmesh.core.model import CustomKind, Model
from sqlmesh.utils.errors import ConfigError

TOUCHED = "touched"


class ReplaceTouched(CustomMaterialization[CustomKind]):
    """Replaces the rows of the keys that its query's first CTE, `touched`, lists.

    The query filters its sources by `@touched(key)`. Rows of touched keys are deleted and the recomputed ones inserted,
    so a key that has no rows any more disappears. Where the filter is absent, because the table is empty or new
    (macros/touched.py), everything is inserted plainly, in the order of `clustered_by`: what is read together then lies
    together, however large the table grows.
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
        query = query_or_df.copy()
        touched = next((cte for cte in query.ctes if cte.alias == TOUCHED), None)
        if touched is None:
            raise ConfigError(f"{model.name}: replace_touched needs a CTE named {TOUCHED} with the keys to replace")
        is_filtered = any(table.name == TOUCHED and not table.db for table in query.find_all(exp.Table))
        touched.pop()
        if not query.ctes:
            query.set("with_", None)
        if not is_filtered:
            with self.adapter.transaction():
                self._drop_indexes(table_name)
                if model.clustered_by:
                    query = query.order_by(*model.clustered_by)
                self._replace_query_for_model(model, table_name, query, render_kwargs, **kwargs)
                self._analyze(table_name)
            return
        with self.adapter.transaction():
            self._keep(touched.this)
            if self.adapter.fetchone(exp.select("1").from_(TOUCHED).limit(1)) is None:
                return
            columns, _ = self._get_target_and_source_columns(model, table_name, render_kwargs=render_kwargs)
            key_column = exp.column(key.name, quoted=True)
            self.adapter.delete_from(table_name, key_column.isin(query=exp.select(key_column).from_(TOUCHED)))
            self.adapter.insert_append(table_name, query, target_columns_to_types=columns)

    def _keep(self, keys: exp.Query) -> None:
        """The touched keys as a temporary table, which the query reads instead of the CTE, and the audits after it.

        A table has statistics, by which PostgreSQL finds that it should look up these keys, not scan everything.
        """
        create = exp.Create(
            this=exp.to_table(TOUCHED),
            kind="TABLE",
            properties=exp.Properties(expressions=[exp.TemporaryProperty()]),
            expression=keys,
        )
        self.adapter.execute(create)
        self._analyze(TOUCHED)

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

    def _analyze(self, table_name: str) -> None:
        self.adapter.execute(f"ANALYZE {exp.to_table(table_name).sql(self.adapter.dialect, identify=True)}")
