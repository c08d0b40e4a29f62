from sqlglot import exp
from sqlmesh import macro
from sqlmesh.core.macros import MacroEvaluator

from macros.engine import require_engine


@macro()
def grain_violations(evaluator: MacroEvaluator, columns: exp.Expr) -> exp.Expr:
    """The query of the audit grain_is_unique: rows mean that (columns) is not unique in the model.

    PostgreSQL keeps the truth in a unique index, so it is enough, and far cheaper, to ask whether a valid one over
    exactly these columns is there. Elsewhere the rows are counted.
    """
    engine = require_engine(evaluator, "grain_violations", "postgres", "duckdb")
    names = [column.name for column in columns.find_all(exp.Column)]
    if not names:
        raise ValueError("@grain_violations: columns := order_id, or (order_id, line_number)")
    if engine != "postgres":
        return (
            exp.select(*names, "COUNT(*) AS row_count")
            .from_(evaluator.locals["this_model"])
            .group_by(*names)
            .having("COUNT(*) > 1")
        )
    table = exp.to_table(evaluator.locals["this_model"], dialect=evaluator.dialect)
    indexed = (
        "(SELECT STRING_AGG(attname, ',' ORDER BY attname) FROM pg_attribute"
        " WHERE attrelid = pg_index.indrelid AND attnum = ANY(pg_index.indkey))"
    )
    proof = (
        exp.select("1")
        .from_("pg_index")
        .join("pg_class", on="pg_class.oid = pg_index.indrelid")
        .join("pg_namespace", on="pg_namespace.oid = pg_class.relnamespace")
        .where(
            exp.column("nspname").eq(table.db),
            exp.column("relname").eq(table.name),
            "indisunique AND indisvalid AND indpred IS NULL",
            exp.condition(indexed, dialect="postgres").eq(",".join(sorted(names))),
        )
    )
    message = f"no unique index on ({', '.join(names)})"
    return exp.select(exp.Literal.string(message).as_("violation")).where(exp.not_(exp.Exists(this=proof)))
