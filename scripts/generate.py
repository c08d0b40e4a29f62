"""A made-up shop of any size: landing batches of a history and of single days after it, and the truth about them.

Every value is a function of the seed, the table, the key and the column: `pick` and `part` in the SQL below mix them by
whole numbers alone. So the same request gives the same files, with any number of threads, and a batch is the same
however many follow it.
"""

import itertools
import json
import math
import re
import shutil
import tempfile
import zlib
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from datetime import date, timedelta
from decimal import Decimal
from pathlib import Path
from typing import Any

import duckdb

from scripts.contract import EARLIEST, TABLES, Column, Table
from scripts.errors import Exit, WarehouseError
from scripts.settings import ROOT

LAST_DAY = date(2026, 8, 31)
"""Last day of every history: the exchange rates in seeds/ go on for two months, so that single days can follow."""

HISTORY, DIRT = "0000-history", "0001-dirt"
"""Names of the first batches; the others are named after their day."""

TICKETS = "generated-tickets"
"""Name of the batch of tickets for orders that come from elsewhere."""

MANIFEST = "manifest.json"

MOST_ORDERS = 100_000_000  # eight times as many keys of lines fit the 32 bits that are mixed
LEAST_WITH_DIRT = 1_000
CORRECTIONS = 14  # one a day for so many orders of a mean day
HISTORY_FORMAT = "parquet"  # two fifths of the size of CSV; loads as fast, about 8.5 s a million lines
MEMORY = "2GB"  # of DuckDB; what it does not count comes on top

# Where customers live: percent of them, country, currency, and the price there of what costs 100 in the list.
_HOMES = (
    (38, "US", "USD", 100),
    (18, "DE", "EUR", 95),
    (12, "GB", "GBP", 82),
    (8, "FR", "EUR", 98),
    (6, "CA", "CAD", 136),
    (5, "JP", "JPY", 14_900),
    (4, "AU", "AUD", 151),
    (3, "CH", "CHF", 99),
    (3, "SE", "SEK", 1_049),
    (3, "PL", "PLN", 399),
)

_WORDS = {
    "first": ("Ada", "Björn", "Chloé", "David", "Elif", "Fatima", "Grace", "Haruto", "Inés", "Jan", "Kofi", "Zoë"),
    "last": ("Brown", "Dubois", "García", "Kowalska", "Li", "Müller", "Nguyễn", "O'Brien", "Sato", "Van den Berg"),
    "look": ("Blue", "Folding", "Large", 'Classic 12"', "Oak", "Small", "Soft", "Striped", "White"),
    "thing": ("chair", "desk", "kettle", "lamp", "mug", "notebook", "rug", "shelf", "teapot", "towel", "vase"),
    "category": ("bath", "bedroom", "garden", "kitchen", "living room", "office", "outdoor", "storage"),
    "brand": ("Aster", "Birke & Sohn", "Corvo", "Dune", "Elm, Inc.", "Fjord", "Grove"),
    "reason": ("arrived late", "changed mind", "damaged", "not as described", "wrong item"),
    "channel": ("chat", "email", "email", "phone", "web"),
    "subject": ("damaged", "delivery", "invoice", "product question", "refund", "return"),
}

# The mix is the end of murmur3, in 64 bits so that no product overflows.
_MACROS = """
CREATE MACRO low(x) AS x & 4294967295::UBIGINT;
CREATE MACRO mix_1(x) AS low(xor(x, x >> 16) * 2246822507::UBIGINT);
CREATE MACRO mix_2(x) AS low(xor(x, x >> 13) * 3266489909::UBIGINT);
CREATE MACRO mix_3(x) AS xor(x, x >> 16);
CREATE MACRO mix(salt, key) AS mix_3(mix_2(mix_1(low(low(key::UBIGINT) * 2654435761::UBIGINT + salt))));
-- A whole number from 0 to below `choices`, and a fraction from 0 to below 1.
CREATE MACRO pick(salt, key, choices) AS ((mix(salt, key) * choices::UBIGINT) >> 32)::INTEGER;
CREATE MACRO part(salt, key) AS mix(salt, key)::DOUBLE * 2.3283064365386963e-10;
CREATE MACRO seconds(number) AS to_seconds((number)::INTEGER);
CREATE MACRO money(cents) AS (cents)::BIGINT * 0.01::DECIMAL(3, 2);
"""

