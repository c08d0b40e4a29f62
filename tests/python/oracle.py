"""An independent calculation: what the marts must hold, from the landing rows, by DuckDB.

Written from the definitions of the metrics (README, docs/decisions), not from the models: it looks at everything landed,
from scratch, every time.
"""

import csv
import io
from bisect import bisect_right
from datetime import date, timedelta
from decimal import ROUND_HALF_UP, Decimal
from pathlib import Path
from typing import Any

import duckdb
from psycopg2.extensions import connection

from scripts.contract import TABLES
from scripts.settings import ROOT

Rows = list[tuple[Any, ...]]

NEWEST = """
CREATE VIEW {name} AS
SELECT * EXCLUDE (n) FROM (
  SELECT *, row_number() OVER (PARTITION BY {key} ORDER BY {clock} _loaded_at DESC, _row_number DESC) AS n
  FROM landed_{name}
) WHERE n = 1 AND NOT _deleted
"""
KEYS = {
    "customers": "customer_id",
    "products": "product_id",
    "orders": "order_id",
    "order_items": "order_id, line_number",
    "refunds": "refund_id",
    "tickets": "ticket_id",
    "ticket_events": "event_id",
}

DEFINITIONS = """
CREATE TABLE o AS
SELECT
  *, (ordered_at AT TIME ZONE $zone)::DATE AS d, date_trunc('month', (ordered_at AT TIME ZONE $zone))::DATE AS m,
  status <> 'cancelled' AS counts
FROM orders;

-- Every amount is converted by itself and rounded to ten-thousandths; a cancelled order is worth nothing.
CREATE TABLE l AS
SELECT
  i.order_id, i.line_number, i.product_id, o.d, o.m, o.customer_id, o.counts,
  CASE WHEN o.counts THEN i.quantity ELSE 0 END AS units,
  CASE WHEN o.counts THEN round(i.gross_amount * r.rate, 4) ELSE 0 END AS gross,
  CASE WHEN o.counts THEN round(coalesce(i.discount_amount, 0) * r.rate, 4) ELSE 0 END AS discount,
  CASE WHEN o.counts THEN round(coalesce(i.tax_amount, 0) * r.rate, 4) ELSE 0 END AS tax
FROM order_items AS i JOIN o USING (order_id) LEFT JOIN rates AS r ON r.currency = o.currency AND r.d = o.d;

CREATE TABLE f AS
SELECT
  x.refund_id, x.order_id, (x.refunded_at AT TIME ZONE $zone)::DATE AS d,
  date_trunc('month', (x.refunded_at AT TIME ZONE $zone))::DATE AS m, o.d AS order_d,
  CASE WHEN x.order_id IS NULL THEN x.customer_id ELSE o.customer_id END AS customer_id,
  CASE
    WHEN x.order_id IS NULL THEN x.amount
    WHEN o.counts THEN round(x.amount * r.rate, 4)
    ELSE 0
  END AS refund
FROM refunds AS x LEFT JOIN o USING (order_id) LEFT JOIN rates AS r ON r.currency = o.currency AND r.d = o.d
WHERE x.order_id IS NULL OR o.order_id IS NOT NULL;

CREATE TABLE v AS  -- orders with their values
SELECT
  o.order_id, o.customer_id, o.d, o.m, o.counts,
  coalesce((SELECT sum(units) FROM l WHERE l.order_id = o.order_id), 0) AS units,
  coalesce((SELECT sum(gross) FROM l WHERE l.order_id = o.order_id), 0) AS gross,
  coalesce((SELECT sum(discount) FROM l WHERE l.order_id = o.order_id), 0) AS discount,
  coalesce((SELECT sum(tax) FROM l WHERE l.order_id = o.order_id), 0) AS tax,
  coalesce((SELECT sum(refund) FROM f WHERE f.order_id = o.order_id), 0) AS refund
FROM o;

CREATE TABLE days AS
WITH events AS (
  SELECT d FROM o
  UNION ALL SELECT (refunded_at AT TIME ZONE $zone)::DATE FROM refunds
  UNION ALL SELECT (occurred_at AT TIME ZONE $zone)::DATE FROM ticket_events
)
SELECT unnest(generate_series(min(d), max(d), INTERVAL 1 DAY))::DATE AS d, max(d) AS as_of FROM events;
"""

