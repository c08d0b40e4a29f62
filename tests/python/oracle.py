"""An independent calculation: what the marts must hold, from the landing rows, by DuckDB.

Written from the definitions of the metrics (README, docs/decisions), not from the models: it looks at everything landed,
from scratch, every time.
"""

import csv
import hashlib
import hmac
import io
from bisect import bisect_right
from datetime import UTC, date, datetime, timedelta
from decimal import ROUND_HALF_UP, Decimal
from pathlib import Path
from typing import Any

import duckdb
from psycopg2.extensions import connection

from scripts.contract import TABLES
from scripts.settings import ROOT, pii_key

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

# Exact, halves away from zero. percentile: continuous, of the values as a list; NULL of none.
FUNCTIONS = """
CREATE MACRO between_two(xs, place) AS round(
  xs[floor(place)::BIGINT + 1]
  + (place - floor(place)) * (xs[ceil(place)::BIGINT + 1] - xs[floor(place)::BIGINT + 1]), 4
)::DECIMAL(18, 4);
CREATE MACRO percentile(xs, level) AS between_two(
  list_sort(list_filter(xs, lambda x: x IS NOT NULL))::DECIMAL(18, 4)[],
  level::DECIMAL(3, 2) * (len(list_filter(xs, lambda x: x IS NOT NULL)) - 1)::DECIMAL(12, 0)
);
CREATE MACRO millionths(x) AS abs(x::DECIMAL(28, 6) * 1000000)::HUGEINT;
CREATE MACRO ratio(a, b) AS CASE WHEN b <> 0 THEN
  sign(a) * sign(b) * ((millionths(a) * 20000 + millionths(b)) // (millionths(b) * 2))::DECIMAL(18, 0)
    * 0.0001::DECIMAL(5, 4) END;
CREATE MACRO fifth(up_to, of_all) AS (5 * up_to + of_all - 1) // of_all;
CREATE MACRO minutes(a, b) AS ratio(epoch_us(b) - epoch_us(a), 60000000);
"""

