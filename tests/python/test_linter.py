"""The rules of linter/: each one speaks of a planted fault and is silent about the corrected model."""

import importlib
import shutil
from pathlib import Path
from types import SimpleNamespace
from typing import NamedTuple

import pytest
from sqlmesh import Context
from sqlmesh.core.audit import ModelAudit
from sqlmesh.core.config import Config, DuckDBConnectionConfig, GatewayConfig, ModelDefaultsConfig
from sqlmesh.core.config.linter import LinterConfig
from sqlmesh.core.dialect import parse
from sqlmesh.core.model import (
    Model,
    create_external_model,
    create_python_model,
    create_seed_model,
    load_sql_based_model,
)
from sqlmesh.core.model.common import ParsableSql
from sqlmesh.core.model.kind import SeedKind
from sqlmesh.utils.errors import LinterError

LINTER = Path(__file__).parents[2] / "linter"
RULES = sorted(file.stem for file in LINTER.glob("[!_]*.py"))
PROJECT = Path("/project")

# What the models above staging.orders would tell SQLMesh about its columns.
ORDERS = {
    "order_id": "TEXT",
    "ordered_at": "TIMESTAMPTZ",
    "loaded": "TIMESTAMPTZ",
    "order_date": "DATE",
    "due": "DATE",
    "quantity": "INT",
    "lines": "BIGINT",
    "amount": "DECIMAL(18, 4)",
    "weight": "DOUBLE",
}
AUDITS = {
    name: ModelAudit(name=name, query=ParsableSql(sql="SELECT 1 FROM @this_model WHERE FALSE"))
    for name in ("grain_is_unique", "amount_is_positive")
}


def sql_model(
    name: str = "marts.daily_sales",
    path: str = "marts/sales/daily_sales.sql",
    kind: str = "FULL",
    owner: str = "owner commerce",
    grain: str = "grain order_date",
    description: str = "One row per day. Answers: how much did we sell?",
    columns: str = "",
    described: str = "order_date = 'Local day.', net_sales = 'Sales after discounts.'",
    audits: str = "audits (grain_is_unique(columns := order_date))",
    query: str = "SELECT order_date, SUM(amount) AS net_sales FROM staging.orders GROUP BY order_date",
    after: str = "",
) -> Model:
    """A model that breaks no rule, but for what a test changes."""
    properties = [f"name {name}", f"kind {kind}", owner, grain, f"description '{description}'", columns]
    properties += [f"column_descriptions ({described})" if described else "", audits]
    text = f"MODEL ({', '.join(filter(None, properties))});\n{query};\n{after}"
    model = load_sql_based_model(
        parse(text, default_dialect="postgres"),
        path=PROJECT / "models" / path,
        dialect="postgres",
        default_catalog="warehouse",
        audit_definitions=AUDITS,
    )
    model.set_mapping_schema({'"warehouse"': {'"staging"': {'"orders"': ORDERS}}})
    return model


def select(expression: str, after: str = "") -> Model:
    """A model that returns one expression over staging.orders."""
    query = f"SELECT {expression} AS x FROM staging.orders"
    # Declared columns are not inferred, so the macros that a test names need not exist.
    return sql_model(columns="columns (x TEXT)", described="x = 'Value.'", query=query, after=after)


def python_model(name: str = "ml.scores", columns: str = "BIGINT", reads: str = "marts.fct_orders") -> Model:
    return create_python_model(
        name,
        "execute",
        {},
        path=PROJECT / "models" / "ml" / "scores.py",
        columns={"customer_id": "TEXT", "score": columns},
        depends_on={reads},
        dialect="postgres",
    )


def lint(rule: str, model: Model) -> str:
    """What a rule says about a model: nothing, if the model keeps it."""
    rule_class = getattr(importlib.import_module(f"linter.{rule}"), rule.title().replace("_", ""))
    context = SimpleNamespace(path=PROJECT, models_with_tests={"marts.daily_sales"})
    found = rule_class(context).check_model(model) or []
    return "\n".join(violation.violation_msg for violation in (found if isinstance(found, list) else [found]))


