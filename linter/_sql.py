"""The SQL that a model's author wrote, as trees: shared by the rules that read it."""

from sqlglot import exp
from sqlglot.errors import OptimizeError
from sqlglot.optimizer.annotate_types import annotate_types
from sqlglot.optimizer.qualify import qualify
from sqlglot.schema import MappingSchema
from sqlmesh.core.dialect import MacroFunc
from sqlmesh.core.model import Model, SqlModel

FLOATS = (exp.DType.FLOAT, exp.DType.DOUBLE)


def statements(model: Model) -> list[exp.Expr]:
    """What runs before and after the query, macros not expanded."""
    if model.kind.is_external:
        return []
    return [*model.pre_statements, *model.post_statements, *model.on_virtual_update]


def query(model: Model) -> exp.Expr | None:
    """The model's query, macros not expanded; columns carry their type where the models above tell it."""
    if not isinstance(model, SqlModel):
        return None
    if not isinstance(model.query, exp.Query):
        return model.query
    tree = model.query.copy()
    for cte in tree.find_all(exp.CTE):
        if isinstance(cte.this, MacroFunc):  # `touched AS (@touched(…))`: sqlglot wants a query here
            cte.set("this", exp.select(cte.this))
    schema = MappingSchema(model.mapping_schema, dialect=model.dialect)
    try:
        tree = qualify(
            tree,
            dialect=model.dialect,
            schema=schema,
            catalog=model.default_catalog,
            expand_stars=False,
            validate_qualify_columns=False,
            quote_identifiers=False,
        )
    except OptimizeError:  # USING on what a macro returns: types stay unknown, names still tell much
        return model.query
    return annotate_types(tree, schema=schema, dialect=model.dialect)


def is_instant(node: exp.Expr) -> bool:
    """Whether a value is a point in time: a TIMESTAMPTZ, or a column that is named like one."""
    return (
        node.is_type(exp.DType.TIMESTAMPTZ)
        or isinstance(node, exp.CurrentTimestamp)
        or (isinstance(node, exp.Column) and node.name.endswith("_at"))
    )


def text(node: exp.Expr) -> str:
    """A piece of SQL for a message, in one short line."""
    sql = node.sql("postgres", comments=False)
    return sql if len(sql) <= 60 else f"{sql[:59]}…"