DEFINITIONS = """
CREATE TABLE o AS
SELECT
  *, (ordered_at AT TIME ZONE $zone)::DATE AS d, date_trunc('month', (ordered_at AT TIME ZONE $zone))::DATE AS m,
  status <> 'cancelled' AS counts
FROM orders;

-- Every amount is converted by itself and rounded to ten-thousandths; a cancelled order is worth nothing.
CREATE TABLE l AS
SELECT
  i.order_id, i.line_number, i.product_id, o.d, o.m, o.customer_id, o.counts, o.currency, i.quantity, i.gross_amount,
  coalesce(i.discount_amount, 0) AS discount_amount, coalesce(i.tax_amount, 0) AS tax_amount,
  CASE WHEN o.counts THEN i.quantity ELSE 0 END AS units,
  CASE WHEN o.counts THEN round(i.gross_amount * r.rate, 4) ELSE 0 END AS gross,
  CASE WHEN o.counts THEN round(coalesce(i.discount_amount, 0) * r.rate, 4) ELSE 0 END AS discount,
  CASE WHEN o.counts THEN round(coalesce(i.tax_amount, 0) * r.rate, 4) ELSE 0 END AS tax
FROM order_items AS i JOIN o USING (order_id) LEFT JOIN rates AS r ON r.currency = o.currency AND r.d = o.d;

CREATE TABLE f AS
SELECT
  x.refund_id, x.order_id, x.line_number, x.refunded_at, x.reason, x.quantity, x.amount,
  (x.refunded_at AT TIME ZONE $zone)::DATE AS d,
  date_trunc('month', (x.refunded_at AT TIME ZONE $zone))::DATE AS m, o.d AS order_d,
  CASE WHEN x.order_id IS NULL THEN (x.refunded_at AT TIME ZONE $zone)::DATE ELSE o.d END AS basis_d,
  coalesce(x.product_id, i.product_id) AS product_id,
  CASE WHEN x.order_id IS NULL THEN $currency ELSE o.currency END AS currency,
  CASE WHEN x.order_id IS NULL THEN 1 ELSE r.rate END AS rate,
  x.order_id IS NULL OR o.counts AS counts,
  x.order_id IS NOT NULL AND x.refunded_at < o.ordered_at AS is_early,
  x.order_id IS NOT NULL AND x.amount > coalesce(
    (SELECT sum(gross_amount - discount_amount) FROM l WHERE l.order_id = x.order_id), 0
  ) AS is_large,
  CASE WHEN x.order_id IS NULL THEN x.customer_id ELSE o.customer_id END AS customer_id,
  CASE
    WHEN x.order_id IS NULL THEN x.amount
    WHEN o.counts THEN round(x.amount * r.rate, 4)
    ELSE 0
  END AS refund
FROM refunds AS x LEFT JOIN o USING (order_id) LEFT JOIN rates AS r ON r.currency = o.currency AND r.d = o.d
LEFT JOIN order_items AS i ON i.order_id = x.order_id AND i.line_number = x.line_number
WHERE x.order_id IS NULL OR o.order_id IS NOT NULL;

CREATE TABLE v AS  -- orders with their values
SELECT
  o.order_id, o.customer_id, o.d, o.m, o.counts, o.status, o.currency, r.rate, o.ordered_at,
  coalesce(o.shipping_amount, 0) AS shipping_amount,
  CASE WHEN o.counts THEN round(coalesce(o.shipping_amount, 0) * r.rate, 4) ELSE 0 END AS shipping,
  (SELECT count(*) FROM l WHERE l.order_id = o.order_id) AS lines,
  coalesce((SELECT sum(gross_amount) FROM l WHERE l.order_id = o.order_id), 0) AS gross_amount,
  coalesce((SELECT sum(discount_amount) FROM l WHERE l.order_id = o.order_id), 0) AS discount_amount,
  coalesce((SELECT sum(tax_amount) FROM l WHERE l.order_id = o.order_id), 0) AS tax_amount,
  coalesce((SELECT sum(amount) FROM f WHERE f.order_id = o.order_id), 0) AS refund_amount,
  coalesce((SELECT sum(units) FROM l WHERE l.order_id = o.order_id), 0) AS units,
  coalesce((SELECT sum(gross) FROM l WHERE l.order_id = o.order_id), 0) AS gross,
  coalesce((SELECT sum(discount) FROM l WHERE l.order_id = o.order_id), 0) AS discount,
  coalesce((SELECT sum(tax) FROM l WHERE l.order_id = o.order_id), 0) AS tax,
  coalesce((SELECT sum(refund) FROM f WHERE f.order_id = o.order_id), 0) AS refund
FROM o LEFT JOIN rates AS r ON r.currency = o.currency AND r.d = o.d;

CREATE TABLE days AS
WITH events AS (
  SELECT d FROM o
  UNION ALL SELECT (refunded_at AT TIME ZONE $zone)::DATE FROM refunds
  UNION ALL SELECT (occurred_at AT TIME ZONE $zone)::DATE FROM ticket_events
  UNION ALL SELECT (created_at AT TIME ZONE $zone)::DATE FROM tickets
)
SELECT unnest(generate_series(min(d), max(d), INTERVAL 1 DAY))::DATE AS d, max(d) AS as_of FROM events;

CREATE MACRO is_over(month) AS last_day(month) <= (SELECT max(as_of) FROM days);

CREATE TABLE months AS SELECT date_trunc('month', d)::DATE AS m, max(as_of) AS as_of FROM days GROUP BY 1;

-- What a customer did on a day, and the segment it had reached by then (75, 10 and 40: config/warehouse.yaml).
CREATE TABLE c AS
WITH days_of AS (
  SELECT customer_id, d, sum(n) AS orders, sum(units) AS units, sum(gross) AS gross, sum(discount) AS discount,
    sum(refund) AS refund, sum(tax) AS tax
  FROM (
    SELECT customer_id, d, 1 AS n, units, gross, discount, refund, tax FROM v WHERE counts
    UNION ALL SELECT customer_id, d, 0, 0, 0, 0, refund, 0 FROM f WHERE order_id IS NULL
  ) WHERE customer_id IS NOT NULL GROUP BY ALL
)
SELECT *,
  CASE WHEN worth > 75 * n AND n > 10 THEN 'high_value' WHEN worth > 40 * n THEN 'medium_value' ELSE 'low_value' END
    AS segment
FROM (
  SELECT x.*,
    (SELECT sum(gross - discount - refund) FROM days_of AS y WHERE y.customer_id = x.customer_id AND y.d <= x.d) AS worth,
    (SELECT count(*) FROM days_of AS y WHERE y.customer_id = x.customer_id AND y.d <= x.d AND y.orders > 0) AS n
  FROM days_of AS x
);

-- The first counted order ever, and the months with one.
CREATE TABLE firsts AS SELECT customer_id, min(m) AS cohort FROM v WHERE counts AND customer_id IS NOT NULL GROUP BY 1;
CREATE TABLE active AS
SELECT customer_id, m, count(*) AS orders FROM v WHERE counts AND customer_id IS NOT NULL GROUP BY ALL;

-- What a product brought in, each part on its own line.
CREATE TABLE p AS
SELECT product_id, m, order_id, units, gross, discount, 0 AS refund FROM l WHERE counts
UNION ALL
SELECT f.product_id, coalesce(o.m, f.m), NULL, 0, 0, 0, f.refund
FROM f LEFT JOIN o ON o.order_id = f.order_id WHERE f.counts AND f.product_id IS NOT NULL;

CREATE TABLE t AS
SELECT *, times_solved > 1 AS reopened, created_at + to_minutes(target) AS due,
  CASE
    WHEN target IS NULL THEN NULL
    WHEN replied IS NOT NULL THEN replied <= due
    WHEN (due AT TIME ZONE $zone)::DATE <= (SELECT max(as_of) FROM days) THEN false
  END AS met
FROM (
SELECT t.ticket_id, t.customer_id, t.order_id, t.channel, t.priority AS source_priority, t.category, t.status,
  t.created_at, (t.created_at AT TIME ZONE $zone)::DATE AS d,
  date_trunc('month', t.created_at AT TIME ZONE $zone)::DATE AS m,
  coalesce((SELECT any_value(priority) FROM sla WHERE priority = lower(trim(t.priority))), 'other') AS priority,
  (SELECT any_value(minutes) FROM sla WHERE priority = lower(trim(t.priority))) AS target,
  (SELECT min(occurred_at) FROM ticket_events AS e WHERE e.ticket_id = t.ticket_id AND event_type = 'agent_reply') AS replied,
  (SELECT min(occurred_at) FROM ticket_events AS e WHERE e.ticket_id = t.ticket_id AND event_type = 'solved') AS solved,
  (SELECT max(occurred_at) FROM ticket_events AS e WHERE e.ticket_id = t.ticket_id AND event_type = 'solved') AS settled,
  (SELECT count(*) FROM ticket_events AS e WHERE e.ticket_id = t.ticket_id AND event_type = 'solved') AS times_solved,
  (SELECT count(*) FROM ticket_events AS e WHERE e.ticket_id = t.ticket_id AND event_type = 'agent_reply') AS agent_replies,
  (SELECT count(*) FROM ticket_events AS e WHERE e.ticket_id = t.ticket_id AND event_type = 'customer_reply')
    AS customer_replies
FROM tickets AS t
);

CREATE TABLE status_events AS
SELECT *, (occurred_at AT TIME ZONE $zone)::DATE AS d FROM ticket_events
WHERE event_type IN ('open', 'pending', 'solved', 'reopened', 'closed');

-- At the end of a day, by the last status until then.
CREATE MACRO is_open(ticket, day) AS coalesce(
  (SELECT arg_max(event_type, (occurred_at, event_id)) FROM status_events AS e WHERE e.ticket_id = ticket AND e.d <= day),
  'open'
) NOT IN ('solved', 'closed');

CREATE TABLE totals AS
SELECT product_id, m AS month, count(DISTINCT order_id) AS orders, sum(units) AS units, sum(gross) AS gross_revenue,
  sum(discount) AS discounts, sum(gross - discount) AS net_sales, sum(refund) AS refunds,
  sum(gross - discount - refund) AS net_revenue
FROM p GROUP BY ALL;

-- Scores by cumulative distribution, in whole numbers: how many of all are no better.
CREATE TABLE scored AS
WITH n AS (
  SELECT customer_id, count(*) FILTER (orders > 0) AS order_days, sum(orders) AS orders,
    sum(gross - discount - refund) AS net_revenue, arg_max(segment, d) AS segment,
    max(d) FILTER (orders > 0) AS last_order_date
  FROM c GROUP BY customer_id HAVING sum(orders) > 0
)
SELECT *,
  fifth((SELECT count(*) FROM n AS y WHERE y.last_order_date <= x.last_order_date), (SELECT count(*) FROM n))
    AS recency_score,
  fifth((SELECT count(*) FROM n AS y WHERE y.orders <= x.orders), (SELECT count(*) FROM n)) AS frequency_score,
  fifth((SELECT count(*) FROM n AS y WHERE y.net_revenue <= x.net_revenue), (SELECT count(*) FROM n)) AS monetary_score
FROM n AS x;

CREATE TABLE priorities AS SELECT priority FROM sla UNION ALL SELECT 'other' UNION ALL SELECT 'all';
"""