_SHOP = """
-- A few versions of each customer: some move to another country.
CREATE TABLE registered AS
SELECT
  customer::INTEGER AS customer,
  DATE '$start' - seconds(1 + pick('customers.before', customer, 730 * 86400)) AS created_at
FROM range(1, $first_customers + 1) AS numbers (customer)
UNION ALL
SELECT customer::INTEGER, DATE '$start' + day + seconds(pick('customers.second', customer, 86400))
FROM (SELECT day, unnest(range(customers_before + 1, customers_after + 1)) AS customer FROM days);

CREATE MACRO home(percent) AS CASE $homes END::UTINYINT;

CREATE VIEW customer_versions AS
SELECT
  'C' || customer AS customer_id,
  'c' || customer || '@example.com' AS email,
  word_first('customers.first', customer) || ' ' || word_last('customers.last', customer)
  AS full_name,
  country_of(home) AS country_code,
  created_at,
  updated_at
FROM (
  SELECT customer, created_at, created_at AS updated_at, home(pick('customers.home', customer, 100)) AS home
  FROM registered
  UNION ALL
  SELECT
    customer,
    created_at,
    created_at + seconds(30 * 86400 + pick('customers.moved', customer, 700 * 86400)),
    home(pick('customers.next_home', customer, 100))
  FROM registered
  WHERE pick('customers.moves', customer, 100) < 5
) AS versions;

-- A product has a new price every 60 to 180 days.
CREATE TABLE catalogue AS
SELECT
  product::INTEGER AS product,
  (300 + 20000 * part('products.price', product) * part('products.price', product))::INTEGER AS cents,
  60 + pick('products.period', product, 121) AS period,
  pick('products.offset', product, 60) AS shift,
  [-1, 1, 2, 3, 4][1 + pick('products.step', product, 5)] AS step
FROM range(1, $products + 1) AS numbers (product);

-- Lists instead of joins: a join loses the order of the rows.
SET VARIABLE cents = (SELECT list(cents ORDER BY product) FROM catalogue);
SET VARIABLE periods = (SELECT list(period ORDER BY product) FROM catalogue);
SET VARIABLE shifts = (SELECT list(shift ORDER BY product) FROM catalogue);
SET VARIABLE steps = (SELECT list(step ORDER BY product) FROM catalogue);
SET VARIABLE customers_before = (SELECT list(customers_before ORDER BY day) FROM days);
SET VARIABLE customers_after = (SELECT list(customers_after ORDER BY day) FROM days);

CREATE MACRO price_after(cents, step, changes) AS cents * greatest(40, least(300, 100 + step * changes)) // 100;

CREATE VIEW product_versions AS
SELECT
  'P' || product AS product_id,
  word_look('products.look', product) || ' ' || word_thing('products.thing', product)
  || ' ' || product AS product_name,
  word_category('products.category', product) AS category,
  word_brand('products.brand', product) AS brand,
  money(price_after(cents, step, changes)) AS list_price,
  money(price_after(cents, step, changes) * (50 + pick('products.cost', product, 30)) // 100) AS unit_cost,
  CASE WHEN changes = 0 THEN DATE '$start' - 30 ELSE DATE '$start' + (changes * period - shift)::INTEGER END::TIMESTAMP
  AS updated_at
FROM (SELECT *, unnest(range(0, 1 + ($last_day + shift) // period)) AS changes FROM catalogue);

-- Orders are numbered in time; the number is the key of all that is drawn for one.
CREATE TABLE numbers AS
SELECT day, unnest(range(orders_before + 1, orders_after + 1))::INTEGER AS n FROM days;

CREATE TABLE placed AS
WITH ranked AS (
  -- The square makes a few customers busy. The product scatters them over the numbers, and so over the years.
  SELECT
    *,
    DATE '$start' + day AS date,
    getvariable('customers_before')[day + 1] AS customers_before,
    getvariable('customers_after')[day + 1] AS customers_after,
    part('orders.customer', n) AS luck,
    (((luck * luck * $scatter)::BIGINT * 2654435761) % $scatter)::INTEGER AS wanted,
    pick('orders.guest', n, 100) < 2 AS is_guest,
    pick('orders.new', n, 100) < 5 AND customers_after > customers_before AS is_new,
    pick('orders.second', n, 43200) + pick('orders.second_half', n, 43200) AS second
  FROM numbers
), bought AS (
  SELECT
    *,
    CASE
      WHEN is_guest THEN NULL
      WHEN is_new
      THEN customers_before + 1 + pick('orders.new_customer', n, customers_after - customers_before)
      -- Who has not registered yet is replaced by somebody who has.
      WHEN wanted < customers_before THEN wanted + 1
      ELSE wanted % customers_before + 1
    END::INTEGER AS customer
  FROM ranked
)
SELECT
  n,
  day::SMALLINT AS day,
  customer,
  CASE
    WHEN date <= DATE '$first_rate' THEN 0  -- dollars need no rate
    WHEN is_guest THEN home(pick('orders.home', n, 100))
    ELSE home(pick('customers.home', customer, 100))
  END::UTINYINT AS home,
  date + seconds(
    CASE WHEN is_new AND NOT is_guest THEN greatest(second, pick('customers.second', customer, 86400)) ELSE second END
  ) AS ordered_at
FROM bought;

DROP TABLE numbers;

CREATE MACRO is_cancelled(n) AS pick('orders.cancelled', n, 100) < 3;
CREATE MACRO cancelled_after(n) AS seconds(3600 + pick('orders.cancelled_after', n, 70 * 3600));

CREATE VIEW order_lives AS
SELECT
  n,
  day,
  home,
  'O' || n AS order_id,
  'C' || customer AS customer_id,
  currency_of(home) AS currency,
  money([0, 0, 399, 599, 999][1 + pick('orders.shipping', n, 5)] * factor_of(home) // 100) AS shipping_amount,
  ordered_at,
  CASE WHEN is_cancelled(n) THEN ordered_at + cancelled_after(n) END AS cancelled_at,
  CASE WHEN NOT is_cancelled(n) THEN ordered_at + seconds(7200 + pick('orders.shipped', n, 40 * 3600)) END
  AS shipped_at,
  shipped_at + seconds(86400 + pick('orders.delivered', n, 5 * 86400)) AS delivered_at
FROM placed;

CREATE MACRO orders_at(moment) AS TABLE
SELECT
  n,
  day,
  order_id,
  customer_id,
  CASE
    WHEN cancelled_at < moment THEN 'cancelled'
    WHEN delivered_at < moment THEN 'delivered'
    WHEN shipped_at < moment THEN 'shipped'
    ELSE 'placed'
  END AS status,
  currency,
  shipping_amount,
  ordered_at,
  CASE status
    WHEN 'cancelled' THEN cancelled_at WHEN 'delivered' THEN delivered_at WHEN 'shipped' THEN shipped_at ELSE ordered_at
  END AS updated_at
FROM order_lives;

CREATE MACRO lines_of(n) AS
  CASE WHEN pick('orders.lines', n, 100) < 45 THEN 1 WHEN pick('orders.lines', n, 100) < 72 THEN 2
  WHEN pick('orders.lines', n, 100) < 87 THEN 3 WHEN pick('orders.lines', n, 100) < 95 THEN 4 ELSE 5 END;
CREATE MACRO line_key(n, line) AS n::BIGINT * 8 + line;

-- Amounts in cents of the currency. The widest table by far, made once for lines, refunds and the truth.
CREATE TABLE lines AS
WITH numbered AS (
  SELECT *, unnest(range(1, 1 + lines_of(n)))::UTINYINT AS line FROM placed
), drawn AS (
  SELECT
    *,
    part('order_items.product', line_key(n, line)) AS luck,
    1 + (luck * luck * $products)::INTEGER % $products AS product,
    pick('order_items.quantity', line_key(n, line), 100) AS dice
  FROM numbered
), priced AS (
  SELECT
    n, line, day, customer, home, ordered_at, product,
    CASE WHEN dice < 75 THEN 1 WHEN dice < 90 THEN 2 WHEN dice < 96 THEN 3 ELSE 6 END::UTINYINT AS quantity,
    (day + getvariable('shifts')[product]) // getvariable('periods')[product] AS changes,
    price_after(getvariable('cents')[product], getvariable('steps')[product], changes) AS price,
    quantity * (price * factor_of(home) // 100) AS gross
  FROM drawn
)
SELECT
  n, line, day, customer, home, ordered_at, product, quantity, gross::INTEGER AS gross,
  CASE
    WHEN pick('order_items.discounted', line_key(n, line), 10) < 3
    THEN gross::BIGINT * 5 * (1 + pick('order_items.discount', line_key(n, line), 4)) // 100
    ELSE 0
  END::INTEGER AS discount
FROM priced;

CREATE MACRO tax(net) AS (net::BIGINT * 8 + 50) // 100;

CREATE VIEW line_rows AS
SELECT
  n,
  line,
  day,
  'O' || n AS order_id,
  line AS line_number,
  'P' || product AS product_id,
  quantity,
  money(gross) AS gross_amount,
  money(discount) AS discount_amount,
  money(tax(gross - discount)) AS tax_amount,
  ordered_at AS updated_at
FROM lines;

CREATE TABLE paid_back AS
SELECT
  n, line, home, customer, product,
  CASE WHEN is_whole THEN quantity END AS quantity,
  CASE
    WHEN is_whole THEN gross - discount
    ELSE (gross - discount)::BIGINT * (10 + pick('refunds.percent', line_key(n, line), 81)) // 100
  END::INTEGER AS cents,
  ordered_at + seconds(3 * 86400 + luck * luck * 197 * 86400) AS refunded_at
FROM (
  SELECT
    *,
    pick('refunds.whole', line_key(n, line), 10) < 7 AS is_whole,
    part('refunds.delay', line_key(n, line)) AS luck
  FROM lines
  WHERE pick('refunds.paid', line_key(n, line), 100) < 6 AND NOT is_cancelled(n)
);

CREATE VIEW refund_rows AS
SELECT
  'R' || n || '-' || line AS refund_id,
  'O' || n AS order_id,
  line AS line_number,
  'C' || customer AS customer_id,
  'P' || product AS product_id,
  quantity,
  money(cents) AS amount,
  word_reason('refunds.reason', line_key(n, line)) AS reason,
  refunded_at,
  refunded_at AS updated_at
FROM paid_back;

-- Old orders and lines that are corrected on a single day. No correction makes a line worth less than its refund.
CREATE TABLE corrections AS
WITH numbered AS (
  SELECT day, lowest, highest, unnest(range($corrections)) AS number, day * 100003 + number AS key
  FROM (
    SELECT
      days.day,
      coalesce(oldest.orders_before, 0) AS lowest,
      newest.orders_before AS highest  -- what is younger still changes its status
    FROM days
    INNER JOIN days AS newest ON days.day - 15 = newest.day
    LEFT JOIN days AS oldest ON days.day - 730 = oldest.day
    WHERE days.day >= $span AND newest.orders_before > coalesce(oldest.orders_before, 0)
  )
), drawn AS (
  SELECT
    day,
    DATE '$start' + day + seconds(pick('corrections.second', key, 86400)) AS updated_at,
    (lowest + 1 + pick('corrections.order', key, highest - lowest))::INTEGER AS n,
    CASE WHEN number % 2 = 1 THEN 1 + pick('corrections.line', key, lines_of(n)) ELSE 0 END AS line,  -- 0: the order
    pick('corrections.kind', key, 10) AS kind
  FROM numbered
)
FROM drawn
QUALIFY row_number() OVER (PARTITION BY day, n, line ORDER BY updated_at, kind) = 1;

CREATE TABLE corrected_orders AS
SELECT
  corrections.day AS day,
  n,
  order_id,
  customer_id,
  CASE WHEN kind = 0 THEN 'cancelled' ELSE status END AS status,
  currency,
  CASE WHEN kind > 3 THEN 0.00 ELSE shipping_amount END AS shipping_amount,
  CASE WHEN kind IN (1, 2, 3) THEN ordered_at - INTERVAL 1 DAY ELSE ordered_at END AS ordered_at,
  corrections.updated_at AS updated_at
FROM orders_at('infinity'::TIMESTAMP) AS orders INNER JOIN corrections USING (n)
WHERE line = 0
ORDER BY day, n;

CREATE TABLE corrected_cents AS
SELECT
  corrections.day AS day, n, line, product, home,
  quantity + CASE WHEN kind < 5 THEN 1 ELSE 0 END AS quantity,
  gross + CASE WHEN kind < 5 THEN gross // quantity ELSE 0 END AS gross,
  CASE WHEN kind < 5 THEN discount ELSE 0 END AS discount,
  corrections.updated_at AS updated_at
FROM lines INNER JOIN corrections USING (n, line);

CREATE VIEW corrected_lines AS
SELECT
  day,
  'O' || n AS order_id,
  line AS line_number,
  'P' || product AS product_id,
  quantity,
  money(gross) AS gross_amount,
  money(discount) AS discount_amount,
  money(tax(gross - discount)) AS tax_amount,
  updated_at
FROM corrected_cents
ORDER BY day, n, line;

CREATE VIEW ticket_orders AS
SELECT n AS key, 'O' || n AS order_id, 'C' || customer AS customer_id, ordered_at FROM placed;
"""