MARTS = {
    "marts.dim_customers": """
        SELECT customer_id, customer_id IN (SELECT customer_id FROM customers) AS is_known
        FROM (
          SELECT customer_id FROM customers
          UNION SELECT customer_id FROM orders
          UNION SELECT customer_id FROM refunds
          UNION SELECT customer_id FROM tickets
        ) WHERE customer_id IS NOT NULL
    """,
    "marts.dim_products": """
        SELECT product_id, product_id IN (SELECT product_id FROM products) AS is_known
        FROM (
          SELECT product_id FROM products
          UNION SELECT product_id FROM order_items
          UNION SELECT product_id FROM refunds
        ) WHERE product_id IS NOT NULL
    """,
    "marts.dim_dates": "SELECT d AS date_day, as_of AS as_of_date FROM days",
    "marts.fct_order_items": """
        SELECT order_id, line_number, product_id, customer_id, d AS order_date, counts AS is_counted, units,
          gross AS gross_revenue, discount AS discounts, gross - discount AS net_sales, tax
        FROM l
    """,
    "marts.fct_refunds": "SELECT refund_id, customer_id, d AS refund_date, order_d AS order_date, refund AS refunds FROM f",
    "marts.fct_orders": """
        SELECT order_id, customer_id, d AS order_date, counts AS is_counted, units, gross AS gross_revenue,
          discount AS discounts, gross - discount AS net_sales, refund AS refunds,
          gross - discount - refund AS net_revenue, tax
        FROM v
    """,
    "marts.customer_metrics": """
        SELECT customer_id, d AS order_date, sum(n) AS orders, sum(gross - discount) AS net_sales,
          sum(refund) AS refunds, sum(gross - discount - refund) AS net_revenue
        FROM (
          SELECT customer_id, d, 1 AS n, gross, discount, refund FROM v WHERE counts
          UNION ALL SELECT customer_id, d, 0, 0, 0, refund FROM f WHERE order_id IS NULL
        ) WHERE customer_id IS NOT NULL GROUP BY ALL
    """,
    "marts.daily_revenue": """
        SELECT
          d AS order_date,
          (SELECT count(*) FROM v WHERE v.d = days.d AND counts) AS orders,
          (SELECT count(DISTINCT customer_id) FROM v WHERE v.d = days.d AND counts) AS customers,
          coalesce((SELECT sum(units) FROM v WHERE v.d = days.d), 0) AS units,
          coalesce((SELECT sum(gross) FROM v WHERE v.d = days.d), 0) AS gross_revenue,
          coalesce((SELECT sum(gross - discount) FROM v WHERE v.d = days.d), 0) AS net_sales,
          coalesce((SELECT sum(refund) FROM f WHERE f.d = days.d), 0) AS refunds,
          coalesce((SELECT sum(tax) FROM v WHERE v.d = days.d), 0) AS tax
        FROM days
    """,
    "marts.monthly_revenue": """
        SELECT
          m AS month,
          last_day(m) <= max(as_of) AS is_complete,
          (SELECT count(*) FROM v WHERE v.m = x.m AND counts) AS orders,
          (SELECT count(DISTINCT customer_id) FROM v WHERE v.m = x.m AND counts) AS customers,
          coalesce((SELECT sum(gross - discount) FROM v WHERE v.m = x.m), 0) AS net_sales,
          coalesce((SELECT sum(refund) FROM f WHERE f.m = x.m), 0) AS refunds
        FROM (SELECT date_trunc('month', d)::DATE AS m, as_of FROM days) AS x GROUP BY m
    """,
    "marts.order_value_percentiles": """
        SELECT m AS month, count(*) AS orders,
          quantile_cont((gross - discount)::DOUBLE, 0.25)::DECIMAL(18, 4) AS p25,
          quantile_cont((gross - discount)::DOUBLE, 0.5)::DECIMAL(18, 4) AS p50,
          quantile_cont((gross - discount)::DOUBLE, 0.99)::DECIMAL(18, 4) AS p99
        FROM v WHERE counts GROUP BY m
    """,
    "ml.customer_segments": """
        SELECT customer_id, count(DISTINCT d) FILTER (n = 1) AS order_days, sum(net) AS net_revenue,
          CASE
            WHEN sum(net) > 75 * count(DISTINCT d) FILTER (n = 1) AND count(DISTINCT d) FILTER (n = 1) > 10 THEN 'high_value'
            WHEN sum(net) > 40 * count(DISTINCT d) FILTER (n = 1) THEN 'medium_value'
            ELSE 'low_value'
          END AS segment
        FROM (
          SELECT customer_id, d, 1 AS n, gross - discount - refund AS net FROM v WHERE counts
          UNION ALL SELECT customer_id, d, 0, -refund FROM f WHERE order_id IS NULL
        ) WHERE customer_id IS NOT NULL GROUP BY customer_id HAVING sum(n) > 0
    """,
}