class Case(NamedTuple):
    rule: str
    faulty: Model
    fixed: Model
    says: str


CASES = [
    Case(
        "name_matches_path",
        sql_model(path="marts/sales/daily_revenue.sql"),
        sql_model(),
        "name it marts.daily_revenue, or move the file",
    ),
    Case(
        "name_matches_path",
        sql_model(path="staging/daily_sales.sql"),
        sql_model(path="marts/daily_sales.sql"),
        "name it staging.daily_sales",
    ),
    Case(
        "name_matches_path",
        sql_model("reports.daily_sales", path="reports/daily_sales.sql"),
        sql_model(),
        "no place for a model",
    ),
    Case(
        "name_matches_path",
        sql_model(path="marts/sales/daily/daily_sales.sql"),
        sql_model(),
        "no place for a model",
    ),
    Case(
        "name_matches_path",
        python_model("ml.predictions"),
        python_model("ml.scores"),
        "name it ml.scores",
    ),
    Case(
        "name_length",
        sql_model("marts." + 31 * "x"),
        sql_model("marts." + 30 * "x"),
        "31 characters",
    ),
    Case("owner_named", sql_model(owner=""), sql_model(), "add `owner <team>`"),
    Case("grain_declared", sql_model(grain=""), sql_model(), "add `grain <column>`"),
    Case("grain_declared", sql_model(grain="grain day"), sql_model(), "day, which the model does not return"),
    Case(
        "grain_declared",
        sql_model("raw.orders", grain=""),
        sql_model("raw.orders", grain="", kind="VIEW"),
        "no grain",
    ),
    Case(
        "grain_audited",
        sql_model(audits="audits (amount_is_positive)"),
        sql_model(),
        "add the audit grain_is_unique(columns := order_date)",
    ),
    Case(
        "grain_audited",
        sql_model(grain="grain (order_date, net_sales)"),
        sql_model(
            grain="grain (order_date, net_sales)",
            audits="audits (grain_is_unique(columns := (net_sales, order_date)))",
        ),
        "add the audit grain_is_unique(columns := (order_date, net_sales))",
    ),
    Case(
        "grain_audited",
        sql_model("staging.orders", audits=""),
        sql_model("staging.orders", audits="", kind="VIEW"),
        "nothing proves the grain",
    ),
    Case(
        "description_complete",
        sql_model(description="Sales of a day. Answers: how much did we sell?"),
        sql_model(),
        'begin with "One row per …"',
    ),
    Case(
        "description_complete",
        sql_model(description="One row per day."),
        sql_model("staging.daily_sales", description="One row per day."),
        'say "Answers: …"',
    ),
    Case(
        "columns_described",
        sql_model(described="order_date = 'Local day.'"),
        sql_model(),
        "not described: net_sales",
    ),
    Case(
        "columns_described",
        sql_model(described="order_date = 'Local day.', net_sales = ' '"),
        sql_model("staging.daily_sales", described=""),
        "not described: net_sales",
    ),
    Case(
        "columns_described",
        sql_model("staging.daily_sales", described="orders = 'Orders of the day.'"),
        sql_model("staging.daily_sales", described="net_sales = 'Sales of the day.'"),
        "no column of the model: orders",
    ),
    Case(
        "layer_order",
        sql_model(query="SELECT order_date, net_sales FROM raw.orders"),
        sql_model(query="SELECT order_date, net_sales FROM staging.orders JOIN marts.fct_orders USING (a)"),
        "marts reads raw.orders: marts may read staging, marts only",
    ),
    Case(
        "layer_order",
        sql_model("staging.orders", query="SELECT order_id FROM landing.orders"),
        sql_model("staging.orders", query="SELECT order_id FROM raw.orders JOIN seeds.order_statuses USING (s)"),
        "staging reads landing.orders",
    ),
    Case(
        "layer_order",
        sql_model("raw.orders", query="SELECT order_id FROM staging.orders"),
        sql_model("raw.orders", query="SELECT order_id FROM landing.orders"),
        "raw reads staging.orders",
    ),
    Case(
        "layer_order",
        python_model(reads="seeds.exchange_rates"),
        python_model(reads="ml.customer_features"),
        "ml reads seeds.exchange_rates",
    ),
    Case(
        "layer_order",
        sql_model(query="SELECT order_date, net_sales FROM marts_pii.customers"),
        sql_model("marts_pii.customers", query="SELECT order_date, net_sales FROM marts.dim_customers"),
        "marts reads marts_pii.customers",
    ),
    Case(
        "personal_data",
        sql_model(columns="columns (order_date DATE, contact_email TEXT)"),
        sql_model(columns="columns (order_date DATE, email_hash TEXT)"),
        "contact_email is personal data: show email_hash, or move the model to marts_pii",
    ),
    Case(
        "personal_data",
        select("UPPER(orders.full_name)"),
        sql_model(
            "marts_pii.daily_sales", columns="columns (x TEXT)", query="SELECT full_name AS x FROM staging.customers"
        ),
        "full_name is personal data",
    ),
    Case(
        "personal_data",
        select("MD5(email)"),
        sql_model("staging.daily_sales", columns="columns (x TEXT)", query="SELECT email AS x FROM raw.customers"),
        "email is personal data",
    ),
    Case("kinds_allowed", sql_model(kind="VIEW"), sql_model(), "every reader pay"),
    Case(
        "kinds_allowed",
        sql_model("staging.orders", kind="INCREMENTAL_UNMANAGED"),
        sql_model("staging.orders", kind="VIEW"),
        "a repeated run doubles rows",
    ),
    Case(
        "kinds_allowed",
        sql_model(kind="INCREMENTAL_BY_TIME_RANGE (time_column order_date)"),
        sql_model(),
        "loses rows that arrive after its lookback",
    ),
    Case(
        "decimals_sized",
        sql_model(query="SELECT order_date, amount::DECIMAL AS net_sales FROM staging.orders"),
        sql_model(query="SELECT order_date, amount::DECIMAL(18, 4) AS net_sales FROM staging.orders"),
        "CAST(orders.amount AS DECIMAL): write DECIMAL(precision, scale)",
    ),
    Case(
        "decimals_sized",
        sql_model(query="SELECT order_date, AVG(amount) AS net_sales FROM staging.orders"),
        sql_model(query="SELECT order_date, AVG(amount)::DECIMAL(18, 4) AS net_sales FROM staging.orders"),
        "column net_sales becomes a DOUBLE",
    ),
    Case(
        "decimals_sized",
        sql_model(query="SELECT (amount::REAL * 2)::DECIMAL(18, 4) AS net_sales FROM staging.orders"),
        sql_model("ml.scores", query="SELECT LN(amount::DOUBLE PRECISION)::DECIMAL(9, 6) AS x FROM staging.orders"),
        "money loses cents in it",
    ),
    Case("decimals_sized", python_model(columns="DOUBLE"), python_model(), "column score becomes a DOUBLE"),
    Case(
        "decimals_sized",
        python_model(columns="DECIMAL(18)"),
        python_model(columns="DECIMAL(18, 0)"),
        "column score is a DECIMAL of no size",
    ),
    Case(
        "no_bare_date_cast",
        select("ordered_at::DATE"),
        select("@local_date(ordered_at)"),
        "CAST(orders.ordered_at AS DATE) takes the session's time zone: use @local_date",
    ),
    Case("no_bare_date_cast", select("CAST(MIN(ordered_at) AS DATE)"), select("due::DATE"), "@local_date"),
    Case("no_bare_date_cast", select("loaded::DATE"), select("@local_date(loaded)::DATE"), "@local_date"),
    Case(
        "no_bare_date_cast",
        select("DATE_TRUNC('month', ordered_at)"),
        select("DATE_TRUNC('month', @local_date(ordered_at))"),
        "@local_date",
    ),
    Case("no_bare_date_cast", select("DATE(loaded)"), select("DATE(due)"), "@local_date"),
    Case(
        "no_bare_date_cast",
        select("EXTRACT(MONTH FROM ordered_at)"),
        select("EXTRACT(MONTH FROM order_date)"),
        "@local_date",
    ),
    Case("no_bare_date_cast", select("CURRENT_TIMESTAMP::DATE"), select("CURRENT_DATE"), "@local_date"),
    Case(
        "portable_sql",
        select("order_id", after="CREATE INDEX i ON @this_model USING btree (order_id)"),
        select("order_id", after="@create_index(order_id)"),
        "statements around the query are calls of macros",
    ),
    Case(
        "portable_sql",
        select("order_id", after="@IF(@runtime_stage = 'creating', GRANT SELECT ON x TO analyst)"),
        select("order_id", after="@IF(@runtime_stage = 'creating', @create_index(order_id))"),
        "statements around the query are calls of macros",
    ),
    Case(
        "portable_sql",
        sql_model(columns="columns (order_date DATE, sold_at TIMESTAMP)"),
        sql_model(columns="columns (order_date DATE, sold_at TIMESTAMPTZ)"),
        "column sold_at TIMESTAMP: an instant is TIMESTAMPTZ",
    ),
    Case(
        "portable_sql",
        sql_model(query="JINJA_QUERY_BEGIN; SELECT 1 AS order_date; JINJA_END"),
        sql_model(),
        "Jinja",
    ),
    Case(
        "portable_sql",
        sql_model(
            columns="columns (n INT)",
            query="WITH RECURSIVE days AS (SELECT 1 AS n UNION ALL SELECT n + 1 FROM days) SELECT n FROM days",
        ),
        sql_model(
            columns="columns (n INT)",
            query="WITH touched AS (@touched(order_id)), days AS (SELECT n FROM @date_spine(1, 2, 'day')) "
            "SELECT n FROM days JOIN touched USING (n)",
        ),
        "no recursive CTE",
    ),
    Case("unit_tested", sql_model("marts.untested"), sql_model(), "write tests/marts/…/test_untested.yaml"),
    Case("unit_tested", sql_model("staging.orders"), sql_model("raw.orders"), "no unit test"),
]