# Of all that will ever happen to a ticket, what lies before a moment is there at that moment.
_TICKETS = """
CREATE TABLE ticket_lives AS
WITH drawn AS (
  SELECT
    *,
    pick('tickets.priority', key, 100) AS dice,
    CASE WHEN dice < 5 THEN 'urgent' WHEN dice < 20 THEN 'high' WHEN dice < 80 THEN 'normal' ELSE 'low' END AS priority,
    CASE priority WHEN 'urgent' THEN 60 WHEN 'high' THEN 240 WHEN 'normal' THEN 480 ELSE 1440 END AS target,
    part('tickets.created', key) AS patience,
    part('tickets.reply', key) AS luck,
    ordered_at + seconds(3600 + patience * patience * 9 * 86400) AS created_at
  FROM ticket_orders
  WHERE pick('tickets.opened', key, 100) < 5
), replied AS (
  -- Three of four first replies come within the target. What does not happen is NULL, and all that would follow it.
  SELECT
    *,
    created_at + seconds(target * 60 * (0.05 + 2 * luck * luck * luck)) AS reply,
    CASE WHEN pick('tickets.answered', key, 100) > 0 THEN reply END AS replied_at,
    created_at + seconds(target * 60 * 0.05 * part('tickets.assigned', key)) AS assigned_at,
    CASE WHEN pick('tickets.asked', key, 100) < 40 THEN replied_at + seconds(60) END AS pending_at,
    pending_at + seconds(1800 + pick('tickets.customer', key, 48 * 3600)) AS customer_at,
    customer_at + seconds(900 + pick('tickets.again', key, 8 * 3600)) AS again_at
  FROM drawn
), solved AS (
  SELECT
    *,
    CASE
      WHEN pick('tickets.solved', key, 100) < 97
      THEN coalesce(again_at, replied_at) + seconds(600 + pick('tickets.solved_after', key, 72 * 3600))
    END AS solved_at,
    CASE
      WHEN pick('tickets.reopened', key, 100) < 8
      THEN solved_at + seconds(3600 + pick('tickets.reopened_after', key, 60 * 3600))
    END AS reopened_at,
    reopened_at + seconds(900 + pick('tickets.excuse', key, 8 * 3600)) AS excuse_at,
    excuse_at + seconds(600 + pick('tickets.solved_again', key, 24 * 3600)) AS resolved_at,
    coalesce(resolved_at, solved_at) AS done_at,
    CASE WHEN pick('tickets.closed', key, 10) < 9 THEN done_at + INTERVAL 4 DAY END AS closed_at,
    'A' || (1 + pick('tickets.agent', key, 40)) AS agent
  FROM replied
)
SELECT
  'T' || key AS ticket_id,
  customer_id,
  order_id,
  word_channel('tickets.channel', key) AS channel,
  priority,
  word_subject('tickets.subject', key) AS category,
  created_at,
  list_filter([
    {type: 'created', status: 'open', actor: 'customer', id: customer_id, happened: created_at},
    {type: 'assigned', status: 'open', actor: 'system', id: NULL, happened: assigned_at},
    {type: 'agent_reply', status: 'open', actor: 'agent', id: agent, happened: replied_at},
    {type: 'pending', status: 'pending', actor: 'agent', id: agent, happened: pending_at},
    {type: 'customer_reply', status: 'open', actor: 'customer', id: customer_id, happened: customer_at},
    {type: 'agent_reply', status: 'open', actor: 'agent', id: agent, happened: again_at},
    {type: 'solved', status: 'solved', actor: 'agent', id: agent, happened: solved_at},
    {type: 'reopened', status: 'open', actor: 'customer', id: customer_id, happened: reopened_at},
    {type: 'agent_reply', status: 'open', actor: 'agent', id: agent, happened: excuse_at},
    {type: 'solved', status: 'solved', actor: 'agent', id: agent, happened: resolved_at},
    {type: 'closed', status: 'closed', actor: 'system', id: NULL, happened: closed_at}
  ], lambda event: event.happened IS NOT NULL) AS events
FROM solved;

CREATE MACRO tickets_at(moment) AS TABLE
SELECT
  ticket_id, customer_id, order_id, channel, priority, category, newest.status AS status, created_at,
  newest.happened AS updated_at
FROM (SELECT *, list_filter(events, lambda event: event.happened < moment)[-1] AS newest FROM ticket_lives)
WHERE created_at < moment;

CREATE VIEW event_rows AS
SELECT
  ticket_id || '-' || number AS event_id,
  ticket_id,
  event.type AS event_type,
  event.actor AS actor_type,
  event.id AS actor_id,
  event.happened AS occurred_at,
  created_at
FROM (SELECT *, unnest(events) AS event, unnest(range(1, 1 + len(events))) AS number FROM ticket_lives);
"""