# What was sold and paid back in a period `k`.
REVENUE = """
    SELECT *, gross_revenue - discounts AS net_sales, ratio(gross_revenue - discounts, orders) AS average_order_value,
      gross_revenue - discounts - refunds AS net_revenue FROM (
    SELECT k.{key},{more}
      (SELECT count(*) FROM v WHERE v.{period} = k.{period} AND counts) AS orders,
      (SELECT count(DISTINCT customer_id) FROM v WHERE v.{period} = k.{period} AND counts) AS customers,
      coalesce((SELECT sum(units) FROM v WHERE v.{period} = k.{period}), 0) AS units,
      coalesce((SELECT sum(gross) FROM v WHERE v.{period} = k.{period}), 0) AS gross_revenue,
      coalesce((SELECT sum(discount) FROM v WHERE v.{period} = k.{period}), 0) AS discounts,
      coalesce((SELECT sum(refund) FROM f WHERE f.{period} = k.{period}), 0) AS refunds,
      coalesce((SELECT sum(tax) FROM v WHERE v.{period} = k.{period}), 0) AS tax
    FROM {periods} AS k)
"""

# Numbers of the tickets created in a period `k`, which has a row for every priority.
SUPPORT = """
    SELECT k.{key}, q.priority,{more}
      count(t.ticket_id) AS tickets_created, count(replied) AS tickets_replied, count(solved) AS tickets_solved,
      count(*) FILTER (reopened) AS reopened_tickets,
      {percentiles},
      count(*) FILTER (met) AS sla_met_tickets, count(*) FILTER (NOT met) AS sla_missed_tickets,
      ratio(sla_met_tickets, sla_met_tickets + sla_missed_tickets) AS sla_met_rate
    FROM {periods} AS k CROSS JOIN priorities AS q
    LEFT JOIN t ON t.{period} = k.{period} AND q.priority IN (t.priority, 'all')
    GROUP BY ALL
"""
MINUTES = ",\n".join(
    f"percentile(list(minutes(t.created_at, {column})), {level}) AS {name}_minutes_p{level * 100:.0f}"
    for name, column in (("first_reply", "replied"), ("first_resolution", "solved"), ("full_resolution", "settled"))
    for level in (0.5, 0.9)
)

