import hashlib
from collections.abc import Iterator

from sqlglot import exp
from sqlmesh import macro
from sqlmesh.core.macros import MacroEvaluator
from sqlmesh.core.model import Model

STORED_STAGES = ("creating", "evaluating")


@macro(metadata_only=True)
def create_index(evaluator: MacroEvaluator, *columns: exp.Expr, unique: exp.Expr | None = None) -> exp.Expr | None:
    """After the rows are in: an index on the model's physical table, once; nothing on engines without indexes.

    @create_index(order_id, unique := TRUE); @create_index(customer_id, order_date)

    The name holds a hash of table and columns: a fixed name with IF NOT EXISTS leaves the next version of the table
    without it. An index that exists is found without a lock, so that concurrent batches cannot wait for each other.

    Example:
        >>> from macros.create_index import index_name
        >>> index_name("fct_orders__123", ["customer_id", "order_date"])
        'ix_fct_orders__123_cec6e02c'
    """
    names = [column.name for column in columns if isinstance(column, exp.Column)]
    if not names or len(names) != len(columns):
        raise ValueError("@create_index takes column names: @create_index(customer_id, order_date, unique := TRUE)")
    if evaluator.locals["runtime_stage"] not in STORED_STAGES or evaluator.var("engine") != "postgres":
        return None
    table = exp.to_table(evaluator.locals["this_model"], dialect=evaluator.dialect)
    index = exp.to_identifier(index_name(table.name, names), quoted=True)
    target = exp.table_(table.this, db=table.args.get("db"))
    found = (
        exp.select("1")
        .from_("pg_indexes")
        .where(exp.column("schemaname").eq(table.db), exp.column("indexname").eq(index.name))
    )
    adapter = evaluator.engine_adapter
    if adapter.fetchone(found) is not None or not adapter.table_exists(table):
        return None
    return exp.Create(
        this=exp.Index(
            this=index,
            table=target,
            params=exp.IndexParameters(
                using=exp.Var(this="btree"),
                columns=[exp.Ordered(this=exp.column(name, quoted=True), nulls_first=False) for name in names],
            ),
        ),
        kind="INDEX",
        unique=unique is not None and unique == exp.true(),
        exists=True,
    )


def index_name(table: str, columns: list[str]) -> str:
    """A name that no other table's index has."""
    return f"ix_{hashed_name(table, ','.join(columns))}"


def hashed_name(table: str, text: str) -> str:
    """A table's name and a hash that tells it apart by a text: of at most 59 bytes, where PostgreSQL allows 63."""
    digest = hashlib.md5(f"{table}|{text}".encode(), usedforsecurity=False).hexdigest()[:8]
    return f"{table[:50]}_{digest}"


def declared_indexes(model: Model) -> Iterator[tuple[list[str], bool]]:
    """Columns of each @create_index of a model, and whether it is unique."""
    for call in (node for statement in model.post_statements for node in statement.find_all(exp.Anonymous)):
        if call.name.lower() == "create_index":
            columns = [one.name for one in call.expressions if isinstance(one, exp.Column)]
            yield columns, any(one == exp.true() for one in call.find_all(exp.Boolean))