# What a warehouse must hold in the end, by the newest version of every order and line.
_TRUTH = """
CREATE TABLE newest_orders AS
SELECT n, arg_max(kind, updated_at) = 0 AS is_cancelled_late FROM corrections WHERE line = 0 GROUP BY n;
CREATE TABLE newest_lines AS
SELECT n, line, arg_max(gross, updated_at) AS gross, arg_max(discount, updated_at) AS discount
FROM corrected_cents GROUP BY n, line;
CREATE MACRO counts(n, ordered_at) AS
  NOT (is_cancelled(n) AND ordered_at + cancelled_after(n) < $end) AND is_cancelled_late IS NOT TRUE;

CREATE TABLE truth AS
WITH counted AS (
  SELECT home, count(*) AS orders
  FROM placed LEFT JOIN newest_orders USING (n)
  WHERE counts(n, ordered_at)
  GROUP BY home
), sold AS (
  SELECT
    lines.home AS home,
    sum(coalesce(newest_lines.gross, lines.gross)) AS gross,
    sum(coalesce(newest_lines.discount, lines.discount)) AS discount
  FROM lines LEFT JOIN newest_orders USING (n) LEFT JOIN newest_lines USING (n, line)
  WHERE counts(n, ordered_at)
  GROUP BY lines.home
), returned AS (
  SELECT home, sum(cents) AS cents
  FROM paid_back LEFT JOIN newest_orders USING (n)
  WHERE refunded_at < $end AND is_cancelled_late IS NOT TRUE
  GROUP BY home
)
SELECT
  currency_of(home) AS currency,
  sum(orders)::BIGINT,
  sum(money(gross))::DECIMAL(38, 2),
  sum(money(gross - discount))::DECIMAL(38, 2),
  sum(money(coalesce(cents, 0)))::DECIMAL(38, 2)
FROM counted INNER JOIN sold USING (home) LEFT JOIN returned USING (home)
GROUP BY currency
ORDER BY currency;
"""