# One row for each version that differs, from the state that each left behind.
HISTORY = """
    SELECT {key}, {columns}, _deleted AS is_deleted, updated_at AS valid_from,
      (SELECT min(y.updated_at) FROM changes_{name} AS y WHERE y.{key} = x.{key} AND y.updated_at > x.updated_at) AS valid_to,
      updated_at = (SELECT max(y.updated_at) FROM changes_{name} AS y WHERE y.{key} = x.{key}) AS is_current
    FROM changes_{name} AS x
"""

MARTS = {
    "marts.dim_customer_history": HISTORY.format(
        key="customer_id", columns="country_code, created_at", name="customers"
    ),
    "marts.dim_product_history": HISTORY.format(
        key="product_id", columns="product_name, category, brand, list_price, unit_cost", name="products"
    ),
    "marts.dim_customers": """
        SELECT customer_id, hash_of(k.email) AS email_hash, k.updated_at IS NOT NULL AS is_known, coalesce(k.country_code, 'unknown') AS country_code,
          coalesce(country_name, 'unknown') AS country_name, k.created_at,
          (k.created_at AT TIME ZONE $zone)::DATE AS created_date
        FROM (
          SELECT customer_id FROM customers
          UNION SELECT customer_id FROM orders
          UNION SELECT customer_id FROM refunds
          UNION SELECT customer_id FROM tickets
        ) LEFT JOIN customers AS k USING (customer_id) LEFT JOIN countries USING (country_code)
        WHERE customer_id IS NOT NULL
    """,
    "marts_pii.customers": "SELECT customer_id, hash_of(email) AS email_hash, email, full_name FROM customers",
    "marts.dim_products": """
        SELECT product_id, k.updated_at IS NOT NULL AS is_known, coalesce(product_name, 'unknown') AS product_name,
          coalesce(category, 'unknown') AS category, coalesce(brand, 'unknown') AS brand, list_price, unit_cost
        FROM (
          SELECT product_id FROM products
          UNION SELECT product_id FROM order_items
          UNION SELECT product_id FROM refunds
        ) LEFT JOIN products AS k USING (product_id) WHERE product_id IS NOT NULL
    """,
    "marts.dim_dates": """
        SELECT d AS date_day, last_day(d) <= as_of AS is_month_complete,
          isodow(d) AS day_of_week, isodow(d) IN (6, 7) AS is_weekend, year(d) AS year_number, day(d) AS day_of_month,
          make_date(year(d), month(d), 1) AS month, make_date(year(d), quarter(d) * 3 - 2, 1) AS quarter,
          d - isodow(d)::INT + 1 AS week, holiday_name IS NOT NULL AS is_holiday, holiday_name
        FROM days LEFT JOIN holidays ON holiday_date = d
    """,
    "marts.fct_order_items": """
        SELECT order_id, line_number, product_id, customer_id, d AS order_date, make_date(year(d), month(d), 1) AS order_month,
          counts AS is_counted, currency, quantity, gross_amount, discount_amount, gross_amount - discount_amount AS net_amount, tax_amount, units,
          gross AS gross_revenue, discount AS discounts, gross - discount AS net_sales, tax,
          NOT exists(FROM l AS o WHERE o.order_id = l.order_id AND o.product_id IS NOT DISTINCT FROM l.product_id
            AND o.line_number < l.line_number) AS is_first_of_product
        FROM l
    """,
    "marts.fct_refunds": """
        SELECT refund_id, order_id, line_number, customer_id, product_id, refunded_at, d AS refund_date, order_d AS order_date,
          basis_d AS order_basis_date, reason, counts AS is_counted, is_early AS is_before_order, is_large AS is_above_order, quantity, currency,
          rate AS exchange_rate, amount, refund AS refunds
        FROM f
    """,
    "marts.fct_orders": """
        SELECT order_id, customer_id, status, counts AS is_counted, ordered_at, d AS order_date, currency,
          rate AS exchange_rate, gross_amount, discount_amount, gross_amount - discount_amount AS net_amount, tax_amount,
          refund_amount, shipping_amount, lines, units, gross AS gross_revenue, discount AS discounts,
          gross - discount AS net_sales, refund AS refunds, gross - discount - refund AS net_revenue, tax, shipping
        FROM v
    """,
    "marts.waiting_records": """
        SELECT parent_type, parent_id, count(line) AS order_items, count(refund) AS refunds, count(event) AS ticket_events,
          min(since) AS waiting_since
        FROM (
          SELECT 'order' AS parent_type, order_id AS parent_id, 1 AS line, NULL AS refund, NULL AS event, updated_at AS since
          FROM order_items
          UNION ALL SELECT 'order', order_id, NULL, 1, NULL, updated_at FROM refunds WHERE order_id IS NOT NULL
          UNION ALL SELECT 'ticket', ticket_id, NULL, NULL, 1, occurred_at FROM ticket_events
        ) WHERE (parent_type, parent_id) NOT IN (
          SELECT ('order', order_id) FROM orders UNION ALL SELECT ('ticket', ticket_id) FROM tickets
        ) GROUP BY ALL
    """,
    "marts.customer_metrics": """
        SELECT customer_id, d AS order_date, orders, units, gross AS gross_revenue, discount AS discounts,
          gross - discount AS net_sales, refund AS refunds, gross - discount - refund AS net_revenue, tax, segment,
          (SELECT sum(o.orders) FROM c AS o WHERE o.customer_id = c.customer_id AND o.d <= c.d
            AND date_trunc('month', o.d) = date_trunc('month', c.d)) AS orders_in_month,
          (SELECT min(o.d) FROM c AS o WHERE o.customer_id = c.customer_id AND o.d <= c.d AND o.orders > 0)
            AS first_order_date
        FROM c
    """,
    "marts.daily_revenue": REVENUE.format(key="d AS order_date", more="", periods="days", period="d"),
    "marts.monthly_revenue": REVENUE.format(
        key="m AS month", more=" last_day(k.m) <= k.as_of AS is_complete,", periods="months", period="m"
    ),
    "marts.order_value_percentiles": """
        SELECT m AS month, is_over(m) AS is_complete, count(*) AS orders, sum(gross - discount) AS net_sales,
          percentile(list(gross - discount), 0.25) AS p25,
          percentile(list(gross - discount), 0.5) AS p50,
          percentile(list(gross - discount), 0.75) AS p75,
          percentile(list(gross - discount), 0.9) AS p90,
          percentile(list(gross - discount), 0.95) AS p95,
          percentile(list(gross - discount), 0.99) AS p99
        FROM v WHERE counts GROUP BY m
    """,
    "marts.customer_lifetime": """
        SELECT customer_id, sum(c.orders) AS orders, count(*) FILTER (c.orders > 0) AS order_days,
          min(d) FILTER (c.orders > 0) AS first_order_date, max(d) FILTER (c.orders > 0) AS last_order_date,
          sum(c.orders) >= 2 AS is_repeat_customer, sum(units) AS units, sum(gross) AS gross_revenue,
          sum(discount) AS discounts, sum(gross - discount) AS net_sales,
          ratio(sum(gross - discount), sum(c.orders)) AS average_order_value,
          sum(refund) AS refunds, sum(gross - discount - refund) AS net_revenue, arg_max(segment, d) AS segment
        FROM c GROUP BY customer_id
    """,
    "marts.daily_segment_metrics": """
        SELECT v.d AS order_date, CASE WHEN v.customer_id IS NULL THEN 'guest' ELSE c.segment END AS segment,
          count(*) AS orders, count(DISTINCT v.customer_id) AS customers, sum(v.units) AS units, sum(v.gross) AS gross_revenue,
          sum(v.discount) AS discounts, sum(v.gross - v.discount) AS net_sales,
          ratio(sum(v.gross - v.discount), count(*)) AS average_order_value,
          percentile(list(v.gross - v.discount), 0.5) AS median_order_value
        FROM v LEFT JOIN c ON c.customer_id = v.customer_id AND c.d = v.d WHERE counts GROUP BY ALL
    """,
    "marts.product_performance": """
        SELECT *, is_over(month) AS is_complete, (SELECT 1 + count(*) FROM totals AS y WHERE y.month = x.month AND y.net_revenue > x.net_revenue)
          AS revenue_rank
        FROM totals AS x
    """,
    "marts.product_revenue": """
        SELECT product_id, count(DISTINCT order_id) AS orders, sum(units) AS units, sum(gross) AS gross_revenue,
          sum(discount) AS discounts, sum(gross - discount) AS net_sales, sum(refund) AS refunds,
          sum(gross - discount - refund) AS net_revenue, ratio(sum(refund), sum(gross - discount)) AS refund_rate
        FROM p GROUP BY product_id
    """,
    "marts.new_vs_returning": """
        SELECT *, ratio(repeat_customers, customers) AS repeat_customer_rate FROM (
        SELECT m AS month, last_day(m) <= as_of AS is_complete,
          (SELECT count(*) FROM active AS a WHERE a.m = months.m) AS customers,
          (SELECT count(*) FROM firsts WHERE cohort = months.m) AS new_customers,
          (SELECT count(*) FROM active AS a JOIN firsts USING (customer_id) WHERE a.m = months.m AND cohort < a.m)
            AS returning_customers,
          (SELECT count(*) FROM active AS a WHERE a.m = months.m AND orders >= 2) AS repeat_customers
        FROM months)
    """,
    "marts.cohort_retention": """
        SELECT *, ratio(customers, cohort_size) AS retention_rate FROM (
        SELECT cohort AS cohort_month, datediff('month', cohort, m) AS months_since, m AS month,
          last_day(m) <= as_of AS is_complete,
          (SELECT count(*) FROM active AS a JOIN firsts AS g USING (customer_id) WHERE g.cohort = x.cohort AND a.m = x.m)
            AS customers,
          (SELECT count(*) FROM firsts AS g WHERE g.cohort = x.cohort) AS cohort_size
        FROM (SELECT DISTINCT cohort, m, as_of FROM firsts JOIN months ON m >= cohort) AS x)
    """,
    "marts.fct_tickets": """
        SELECT ticket_id, customer_id, order_id, channel, priority, source_priority, category, status, created_at,
          d AS created_date, agent_replies, customer_replies, times_solved AS solved_events, reopened AS is_reopened, replied AS first_reply_at,
          solved AS first_resolution_at, settled AS full_resolution_at, minutes(created_at, replied) AS first_reply_minutes,
          minutes(created_at, solved) AS first_resolution_minutes,
          minutes(created_at, settled) AS full_resolution_minutes, due AS first_reply_due_at,
          (due AT TIME ZONE $zone)::DATE AS first_reply_due_date, replied <= due AS is_sla_met
        FROM t
    """,
    "marts.support_daily": SUPPORT.format(
        key="d AS created_date", more="", periods="days", period="d", percentiles=MINUTES
    ),
    "marts.support_monthly": SUPPORT.format(
        key="m AS month",
        more=" last_day(k.m) <= k.as_of AS is_complete,",
        periods="months",
        period="m",
        percentiles=MINUTES,
    ),
    "marts.ticket_backlog": """
        SELECT date_day, priority, count(*) FILTER (today) AS open_tickets,
          count(*) FILTER (today AND NOT yesterday) AS opened_tickets,
          count(*) FILTER (yesterday AND NOT today) AS closed_tickets
        FROM (
          SELECT k.d AS date_day, q.priority, t.ticket_id IS NOT NULL AND is_open(t.ticket_id, k.d) AS today,
            t.ticket_id IS NOT NULL AND t.d < k.d AND is_open(t.ticket_id, k.d - 1) AS yesterday
          FROM days AS k CROSS JOIN priorities AS q LEFT JOIN t ON t.d <= k.d AND q.priority IN (t.priority, 'all')
        ) GROUP BY ALL
    """,
    "marts.customer_support": """
        SELECT customer_id, m AS month, is_over(m) AS is_complete, sum(orders) AS orders, sum(tickets) AS tickets,
          sum(reopened) AS reopened_tickets,
          ratio(sum(tickets), sum(orders)) AS tickets_per_order, sum(refund) AS refunds, sum(after) AS refunds_after_ticket
        FROM (
          SELECT customer_id, date_trunc('month', d)::DATE AS m, orders, 0 AS tickets, 0 AS reopened, refund, 0 AS after
          FROM c
          UNION ALL SELECT customer_id, m, 0, 1, reopened::INT, 0, 0 FROM t
          UNION ALL
          SELECT f.customer_id, coalesce(o.m, f.m), 0, 0, 0, 0, f.refund
          FROM f JOIN refunds AS x USING (refund_id) LEFT JOIN o ON o.order_id = f.order_id
          WHERE coalesce(o.counts, true) AND EXISTS (
            FROM t WHERE t.customer_id = f.customer_id AND t.created_at <= x.refunded_at AND datediff('day', t.d, f.d) <= 30
          )
        ) WHERE customer_id IS NOT NULL GROUP BY ALL
    """,
    "ml.customer_segments": "SELECT * FROM scored",
    "ml.score_bounds": """
        SELECT s AS score, min(last_order_date) FILTER (recency_score >= s) AS last_order_date,
          min(orders) FILTER (frequency_score >= s) AS orders, min(net_revenue) FILTER (monetary_score >= s) AS net_revenue
        FROM scored CROSS JOIN range(1, 6) AS steps (s) GROUP BY s
    """,
    "ml.rfm_cells": """
        SELECT recency_score, frequency_score, monetary_score, segment, count(*) AS customers, sum(orders) AS orders,
          sum(net_revenue) AS net_revenue
        FROM scored GROUP BY ALL
    """,
}