def expected(warehouse: connection, folder: Path, zone: str, currency: str) -> dict[str, tuple[list[str], Rows]]:
    """For each mart the names of the columns calculated here and their rows, sorted. `folder` is scratch space."""
    engine = duckdb.connect()
    engine.execute("SET TimeZone = 'UTC'")
    for name, table in TABLES.items():
        file = folder / f"{name}.csv"
        with file.open("wb") as target, warehouse.cursor() as cursor:
            cursor.copy_expert(f"COPY landing.{name} TO STDOUT (FORMAT csv, HEADER)", target)
        types = {c.name: c.type for c in table.columns} | {
            "_deleted": "BOOLEAN", "_batch_id": "BIGINT", "_loaded_at": "TIMESTAMPTZ",
            "_source_file": "TEXT", "_row_number": "BIGINT",
        }  # fmt: skip
        engine.execute(
            f"CREATE TABLE landed_{name} AS SELECT * FROM read_csv(?, header = true, columns = {_struct(file, types)})",
            [str(file)],
        )
        clock = "" if name == "ticket_events" else "updated_at DESC,"
        engine.execute(NEWEST.format(name=name, key=KEYS[name], clock=clock))
    days = engine.execute(
        "SELECT DISTINCT currency, (ordered_at AT TIME ZONE $zone)::DATE FROM orders", {"zone": zone}
    ).fetchall()
    engine.execute("CREATE TABLE rates (currency TEXT, d DATE, rate DECIMAL(18, 8))")
    for code, day in days:
        engine.execute("INSERT INTO rates VALUES (?, ?, ?)", [code, day, rate(code, currency, day)])
    for statement in DEFINITIONS.split(";\n"):
        if statement.strip():
            engine.execute(statement, {"zone": zone} if "$zone" in statement else None)
    results = {}
    for mart, query in MARTS.items():
        relation = engine.execute(query)
        results[mart] = ([column[0] for column in relation.description or ()], canonical(relation.fetchall()))
    return results


def canonical(rows: Rows) -> Rows:
    """Rows in an order of their own, numbers by value."""
    return sorted((tuple(map(_plain, row)) for row in rows), key=repr)


def _plain(value: Any) -> Any:
    if isinstance(value, int | Decimal) and not isinstance(value, bool):
        return f"{Decimal(value):.4f}"
    return value


def _struct(file: Path, types: dict[str, str]) -> str:
    """DuckDB's `columns` in the order in which the file has them."""
    header = next(csv.reader(io.StringIO(file.open().readline())))
    return "{" + ", ".join(f"'{name}': '{types[name]}'" for name in header) + "}"


def _ecb() -> dict[date, dict[str, Decimal]]:
    with (ROOT / "seeds" / "exchange_rates.csv").open() as file:
        return {
            date.fromisoformat(row.pop("rate_date")): {k.upper(): Decimal(v) for k, v in row.items() if v}
            for row in csv.DictReader(file)
        }


ECB = _ecb()
ECB_DAYS = sorted(ECB)


def rate(code: str, into: str, day: date) -> Decimal | None:
    """Units of `into` for one unit of `code` at the last business day up to `day`, at most seven days back."""
    if code == into:
        return Decimal(1)
    position = bisect_right(ECB_DAYS, day)
    if not position or day - ECB_DAYS[position - 1] > timedelta(days=7):
        return None
    per_euro = ECB[ECB_DAYS[position - 1]] | {"EUR": Decimal(1)}
    if code not in per_euro or into not in per_euro:
        return None
    return (per_euro[into] / per_euro[code]).quantize(Decimal("0.00000001"), ROUND_HALF_UP)