# What the dirty batch holds besides rows that break the contract. `moment` is noon of the history's last day.
_DIRT = """
-- The same rows again, and older versions that must change nothing.
INSERT INTO dirty_customers BY NAME
FROM (FROM customer_versions WHERE updated_at < $history_end ORDER BY customer_id, updated_at LIMIT $many);
INSERT INTO dirty_products BY NAME
FROM (FROM product_versions WHERE updated_at < $history_end ORDER BY product_id, updated_at LIMIT $many);
INSERT INTO dirty_orders BY NAME
SELECT * EXCLUDE (n, day) FROM orders_at($history_end) WHERE n <= $orders AND n % $step = 1 ORDER BY n;
INSERT INTO dirty_order_items BY NAME
SELECT * EXCLUDE (n, line, day) FROM line_rows WHERE n <= $orders AND n % $step = 1 ORDER BY n, line;
INSERT INTO dirty_orders BY NAME
SELECT * EXCLUDE (n, day, updated_at) REPLACE ('cancelled' AS status), ordered_at - INTERVAL 1 SECOND AS updated_at
FROM orders_at($history_end) WHERE n <= $orders AND n % $step = 2 ORDER BY n;
-- Orders whose children came with the history.
INSERT INTO dirty_orders BY NAME
SELECT * EXCLUDE (n, day) FROM orders_at($history_end) WHERE n <= $orders AND is_late(n) ORDER BY n;
-- Orders of customers and products that nobody knows, with refunds above the order and before it; and deleted orders.
INSERT INTO dirty_orders BY NAME
SELECT
  'D' || number AS order_id, 'unknown-' || number AS customer_id, 'placed' AS status, 'USD' AS currency,
  $moment AS ordered_at, $moment AS updated_at
FROM range($many) AS numbers (number);
INSERT INTO dirty_order_items BY NAME
SELECT
  'D' || number AS order_id, 1 AS line_number, 'unknown-' || number AS product_id, 1 AS quantity,
  10.00 AS gross_amount, 1.00 AS discount_amount, $moment AS updated_at
FROM range($many) AS numbers (number);
INSERT INTO dirty_refunds BY NAME
SELECT
  'D' || number AS refund_id, 'D' || number AS order_id, 1 AS line_number, 20.00 AS amount,
  $moment - INTERVAL 1 DAY AS refunded_at, $moment AS updated_at
FROM range($many) AS numbers (number);
INSERT INTO dirty_orders BY NAME
SELECT
  'G' || number AS order_id, 'placed' AS status, 'USD' AS currency, $moment AS ordered_at,
  $moment + seconds(version) AS updated_at, CASE WHEN version = 1 THEN 'true' END AS _deleted
FROM range($many) AS numbers (number), range(2) AS versions (version);
-- Children whose parents never come.
INSERT INTO dirty_order_items BY NAME
SELECT
  'missing-' || number AS order_id, 1 AS line_number, 'P1' AS product_id, 1 AS quantity, 70.00 AS gross_amount,
  $moment AS updated_at
FROM range($many) AS numbers (number);
INSERT INTO dirty_refunds BY NAME
SELECT
  'missing-' || number AS refund_id, 'missing-' || number AS order_id, 7.00 AS amount, $moment AS refunded_at,
  $moment AS updated_at
FROM range($many) AS numbers (number);
INSERT INTO dirty_ticket_events BY NAME
SELECT
  'missing-' || number AS event_id, 'missing-' || number AS ticket_id, 'created' AS event_type,
  $moment AS occurred_at
FROM range($many) AS numbers (number);
-- Tickets of a priority outside the targets, about an order that is not there.
INSERT INTO dirty_tickets BY NAME
SELECT
  'D' || number AS ticket_id, 'unknown-' || number AS customer_id, 'missing-' || number AS order_id,
  'whenever' AS priority, ' Open ' AS status, $moment AS created_at, $moment AS updated_at
FROM range($many) AS numbers (number);
"""

# What is good in a row that is spoilt in one column, besides keys, times and lists of allowed values.
_GOOD = {
    "country_code": "DE",
    "currency": "EUR",
    "line_number": "1",
    "product_id": "P1",
    "ticket_id": "T1",
    "quantity": "1",
    "gross_amount": "7.00",
    "discount_amount": "1.00",
    "amount": "7.00",
}


@dataclass
class Manifest:
    """What `path` holds, and what a warehouse holds that has loaded all of it. Amounts by currency, unconverted.

    `request` says how to make it again. `rows` are those of each file, by batch and table. Of the dirty batch:
    `rejects` by table, column and reason; `duplicates` of rows that are there already; `waiting` children whose
    parents never come. `records` are the keys of each table that are valid and not deleted. `counted_orders` are not
    cancelled; their lines make up `gross_revenue` and `net_sales` (before refunds, without tax) and their refunds
    `refunds`.
    """

    path: Path
    request: dict[str, Any]
    first_day: date
    last_day: date
    rows: dict[str, dict[str, int]] = field(default_factory=dict)
    rejects: dict[str, dict[str, dict[str, int]]] = field(default_factory=dict)
    duplicates: dict[str, int] = field(default_factory=dict)
    waiting: dict[str, int] = field(default_factory=dict)
    records: dict[str, int] = field(default_factory=dict)
    counted_orders: dict[str, int] = field(default_factory=dict)
    gross_revenue: dict[str, Decimal] = field(default_factory=dict)
    net_sales: dict[str, Decimal] = field(default_factory=dict)
    refunds: dict[str, Decimal] = field(default_factory=dict)
    is_new: bool = True

    def __str__(self) -> str:
        """Where it is, and how much of what."""
        totals = Counter[str]()
        for tables in self.rows.values():
            totals.update(tables)
        counts = ", ".join(f"{totals[table]:,} {table.replace('_', ' ')}" for table in TABLES if totals[table])
        batches = f"{len(self.rows)} batch{'es' if len(self.rows) > 1 else ''}"
        return f"{'wrote' if self.is_new else 'found'} {self.path}: {batches}, {counts}"

    def write(self, file: Path) -> None:
        """Write it as JSON, without where it is."""
        content = {name: value for name, value in asdict(self).items() if name not in ("path", "is_new")}
        file.write_text(json.dumps(content, indent=2, default=str) + "\n")

    @classmethod
    def read(cls, folder: Path) -> "Manifest":
        """The manifest of a folder. Raises OSError, ValueError, TypeError or KeyError where there is none."""
        content = json.loads((folder / MANIFEST).read_text())
        for name in ("gross_revenue", "net_sales", "refunds"):
            content[name] = {currency: Decimal(amount) for currency, amount in content[name].items()}
        for name in ("first_day", "last_day"):
            content[name] = date.fromisoformat(content[name])
        return cls(path=folder, is_new=False, **content)


