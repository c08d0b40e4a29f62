/* models/ml/score_bounds.py in SQL: dbt-postgres runs no Python. */
WITH places AS (
  SELECT
    scores.score,
    (scores.score - 1) * customers.number / 5 + 1 AS place
  FROM (VALUES (1), (2), (3), (4), (5)) AS scores(score)
  CROSS JOIN (
    SELECT
      COUNT(*) AS number
    FROM marts.customer_lifetime
    WHERE
      orders > 0
  ) AS customers
), days AS (
  SELECT
    last_order_date,
    ROW_NUMBER() OVER (ORDER BY last_order_date) AS place
  FROM marts.customer_lifetime
  WHERE
    orders > 0
), counts AS (
  SELECT
    orders,
    ROW_NUMBER() OVER (ORDER BY orders) AS place
  FROM marts.customer_lifetime
  WHERE
    orders > 0
), amounts AS (
  SELECT
    net_revenue,
    ROW_NUMBER() OVER (ORDER BY net_revenue) AS place
  FROM marts.customer_lifetime
  WHERE
    orders > 0
)
SELECT
  places.score,
  days.last_order_date,
  counts.orders,
  amounts.net_revenue
FROM places
INNER JOIN days
  ON places.place = days.place
INNER JOIN counts
  ON places.place = counts.place
INNER JOIN amounts
  ON places.place = amounts.place
