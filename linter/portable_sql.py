from sqlglot import exp
from sqlmesh.core import dialect
from sqlmesh.core.linter.rule import Rule, RuleViolation
from sqlmesh.core.model import Model

from linter import _sql

# Parts of a date that every engine counts alike.
SHARED_PARTS = {"YEAR", "QUARTER", "MONTH", "WEEK", "DAY", "HOUR", "MINUTE"}
PERCENTILES = (exp.PercentileCont, exp.PercentileDisc, exp.Mode)
SERIES = (exp.GenerateSeries, exp.ExplodingGenerateSeries)
INTERVALS = (exp.Interval, exp.MakeInterval)
NAIVE = (exp.DType.TIMESTAMP, exp.DType.TIMESTAMPNTZ)
DDL = (exp.DDL, exp.Alter, exp.Analyze, exp.Command, exp.Drop, exp.Grant, exp.Revoke, exp.Set)


class PortableSql(Rule):
    """SQL that fails on another engine, or means something else there, stays in macros."""

    def check_model(self, model: Model) -> list[RuleViolation] | None:
        if model.kind.is_external:
            return None
        faults = [
            f"column {name} {kind.sql('postgres')}: an instant is TIMESTAMPTZ"
            for name, kind in (model.columns_to_types_ or {}).items()
            if kind.is_type(*NAIVE)
        ]
        for statement in _sql.statements(model):
            is_macro = isinstance(statement, (dialect.MacroFunc, dialect.MacroVar, dialect.MacroDef))
            fault = next(statement.find_all(*DDL), None) if is_macro else statement
            if fault:
                faults.append(f"{_sql.text(fault)}: statements around the query are calls of macros")
        # What a macro is given is still the model's own SQL, so arguments are read like the rest.
        query = _sql.query(model)
        for node in query.walk() if query else ():
            if advice := _advice(node):
                faults.append(f"{_sql.text(node)}: {advice}")
        return [self.violation(fault) for fault in dict.fromkeys(faults)]


def _advice(node: exp.Expr) -> str | None:
    """What to write instead of a construct on which engines differ."""
    called = node.name.upper() if isinstance(node, exp.Anonymous) else ""
    if isinstance(node, dialect.JinjaQuery):
        return "Jinja hides its SQL from these rules, write SQLMesh macros"
    if isinstance(node, exp.With) and node.recursive:
        return "no recursive CTE, use a macro or a model that holds the result"
    if isinstance(node, PERCENTILES):
        return "use @percentile_agg, or a macro of its own"
    if isinstance(node, SERIES):
        return "use @date_spine, or a macro of its own"
    if isinstance(node, (exp.GroupConcat, exp.ArrayAgg)):
        return "use a macro, other engines lose the order"
    if isinstance(node, (exp.SHA2, exp.Encode)):
        return "use a macro, or MD5, which is the same everywhere"
    if _is_json(node) or "JSON" in called:
        return "use a macro, no two engines agree on JSON"
    if _is_regular_expression(node) or called.startswith("REGEXP_"):
        return "use a macro, engines differ in regular expressions"
    if isinstance(node, exp.AtTimeZone) or called == "TIMEZONE":
        return "use @local_date for days, a macro for other work on time zones"
    if isinstance(node, exp.Extract) and node.name.upper() not in SHARED_PARTS:
        return "use a macro, engines count this part differently"
    if isinstance(node, INTERVALS) or called == "AGE":
        return "use a macro for intervals; a day later is `date + 1`"
    if isinstance(node, exp.Sub) and _are_times(node):
        return "use a macro for the difference of times"
    if isinstance(node, exp.Div) and _are_integers(node):
        return "an integer by an integer loses its fraction, cast one side to DECIMAL(18, 0)"
    if isinstance(node, exp.TimeToStr) and set("09") & set(node.args["format"].name):
        return "use a macro, engines write numbers differently"
    if isinstance(node, exp.Cast) and node.to.is_type(*NAIVE):
        return "without its zone a time means nothing, use TIMESTAMPTZ"
    if isinstance(node, exp.Cast) and node.to.is_type(*exp.DataType.TEXT_TYPES) and _is_inexact(node.this):
        return "use a macro, engines write times and floats differently"
    return None


def _is_json(node: exp.Expr) -> bool:
    if isinstance(node, exp.Cast):
        return node.to.is_type(exp.DType.JSON, exp.DType.JSONB)
    return type(node).__name__.startswith(("JSON", "ParseJSON")) and not isinstance(
        node, (exp.JSONPath, exp.JSONPathPart)
    )


def _is_regular_expression(node: exp.Expr) -> bool:
    if isinstance(node, exp.Substring):  # SUBSTRING(x FROM 'pattern')
        start = node.args.get("start")
        return bool(start and start.is_string)
    return isinstance(node, exp.SimilarTo) or type(node).__name__.startswith("Regexp")


def _are_times(node: exp.Binary) -> bool:
    sides = (node.left.unnest(), node.right.unnest())
    return all(map(_is_date, sides)) or all(map(_sql.is_instant, sides))


def _is_date(node: exp.Expr) -> bool:
    if isinstance(node, dialect.MacroFunc):
        return node.name == "local_date"
    return node.is_type(exp.DType.DATE) or (isinstance(node, exp.Column) and node.name.endswith("_date"))


def _are_integers(node: exp.Binary) -> bool:
    sides = (node.left.unnest(), node.right.unnest())
    values = [side.this if isinstance(side, exp.Nullif) else side for side in sides]
    return all(value.is_type(*exp.DataType.INTEGER_TYPES) for value in values)


def _is_inexact(node: exp.Expr) -> bool:
    return _sql.is_instant(node) or node.is_type(*_sql.FLOATS)