def generate(
    target: Path,
    orders: int,
    *,
    days: int = 0,
    span: int = 730,
    growth: float = 0.2,
    seed: int = 7,
    dirt: bool = False,
) -> Manifest:
    """Write a history of so many orders and single days after it, as batches in `target`, whole or not at all.

    The history takes `span` days and ends on LAST_DAY; orders grow by the share `growth` a year (0: flat). `dirt` adds
    a batch with every fault of the landing contract, duplicates, stale versions, and children without parents. What
    is there from the same request stays. Raises WarehouseError for a folder that holds anything else, and for a request
    that cannot be met.
    """
    request = {"orders": orders, "days": days, "span": span, "growth": growth, "seed": seed, "dirt": dirt}
    first_rate, last_rate = _rated_days()
    most_days = (last_rate - LAST_DAY).days
    if not 1 <= orders <= MOST_ORDERS:
        raise _refusal(f"{orders:,} orders cannot be made", f"ask for 1 to {MOST_ORDERS:,}")
    if dirt and orders < LEAST_WITH_DIRT:
        raise _refusal(f"{orders:,} orders are too few for dirt", f"ask for {LEAST_WITH_DIRT:,} or more")
    if not 0 <= days <= most_days:
        raise _refusal(f"{days} days after {LAST_DAY} cannot be made", f"the exchange rates last for {most_days}")
    if not 30 <= span <= 10_000 or not -0.9 <= growth <= 10:
        raise _refusal(
            "such a history cannot be made", "ask for a span of 30 to 10,000 days and a growth of -0.9 to 10"
        )
    if target.exists():
        return _found(target, request)
    manifest = Manifest(target, request, LAST_DAY - timedelta(span - 1), LAST_DAY + timedelta(days))
    with _unfinished(target) as folder, _engine(folder.parent, seed) as db:
        _Shop(db, folder, manifest, first_rate).write()
        manifest.write(folder / MANIFEST)
    return manifest


def write_tickets(orders: Path, target: Path) -> str:
    """Write made-up tickets for the orders in a landing file as the batch folder `target`; leave one that is there.

    One of twenty orders has a ticket, by its customer. Nothing happens after the last order. Returns a line about it.
    """
    is_new = not target.exists()
    if is_new:
        with _unfinished(target) as folder, _engine(folder.parent, seed=7) as db:
            db.execute(
                "CREATE VIEW ticket_orders AS "
                "SELECT substr(order_id, 2)::BIGINT AS key, order_id, customer_id, ordered_at "
                f"FROM read_csv({_text(orders)}, types = {{'order_id': 'VARCHAR', 'ordered_at': 'TIMESTAMP'}})"
            )
            _run(db, _TICKETS, 7)
            end = _moment(_one(db, "SELECT max(ordered_at) + INTERVAL 1 SECOND FROM ticket_orders")[0])
            _copy(db, _select("tickets", f"tickets_at({end})"), folder / "tickets.csv")
            _copy(db, _select("ticket_events", "event_rows", f"occurred_at < {end}"), folder / "ticket_events.csv")
    with (target / "tickets.csv").open() as lines:
        return f"{'wrote' if is_new else 'found'} {target}: {sum(1 for _ in lines) - 1:,} generated support tickets"