def test_every_rule_has_a_case() -> None:
    assert sorted({case.rule for case in CASES}) == RULES


@pytest.mark.parametrize("case", CASES, ids=lambda case: f"{case.rule}: {case.says}")
def test_a_rule_tells_a_fault_from_its_correction(case: Case) -> None:
    assert case.says in lint(case.rule, case.faulty)
    assert lint(case.rule, case.fixed) == ""


@pytest.mark.parametrize("rule", RULES)
def test_a_rule_is_silent_about_what_others_own(rule: str) -> None:
    landing = create_external_model("landing." + 40 * "x", columns={"sold_at": "TIMESTAMP", "price": "DOUBLE"})
    assert lint(rule, landing) == ""


def test_a_seed_needs_neither_a_unit_test_nor_a_grain_audit(tmp_path: Path) -> None:
    (tmp_path / "statuses.csv").write_text("status\nplaced\n")
    kind = SeedKind(path=str(tmp_path / "statuses.csv"))
    seed = create_seed_model("seeds.statuses", kind, grain="status")
    assert lint("unit_tested", seed) == lint("grain_audited", seed) == ""


@pytest.mark.parametrize(
    "expression",
    [
        "PERCENTILE_CONT(0.5) WITHIN GROUP (ORDER BY amount)",
        "PERCENTILE_DISC(0.5) WITHIN GROUP (ORDER BY amount)",
        "MODE() WITHIN GROUP (ORDER BY amount)",
        "GENERATE_SERIES(1, quantity)",
        "EXTRACT(EPOCH FROM loaded)",
        "DATE_PART('dow', due)",
        "EXTRACT(ISODOW FROM due)",
        "AGE(loaded, ordered_at)",
        "due - order_date",
        "@local_date(ordered_at) - order_date",
        "loaded - ordered_at",
        "due + INTERVAL '1 day'",
        "MAKE_INTERVAL(days => quantity)",
        "loaded AT TIME ZONE 'UTC'",
        "TIMEZONE('UTC', loaded)",
        "STRING_AGG(order_id, ',' ORDER BY order_id)",
        "ARRAY_AGG(order_id ORDER BY order_id)",
        "JSONB_BUILD_OBJECT('id', order_id)",
        "JSON_AGG(order_id)",
        "order_id::JSONB",
        "order_id ->> 'a'",
        "order_id #>> '{a}'",
        "order_id ~ '^[0-9]+$'",
        "order_id ~* '^a'",
        "NOT order_id SIMILAR TO 'a%'",
        "REGEXP_REPLACE(order_id, 'a', 'b')",
        "REGEXP_MATCHES(order_id, 'a')",
        "SUBSTRING(order_id FROM '^a')",
        "order_id::TIMESTAMP",
        "quantity / lines",
        "COUNT(*) / NULLIF(COUNT(DISTINCT order_id), 0)",
        "TO_CHAR(amount, 'FM999990.00')",
        "loaded::TEXT",
        "weight::TEXT",
        "SHA256(order_id)",
        "@percentile_agg(EXTRACT(EPOCH FROM loaded), [0.5])",
    ],
)
def test_engines_differ_in(expression: str) -> None:
    assert ": " in lint("portable_sql", select(expression))


