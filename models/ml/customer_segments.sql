MODEL (
  name ml.customer_segments,
  kind CUSTOM (
    materialization 'replace_touched',
    materialization_properties (key = customer_id)
  ),
  owner data_science,
  tags (ml, customers),
  grain customer_id,
  description 'One row per customer with a counted order. Answers: which customers are of high, medium or low value, and who bought recently, often and for much? Scores go from 1 to 5, 5 the best fifth, by cumulative distribution, so that equal values get equal scores. Excludes guests.',
  column_descriptions (
    customer_id = 'Customer; joins marts.dim_customers.',
    segment = 'high_value, medium_value or low_value: that of marts.customer_lifetime.',
    order_days = 'Local days with a counted order.',
    orders = 'Counted orders: what frequency_score scores.',
    net_revenue = 'Net sales less refunds (order basis), in the reporting currency: what monetary_score scores.',
    last_order_date = 'Local day of the last counted order: what recency_score scores. Recency is the last date_day of marts.dim_dates less this day.',
    recency_score = '1 to 5.',
    frequency_score = '1 to 5.',
    monetary_score = '1 to 5.'
  ),
  audits (
    grain_is_unique(columns := customer_id),
    foreign_key_holds(column := customer_id, parent := marts.customer_lifetime, key := customer_id)
  )
);

WITH touched AS (
  SELECT
    customer_id
  FROM staging.order_touches
  WHERE
    @loaded() AND NOT customer_id IS NULL
  UNION
  SELECT
    customer_id
  FROM staging.refund_touches
  WHERE
    @loaded() AND NOT customer_id IS NULL
  UNION
  /* whom a bound has passed */
  SELECT
    scored.customer_id
  FROM ml.score_bounds AS bounds
  LEFT JOIN ml.score_bounds AS next_bounds
    ON bounds.score + 1 = next_bounds.score
  INNER JOIN ml.customer_segments AS scored
    ON bounds.score = scored.recency_score
    AND (
      bounds.last_order_date > scored.last_order_date
      OR next_bounds.last_order_date <= scored.last_order_date
    )
  UNION
  SELECT
    scored.customer_id
  FROM ml.score_bounds AS bounds
  LEFT JOIN ml.score_bounds AS next_bounds
    ON bounds.score + 1 = next_bounds.score
  INNER JOIN ml.customer_segments AS scored
    ON bounds.score = scored.frequency_score
    AND (
      bounds.orders > scored.orders OR next_bounds.orders <= scored.orders
    )
  UNION
  SELECT
    scored.customer_id
  FROM ml.score_bounds AS bounds
  LEFT JOIN ml.score_bounds AS next_bounds
    ON bounds.score + 1 = next_bounds.score
  INNER JOIN ml.customer_segments AS scored
    ON bounds.score = scored.monetary_score
    AND (
      bounds.net_revenue > scored.net_revenue
      OR next_bounds.net_revenue <= scored.net_revenue
    )
), customers AS (
  SELECT
    customer_id,
    segment,
    order_days,
    orders,
    net_revenue,
    last_order_date
  FROM marts.customer_lifetime
  WHERE
    orders > 0 AND @touched(customer_id)
), scores AS (
  SELECT
    customers.customer_id,
    customers.segment,
    customers.order_days,
    customers.orders,
    customers.net_revenue,
    customers.last_order_date,
    SUM(CASE WHEN bounds.last_order_date <= customers.last_order_date THEN 1 ELSE 0 END) AS recency_score,
    SUM(CASE WHEN bounds.orders <= customers.orders THEN 1 ELSE 0 END) AS frequency_score,
    SUM(CASE WHEN bounds.net_revenue <= customers.net_revenue THEN 1 ELSE 0 END) AS monetary_score
  FROM customers
  CROSS JOIN ml.score_bounds AS bounds
  GROUP BY
    customers.customer_id,
    customers.segment,
    customers.order_days,
    customers.orders,
    customers.net_revenue,
    customers.last_order_date
)
SELECT
  customer_id::TEXT,
  segment::TEXT,
  order_days::BIGINT,
  orders::BIGINT,
  net_revenue::DECIMAL(18, 4),
  last_order_date::DATE,
  recency_score::INT,
  frequency_score::INT,
  monetary_score::INT
FROM scores;

@create_index(customer_id, unique := TRUE)