class _Shop:
    """One request at work: the tables that everything is taken from, and the batches."""

    def __init__(self, db: duckdb.DuckDBPyConnection, folder: Path, manifest: Manifest, first_rate: date) -> None:
        self.db, self.folder, self.manifest = db, folder, manifest
        request = manifest.request
        self.orders, self.days, self.span = request["orders"], request["days"], request["span"]
        self.seed, self.dirt = request["seed"], request["dirt"]
        self.first_rate = first_rate
        self.history_end = self.end_of(self.span - 1)
        # For one reject of each kind the dirty batch has so many good rows of each kind: most of each file stays good.
        self.spoilt = 1 + self.orders // 200_000
        self.many = 30 * self.spoilt

    def end_of(self, day: int) -> str:
        """When a day of that number, or the batch with it, ends: the first moment that is not in it."""
        return _moment(self.manifest.first_day + timedelta(day + 1))

    def write(self) -> None:
        """Make every batch and the truth."""
        self.prepare()
        self.write_history()
        if self.dirt:
            self.write_dirt()
        for day in range(self.span, self.span + self.days):
            self.write_day(day)
        self.count()

    def prepare(self) -> None:
        """Make the tables: a number of orders and of customers for each day, then what is drawn for each."""
        weights = [
            _weight(self.manifest.first_day + timedelta(day), day, self.manifest.request["growth"])
            for day in range(self.span + self.days)
        ]
        whole = sum(weights[: self.span])
        customers = max(10, self.orders // 8)
        first_customers = max(3, customers * 3 // 10)
        rows, before, customers_before, sum_ = [], 0, first_customers, 0
        for day, weight in enumerate(weights):
            sum_ += weight
            after = sum_ * self.orders // whole
            customers_after = first_customers + (customers - first_customers) * after // self.orders
            rows.append((day, before, after, customers_before, customers_after))
            before, customers_before = after, customers_after
        self.db.execute(
            f"CREATE TABLE days AS FROM (VALUES {', '.join(map(str, rows))}) "
            "AS days (day, orders_before, orders_after, customers_before, customers_after)"
        )
        limits = list(itertools.accumulate(home[0] for home in _HOMES))
        homes = " ".join(f"WHEN percent < {limit} THEN {number}" for number, limit in enumerate(limits))
        _, *lists = zip(*_HOMES, strict=True)
        for name, values in zip(("country", "currency", "factor"), lists, strict=True):
            self.db.execute(f"CREATE MACRO {name}_of(home) AS {list(values)}[1 + home]")
        self.run(
            _SHOP,
            homes=homes,
            start=self.manifest.first_day,
            first_rate=self.first_rate,
            span=self.span,
            last_day=self.span + self.days - 1,
            first_customers=first_customers,
            scatter=customers * 5 // 4,
            products=max(60, min(5_000, self.orders * 4 // self.span)),  # of a shop's size, not of its age
            corrections=max(1, round(self.orders / self.span / CORRECTIONS)),
        )
        self.run(_TICKETS)
        step = self.orders // self.many
        self.db.execute(f"CREATE MACRO is_late(n) AS {f'n % {step} = 0' if self.dirt else 'FALSE'}")

    def run(self, text: str, **values: object) -> None:
        _run(self.db, text, self.seed, **values)

    def write_history(self) -> None:
        """All that happened to the end of the history, in its state of then."""
        end = self.history_end
        for table, source, where in (
            ("customers", "customer_versions", f"updated_at < {end}"),
            ("products", "product_versions", f"updated_at < {end}"),
            ("orders", f"orders_at({end})", f"day < {self.span} AND NOT is_late(n)"),
            ("order_items", "line_rows", f"day < {self.span}"),
            ("refunds", "refund_rows", f"refunded_at < {end}"),
            ("tickets", f"tickets_at({end})", "TRUE"),
            ("ticket_events", "event_rows", f"occurred_at < {end}"),
        ):
            self.write_file(HISTORY, table, _select(table, source, where), HISTORY_FORMAT)

    def write_day(self, day: int) -> None:
        """What happened on that day: new records, and new states of old ones."""
        begin, end = self.end_of(day - 1), self.end_of(day)
        in_day = f"updated_at >= {begin} AND updated_at < {end}"
        for table, query in (
            ("customers", _select("customers", "customer_versions", in_day)),
            ("products", _select("products", "product_versions", in_day)),
            (
                "orders",  # eight days after its order nothing happens to one any more
                _select("orders", f"orders_at({end})", f"day BETWEEN {day - 9} AND {day} AND updated_at >= {begin}")
                + " UNION ALL "
                + _select("orders", "corrected_orders", f"day = {day}"),
            ),
            (
                "order_items",
                _select("order_items", "line_rows", f"day = {day}")
                + " UNION ALL "
                + _select("order_items", "corrected_lines", f"day = {day}"),
            ),
            ("refunds", _select("refunds", "refund_rows", in_day)),
            # A ticket is closed within a month.
            (
                "tickets",
                _select("tickets", f"tickets_at({end})", f"{in_day} AND created_at > {begin} - INTERVAL 31 DAY"),
            ),
            (
                "ticket_events",
                _select(
                    "ticket_events",
                    "event_rows",
                    f"occurred_at >= {begin} AND occurred_at < {end} AND created_at > {begin} - INTERVAL 31 DAY",
                ),
            ),
        ):
            self.write_file(f"{self.manifest.first_day + timedelta(day)}", table, query, "csv")

    def write_dirt(self) -> None:
        """The batch of everything that may be wrong, and how often it is."""
        values = {
            "history_end": self.history_end,
            "moment": _moment(LAST_DAY) + " + INTERVAL 12 HOUR",
            "orders": self.orders,
            "step": self.orders // self.many,
            "many": self.many,
        }
        for table in TABLES.values():
            columns = ", ".join(f"{name} VARCHAR" for name in [*table.names, "_deleted"])
            self.db.execute(f"CREATE TABLE dirty_{table.name} ({columns})")
        self.run(_DIRT, **values)
        self.manifest.duplicates = {
            "customers": self.count_of("dirty_customers"),
            "products": self.count_of("dirty_products"),
            "orders": self.count_of("placed", f"n <= {self.orders} AND n % {values['step']} = 1"),
            "order_items": self.count_of("lines", f"n <= {self.orders} AND n % {values['step']} = 1"),
        }
        self.manifest.waiting = dict.fromkeys(("order_items", "refunds", "ticket_events"), self.many)
        for table in TABLES.values():
            rejects: dict[str, dict[str, int]] = {}
            rows = []
            names = [*table.names, "_deleted"]
            for column, value, reason in _faults(table):
                rejects.setdefault(column, {})[reason] = self.spoilt
                key = f"bad-{column}-{len(rejects[column])}-"  # and a number
                row = {c.name: key if c.key and c.type == "text" else _GOOD.get(c.name) for c in table.columns}
                row |= {c.name: c.allowed[0] for c in table.columns if c.allowed}
                row |= {c.name: f"{LAST_DAY}" for c in table.columns if c.required and c.name.endswith("_at")}
                row |= {column: value}
                rows.append(", ".join("NULL" if row.get(name) is None else _text(row[name]) for name in names))
            numbered = ", ".join(f"CASE WHEN {name} LIKE 'bad-%' THEN {name} || n ELSE {name} END" for name in names)
            self.db.execute(
                f"INSERT INTO dirty_{table.name} SELECT {numbered} FROM range({self.spoilt}) AS numbers (n), "
                f"(VALUES {', '.join(f'({row})' for row in rows)}) AS rows ({', '.join(names)})"
            )
            self.manifest.rejects[table.name] = rejects
            self.write_file(DIRT, table.name, f"FROM dirty_{table.name}", "csv")

    def write_file(self, batch: str, table: str, query: str, format_: str) -> None:
        """Write one file of a batch, unless it would be empty, and count its rows."""
        (self.folder / batch).mkdir(exist_ok=True)
        file = self.folder / batch / f"{table}.{format_}"
        if rows := _copy(self.db, query, file):
            self.manifest.rows.setdefault(batch, {})[table] = rows
        else:
            file.unlink()

    def count_of(self, source: str, where: str = "TRUE") -> int:
        return int(_one(self.db, f"SELECT count(*) FROM {source} WHERE {where}")[0])

    def count(self) -> None:
        """Find out the truth, from the newest version of every order and line."""
        manifest, end = self.manifest, self.end_of(self.span + self.days - 1)
        added = self.many if self.dirt else 0
        manifest.records = {
            "customers": self.count_of("registered"),
            "products": self.count_of("catalogue"),
            "orders": self.count_of("placed") + added,
            "order_items": self.count_of("lines") + 2 * added,
            "refunds": self.count_of("paid_back", f"refunded_at < {end}") + 2 * added,
            "tickets": self.count_of("ticket_lives", f"created_at < {end}") + added,
            "ticket_events": self.count_of("event_rows", f"occurred_at < {end}") + added,
        }
        self.run(_TRUTH, end=end)
        for currency, orders, gross, net, refunds in self.db.execute("FROM truth").fetchall():
            extra = added if currency == "USD" else 0  # each of them: 10.00 less 1.00, and 20.00 back
            manifest.counted_orders[currency] = orders + extra
            manifest.gross_revenue[currency] = gross + 10 * extra
            manifest.net_sales[currency] = net + 9 * extra
            manifest.refunds[currency] = refunds + 20 * extra


def _faults(table: Table) -> Iterator[tuple[str, str | None, str]]:
    """Column, value and reason of every way to break the contract of a table."""
    for column in table.columns:
        yield from ((column.name, value, reason) for value, reason in _faults_of(column))
    yield "_deleted", "perhaps", "not true or false"


def _faults_of(column: Column) -> Iterator[tuple[str | None, str]]:
    if column.required:
        yield None, "missing"
    if column.type == "integer":
        yield "1.5", "not a whole number"
        yield "99999999999", "out of range"
    elif column.type == "numeric(18,4)":
        yield "12,50", "not a number"
        yield "1.00001", "more than 4 decimals"
        yield "123456789012345", "out of range"
    elif column.type == "timestamp with time zone":
        yield "now", "not an ISO 8601 timestamp"
        yield "2011-02-30T00:00:00Z", "not a date"
        yield "1899-12-31T00:00:00Z", f"before {EARLIEST}"
        yield "2999-01-01T00:00:00Z", "more than a day after the load"
    elif column.allowed:
        yield "lost", f"not one of {', '.join(column.allowed)}"
    elif column.letters:
        yield "1", f"not {column.letters} letters"
    if column.above is not None:
        yield "0", f"not more than {column.above}"
    if column.at_least is not None:
        yield "-0.01", f"less than {column.at_least}"
    if column.at_most is not None:
        yield "99.00", f"more than {column.at_most}"


def _weight(day: date, number: int, growth: float) -> int:
    """What share of the orders a day has: weekends and summers are slow, December is busy. In whole millionths."""
    season = 1 + 0.08 * math.cos(2 * math.pi * (day.timetuple().tm_yday - 340) / 365.25)
    season += 0.6 * math.exp(-((((date(day.year, 12, 14) - day).days) / 12) ** 2))
    week = (1.05, 1.0, 1.0, 1.05, 1.15, 0.95, 0.8)[day.weekday()]
    return round(1_000_000 * season * week * math.pow(1 + growth, number / 365.25))


def _rated_days() -> tuple[date, date]:
    """First and last day of the exchange rates in seeds/."""
    with (ROOT / "seeds" / "exchange_rates.csv").open() as lines:
        days = sorted(line[:10] for line in lines if line[:1].isdigit())
    return date.fromisoformat(days[0]), date.fromisoformat(days[-1])


def _found(target: Path, request: dict[str, Any]) -> Manifest:
    """The manifest of a folder that is there, if it is of the same request."""
    try:
        manifest = Manifest.read(target)
    except (OSError, ValueError, TypeError, KeyError):
        raise _refusal(f"{target} is there and was not generated", "name another folder, or delete it") from None
    if manifest.request != request:
        made = ", ".join(f"{name} {value}" for name, value in manifest.request.items())
        raise _refusal(f"{target} holds other data ({made})", "name another folder, or delete it")
    return manifest


def _refusal(what: str, hint: str) -> WarehouseError:
    return WarehouseError(what, hint, Exit.INPUT_REFUSED)


# DuckDB ---------------------------------------------------------------------------------------------------------------


@contextmanager
def _engine(scratch: Path, seed: int) -> Iterator[duckdb.DuckDBPyConnection]:
    """DuckDB in memory, with the macros; what does not fit goes to the folder `scratch`."""
    with duckdb.connect() as db:
        db.execute(f"SET memory_limit = '{MEMORY}'; SET temp_directory = {_text(scratch / 'scratch')}")
        _run(db, _MACROS, seed)
        for name, words in _WORDS.items():
            choices = ", ".join(map(_text, words))
            db.execute(f"CREATE MACRO word_{name}(salt, key) AS [{choices}][1 + pick(salt, key, {len(words)})]")
        yield db


def _run(db: duckdb.DuckDBPyConnection, text: str, seed: int, **values: object) -> None:
    """Run statements: $name is a value of ours, and a quoted 'table.column' the salt that the seed makes of it."""
    text = re.sub(r"\$([a-z_]+)", lambda match: str(values[match[1]]), text)
    db.execute(
        re.sub(r"'([a-z_]+\.[a-z_]+)'", lambda match: f"{zlib.crc32(f'{seed} {match[1]}'.encode())}::UBIGINT", text)
    )


def _select(table: str, source: str, where: str = "TRUE") -> str:
    return f"SELECT {', '.join(TABLES[table].names)} FROM {source} WHERE {where}"


def _copy(db: duckdb.DuckDBPyConnection, query: str, file: Path) -> int:
    """Write the rows of a query, in its order, and count them."""
    options = (
        "FORMAT parquet" if file.suffix == ".parquet" else "FORMAT csv, HEADER, TIMESTAMPFORMAT '%Y-%m-%dT%H:%M:%SZ'"
    )
    return int(_one(db, f"COPY ({query}) TO {_text(file)} ({options})")[0])


def _one(db: duckdb.DuckDBPyConnection, query: str) -> tuple[Any, ...]:
    row = db.execute(query).fetchone()
    assert row is not None
    return row


def _moment(moment: date) -> str:
    return f"TIMESTAMP '{moment}'"


def _text(value: object) -> str:
    return "'" + str(value).replace("'", "''") + "'"


@contextmanager
def _unfinished(target: Path) -> Iterator[Path]:
    """A hidden folder that becomes `target` when all went well, and else is gone."""
    target.parent.mkdir(parents=True, exist_ok=True)
    workplace = Path(tempfile.mkdtemp(prefix=f".{target.name}.", dir=target.parent))
    try:
        folder = workplace / "unfinished"
        folder.mkdir()
        yield folder
        folder.rename(target)
    except (OSError, duckdb.IOException) as error:
        raise WarehouseError(f"{target} was not written: {error}", "look after the disk", Exit.TRANSIENT) from None
    finally:
        shutil.rmtree(workplace, ignore_errors=True)
