"""The project's models as plain SQL trees, for contenders that know nothing of SQLMesh.

Everything comes from SQLMesh's own rendering, so that a model, index or audit added to the project is in every
contender. Only Python models need SQL of their own, in `python_models/<model>.sql`.
"""

from collections.abc import Callable
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Literal

from sqlglot import exp, parse_one
from sqlmesh import Context
from sqlmesh.core.audit import Audit
from sqlmesh.core.macros import RuntimeStage
from sqlmesh.core.model import Model

from macros.create_index import declared_indexes
from macros.touched import TOUCHED
from materializations.replace_touched import ReplaceTouched, clustered, pop_touched
from scripts.adapter import no_rows
from scripts.errors import Exit, WarehouseError

KEPT = "kept"

PYTHON_MODELS = Path(__file__).parent / "python_models"

# The bounds of the interval while rendering: days that no model names. In the contenders' SQL they are settings of the
# session, so that the same text serves every day.
SINCE, UNTIL = datetime(1901, 2, 3, 12, tzinfo=UTC), datetime(2901, 4, 5, 12, tzinfo=UTC)
BOUNDS = {f"{SINCE:%Y-%m-%d}": "bench.since", f"{UNTIL:%Y-%m-%d}": "bench.until"}

Naming = Callable[[str], exp.Table]


@dataclass(frozen=True)
class Index:
    """A btree index of a model."""

    columns: tuple[str, ...]
    unique: bool


@dataclass(frozen=True)
class Check:
    """An audit as a model uses it, over the whole table. `arguments` are those that the model gave.

    `query` returns the offending rows.
    """

    name: str
    arguments: dict[str, exp.Expr]
    query: exp.Query
    blocking: bool


@dataclass(frozen=True)
class Mart:
    """A model of the project. Tables in its queries carry the project's names (`marts.daily_revenue`).

    `full` computes all rows. An `incremental` one has its `key`, the query of the touched keys, and in `increment` the
    query of the rows of those keys, which reads them from a table `touched`: to be made, as replace_touched does. Where
    it also reads what the table had of those keys, it finds that in a table `KEPT`.
    """

    name: str
    kind: Literal["view", "full", "incremental", "seed"]
    types: dict[str, exp.DataType]
    full: exp.Query | None = None
    key: str = ""
    touched: exp.Query | None = None
    increment: exp.Query | None = None
    indexes: list[Index] = field(default_factory=list)
    checks: list[Check] = field(default_factory=list)

    @property
    def keeps(self) -> bool:
        """Whether the increment reads `KEPT`, the rows of the touched keys as they were."""
        return bool(self.increment and any(table.name == KEPT for table in self.increment.find_all(exp.Table)))

    @property
    def parents(self) -> list[str]:
        """The tables that its rows come from, itself left out."""
        named = {name for query in (self.full, self.touched, self.increment) if query for name in _names(query)}
        return sorted(named - {self.name})


class _NoTable:
    """An adapter of an empty database: what a model is rendered for at its first build."""

    def table_exists(self, *_: Any) -> bool:
        return False


def derive(context: Context) -> list[Mart]:
    """Every model of the project but external ones, parents first. Raises WarehouseError for one it cannot express."""
    ordered = [context.get_model(name) for name in context.dag.sorted]
    return [_derived(model) for model in ordered if model and not model.kind.is_external]


def _derived(model: Model) -> Mart:
    name = f"{model.schema_name}.{model.view_name}"
    types = model.columns_to_types_or_raise
    checks = [_check(model, audit, arguments) for audit, arguments in model.audits_with_args]
    if model.kind.is_seed:
        return Mart(name, "seed", types, checks=checks)
    if model.kind.is_view:
        return Mart(name, "view", types, _rendered(model), checks=checks)
    indexes = [Index(tuple(columns), unique=is_unique) for columns, is_unique in declared_indexes(model)]
    if model.is_python:
        return Mart(name, "full", types, _python_model(name), indexes=indexes, checks=checks)
    if model.kind.is_full:
        return Mart(name, "full", types, _rendered(model), indexes=indexes, checks=checks)
    key = model.custom_materialization_properties.get("key") if model.kind.is_custom else None
    if not isinstance(key, exp.Expr) or getattr(model.kind, "materialization", None) != ReplaceTouched.NAME:
        raise _unknown(name, f"is of kind {model.kind.name}, which the benchmark cannot express")
    full = _rendered(model, runtime_stage=RuntimeStage.EVALUATING, engine_adapter=_NoTable())
    pop_touched(full)
    _instead_of_itself(full, name, no_rows(types).subquery())
    increment = _rendered(model)
    touched = pop_touched(increment)
    _instead_of_itself(increment, name, exp.to_table(KEPT))
    if touched is None:
        raise _unknown(name, f"has no CTE {TOUCHED}")
    return Mart(name, "incremental", types, clustered(full, model), key.name, touched, increment, indexes, checks)


def _instead_of_itself(query: exp.Query, name: str, rows: exp.Expr) -> None:
    for table in _tables(query):
        if f"{table.db}.{table.name}" == name:
            table.replace(exp.alias_(rows.copy(), table.alias_or_name, table=True))


def _unknown(name: str, fault: str) -> WarehouseError:
    return WarehouseError(f"{name} {fault}", "teach bench/derive.py the new form", Exit.BUG)


def _rendered(model: Model, **kwargs: Any) -> exp.Query:
    return _generic(model.render_query_or_raise(start=SINCE, end=UNTIL, execution_time=UNTIL, **kwargs))


def _check(model: Model, audit: Audit, arguments: dict[str, exp.Expr]) -> Check:
    given: dict[str, Any] = {name: value for name, value in arguments.items() if name != "blocking"}
    query = model.render_audit_query(audit, start=SINCE, end=UNTIL, execution_time=UNTIL, **given)
    blocking = arguments["blocking"] == exp.true() if "blocking" in arguments else audit.blocking
    return Check(audit.name, given, _generic(query), blocking)


def _generic(query: exp.Query) -> exp.Query:
    """A copy without the database's name, and with the interval's bounds as settings of the session."""

    def replace(node: exp.Expr) -> exp.Expr:
        if isinstance(node, exp.Table):
            node.set("catalog", None)
        elif isinstance(node, exp.Literal) and node.is_string and node.name[:10] in BOUNDS:
            return exp.func("CURRENT_SETTING", exp.Literal.string(BOUNDS[node.name[:10]]))
        return node

    made = query.copy().transform(replace)
    assert isinstance(made, exp.Query)
    return made


def _python_model(name: str) -> exp.Query:
    path = PYTHON_MODELS / f"{name}.sql"
    if not path.exists():
        raise WarehouseError(
            f"{name} is a Python model without SQL for the other contenders", f"write {path}", Exit.BUG
        )
    query = parse_one(path.read_text(), dialect="postgres")
    assert isinstance(query, exp.Query)
    return query


def _tables(query: exp.Expr) -> list[exp.Table]:
    return [table for table in query.find_all(exp.Table) if table.db]


def _names(query: exp.Expr) -> set[str]:
    return {f"{table.db}.{table.name}" for table in _tables(query)}


def renamed(query: exp.Query, naming: Naming) -> str:
    """The query as PostgreSQL's SQL, its tables named anew; landing's stay."""
    query = query.copy()
    for table in _tables(query):
        if table.db != "landing":
            new = naming(f"{table.db}.{table.name}")
            new.set("alias", table.args.get("alias") or exp.TableAlias(this=exp.to_identifier(table.name, quoted=True)))
            table.replace(new)
    return query.sql("postgres", pretty=True, comments=False)