def hash_of(email: str | None) -> str | None:
    """As anybody works it out who has the key: printf ann@example.com | openssl dgst -sha256 -hmac KEY."""
    normal = (email or "").strip(" ").lower()
    return hmac.new(pii_key() or b"", normal.encode(), hashlib.sha256).hexdigest() if normal else None


def copy_landing(engine: duckdb.DuckDBPyConnection, warehouse: connection, folder: Path, target: str) -> None:
    """All landing rows into DuckDB, as tables of the names that `target` makes of theirs."""
    for name, table in TABLES.items():
        file = folder / f"{name}.csv"
        with file.open("wb") as lines, warehouse.cursor() as cursor:
            cursor.copy_expert(f"COPY landing.{name} TO STDOUT (FORMAT csv, HEADER)", lines)
        types = {c.name: c.type for c in table.columns} | {
            "_deleted": "BOOLEAN", "_batch_id": "BIGINT", "_loaded_at": "TIMESTAMPTZ",
            "_source_file": "TEXT", "_row_number": "BIGINT",
        }  # fmt: skip
        engine.execute(
            f"CREATE OR REPLACE TABLE {target.format(name)} AS"
            f" SELECT * FROM read_csv(?, header = true, columns = {_struct(file, types)})",
            [str(file)],
        )