@pytest.mark.parametrize(
    "expression",
    [
        "@percentile_agg(amount, [0.5, 0.9], minutes)",
        "@EACH([amount, weight], c -> SUM(c))",
        "due + 1",
        "EXTRACT(YEAR FROM due)",
        "TO_CHAR(due, 'YYYY-MM')",
        "DATE_TRUNC('month', due)",
        "loaded::TIMESTAMPTZ",
        "amount / quantity",
        "quantity::DECIMAL(18, 0) / lines",
        "amount - weight",
        "SUBSTRING(order_id, 1, 2)",
        "SPLIT_PART(order_id, '-', 1)",
        "MD5(order_id)",
        "order_id = ANY(ARRAY['a', 'b'])",
        "COUNT(*) FILTER(WHERE amount > 0)",
        "ROW_NUMBER() OVER (PARTITION BY order_id ORDER BY loaded DESC)",
        "quantity::TEXT",
    ],
)
def test_engines_agree_on(expression: str) -> None:
    assert lint("portable_sql", select(expression)) == ""


def test_sqlmesh_loads_the_rules_and_a_model_can_ignore_one(tmp_path: Path) -> None:
    shutil.copytree(LINTER, tmp_path / "linter", ignore=shutil.ignore_patterns("__pycache__"))
    model = tmp_path / "models" / "staging" / "orders.sql"
    model.parent.mkdir(parents=True)
    header = "name staging.orders, kind VIEW, grain order_id, description 'One row per order.'"
    model.write_text(f"MODEL ({header}, ignored_rules (unittested)); SELECT 1 AS order_id")
    context = Context(
        paths=str(tmp_path),
        config=Config(
            gateways={"duckdb": GatewayConfig(connection=DuckDBConnectionConfig())},
            model_defaults=ModelDefaultsConfig(dialect="postgres"),
            linter=LinterConfig(enabled=True, rules={"ALL"}, ignored_rules={"nomissingaudits", "nomissingunittest"}),
        ),
    )

    assert {rule.replace("_", "") for rule in RULES} <= set(context._linters[""].rules)
    assert [violation.rule.name for violation in context.lint_models(raise_on_error=False)] == ["ownernamed"]
    with pytest.raises(LinterError):
        context.plan(auto_apply=True, no_prompts=True)
