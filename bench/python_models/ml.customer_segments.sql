/* models/ml/customer_segments.py in SQL: dbt-postgres runs no Python. */
SELECT
  customer_id,
  segment,
  order_days,
  orders,
  net_revenue,
  CAST(recency_days AS BIGINT) AS recency_days,
  CAST(CEIL(5 * CAST(recency_rank AS DECIMAL) / customers) AS INT) AS recency_score,
  CAST(CEIL(5 * CAST(frequency_rank AS DECIMAL) / customers) AS INT) AS frequency_score,
  CAST(CEIL(5 * CAST(monetary_rank AS DECIMAL) / customers) AS INT) AS monetary_score
FROM (
  SELECT
    lifetimes.customer_id,
    lifetimes.segment,
    lifetimes.order_days,
    lifetimes.orders,
    lifetimes.net_revenue,
    dates.as_of_date - lifetimes.last_order_date AS recency_days,
    COUNT(*) OVER (ORDER BY lifetimes.last_order_date) AS recency_rank,
    COUNT(*) OVER (ORDER BY lifetimes.orders) AS frequency_rank,
    COUNT(*) OVER (ORDER BY lifetimes.net_revenue) AS monetary_rank,
    COUNT(*) OVER () AS customers
  FROM marts.customer_lifetime AS lifetimes
  CROSS JOIN (
    SELECT
      MAX(date_day) AS as_of_date
    FROM marts.dim_dates
  ) AS dates
  WHERE
    lifetimes.orders > 0
) AS ranked