def expected(warehouse: connection, folder: Path, zone: str, currency: str) -> dict[str, tuple[list[str], Rows]]:
    """For each mart the names of the columns calculated here and their rows, sorted. `folder` is scratch space."""
    engine = duckdb.connect()
    engine.execute("SET TimeZone = 'UTC'")
    engine.create_function(  # type: ignore[call-overload]
        "hash_of", hash_of, ["VARCHAR"], "VARCHAR", null_handling="special"
    )
    copy_landing(engine, warehouse, folder, "landed_{}")
    for name in TABLES:
        clock = "" if name == "ticket_events" else "updated_at DESC,"
        engine.execute(NEWEST.format(name=name, key=KEYS[name], clock=clock))
    days = engine.execute(
        "SELECT DISTINCT currency, (ordered_at AT TIME ZONE $zone)::DATE FROM orders", {"zone": zone}
    ).fetchall()
    engine.execute("CREATE TABLE rates (currency TEXT, d DATE, rate DECIMAL(20, 12))")
    for code, day in days:
        engine.execute("INSERT INTO rates VALUES (?, ?, ?)", [code, day, rate(code, currency, day)])
    engine.execute(FUNCTIONS)
    seeds = ROOT / "seeds"
    engine.execute(
        f"CREATE TABLE sla AS SELECT priority, first_reply_minutes AS minutes FROM '{seeds}/sla_targets.csv'"
    )
    engine.execute(f"CREATE TABLE holidays AS FROM '{seeds}/holidays.csv' WHERE country_code = 'US'")
    engine.execute(
        f"CREATE TABLE countries AS FROM read_csv('{seeds}/countries.csv', all_varchar = true, nullstr = '')"
    )
    for name, (key, columns) in VERSIONED.items():
        _changes(engine, name, key, columns)
    for statement in DEFINITIONS.split(";\n"):
        if statement.strip():
            engine.execute(statement, _named(statement, zone=zone, currency=currency))
    results = {}
    for mart, query in MARTS.items():
        relation = engine.execute(query, _named(query, zone=zone))
        results[mart] = ([column[0] for column in relation.description or ()], canonical(relation.fetchall()))
    return results


