from sqlglot import exp, parse_one
from sqlmesh import macro
from sqlmesh.core.macros import MacroEvaluator

from macros.engine import require_engine

# HMAC-SHA256 of :text with the key mixed into two pads, in hex; DuckDB's SHA256 gives hex, PostgreSQL's bytes.
FORMULAS = {
    "postgres": (
        "ENCODE(SHA256(DECODE({outer}, 'hex') || SHA256(DECODE({inner}, 'hex') || CONVERT_TO(:text, 'UTF8'))), 'hex')"
    ),
    "duckdb": "SHA256(UNHEX({outer}) || UNHEX(SHA256(UNHEX({inner}) || ENCODE(:text))))",
}
TEST_KEY = {"inner": "'" + "36" * 64 + "'", "outer": "'" + "5c" * 64 + "'"}
"""The pads of the empty key: of unit tests, whose expected hashes anybody can work out."""


@macro()
def keyed_hash(evaluator: MacroEvaluator, text: exp.Expr) -> exp.Expr:
    """HMAC-SHA256 of a text without its outer blanks, in lower case; in hex. NULL for NULL and for blanks.

    Equal texts have equal hashes, and without the key, which no database holds, nobody can tell the text from its hash:
    so personal data are joined and counted where they must not be read (docs/decisions/0027-personal-data.md).

    Example:
        >>> from macros.keyed_hash import keyed_hash
        >>> evaluator = MacroEvaluator(dialect="postgres")
        >>> evaluator.locals["__sqlmesh__vars__"] = {"engine": "postgres"}
        >>> print(keyed_hash(evaluator, exp.column("email")).sql("postgres"))
        ops.keyed_hash(NULLIF(LOWER(TRIM(email)), ''))
    """
    engine = require_engine(evaluator, "keyed_hash", "postgres", "duckdb")
    if evaluator.locals["runtime_stage"] == "testing":
        formula = FORMULAS[engine].format(**TEST_KEY)
    elif engine == "postgres":
        formula = "ops.keyed_hash(:text)"
    else:
        formula = FORMULAS[engine].format(inner="GETVARIABLE('pii_inner')", outer="GETVARIABLE('pii_outer')")
    normal = exp.func("NULLIF", exp.func("LOWER", exp.func("TRIM", text.copy())), exp.Literal.string(""))
    return exp.replace_placeholders(parse_one(formula, dialect=engine), text=normal)