# Entity -> its key, and what history shows of it; text that is missing, or of a record that is gone, is unknown.
VERSIONED = {
    "customers": ("customer_id", {"country_code": "unknown", "created_at": None}),
    "products": (
        "product_id",
        {"product_name": "unknown", "category": "unknown", "brand": "unknown", "list_price": None, "unit_cost": None},
    ),
}


def _changes(engine: duckdb.DuckDBPyConnection, name: str, key: str, columns: dict[str, str | None]) -> None:
    """Table changes_<name>: of the versions by their own clock, those that leave another state than the one before."""
    versions = engine.execute(
        f"SELECT {key}, updated_at, _deleted, {', '.join(columns)} FROM landed_{name}"
        f" ORDER BY {key}, updated_at, _loaded_at, _row_number"
    ).fetchall()
    newest = {row[:2]: row for row in versions}  # of several at one instant the last wins
    kept: list[tuple[Any, ...]] = []
    for identity, at, deleted, *values in newest.values():
        shown = [w if v is None or deleted else v for v, w in zip(values, columns.values(), strict=True)]
        row = (identity, at, deleted, *shown)
        if not kept or kept[-1][0] != identity or kept[-1][2:] != row[2:]:
            kept.append(row)
    engine.execute(
        f"CREATE TABLE changes_{name} AS SELECT {key}, updated_at, _deleted, {', '.join(columns)} FROM landed_{name} LIMIT 0"
    )
    for row in kept:
        engine.execute(f"INSERT INTO changes_{name} VALUES ({', '.join('?' * len(row))})", list(row))


def _named(statement: str, **values: str) -> dict[str, str]:
    """The values that the statement asks for: DuckDB refuses others."""
    return {name: value for name, value in values.items() if f"${name}" in statement}


def canonical(rows: Rows) -> Rows:
    """Rows in an order of their own, numbers by value."""
    return sorted((tuple(map(_plain, row)) for row in rows), key=repr)


def _plain(value: Any) -> Any:
    if isinstance(value, int | Decimal) and not isinstance(value, bool):
        return f"{Decimal(value):.12f}"
    if isinstance(value, datetime):
        return value.astimezone(UTC)
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
    """Units of `into` for one unit of `code` at the last business day up to `day`, the file's last for 45 days."""
    if code == into:
        return Decimal(1)
    position = bisect_right(ECB_DAYS, day)
    carried = timedelta(days=7 if position < len(ECB_DAYS) else 45)
    if not position or day - ECB_DAYS[position - 1] > carried:
        return None
    per_euro = ECB[ECB_DAYS[position - 1]] | {"EUR": Decimal(1)}
    if code not in per_euro or into not in per_euro:
        return None
    return (per_euro[into] / per_euro[code]).quantize(Decimal("0.000000000001"), ROUND_HALF_UP)
