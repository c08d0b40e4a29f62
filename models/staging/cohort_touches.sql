MODEL (
  name staging.cohort_touches,
  kind VIEW,
  owner commerce,
  tags (staging, commerce),
  grain (month, is_cohort_touched, _loaded_at),
  description 'One row per load and local month in which it brought an order of a customer, or changed it. What a mart about cohorts must recompute: this month, and every later one where the cohort of a customer may be another now.',
  column_descriptions (
    month = 'First day of a local month that a version of such an order named.',
    is_cohort_touched = 'True: the month is not after the first month of the customer, so that this load may have moved the customer to another cohort.',
    _loaded_at = 'When that version of the order was loaded.'
  )
);

WITH changes AS (
  SELECT
    versions.customer_id,
    versions.order_date,
    changes._loaded_at
  FROM staging.order_changes AS changes
  INNER JOIN staging.order_versions AS versions
    ON changes.order_id = versions.order_id
), touches AS (
  SELECT
    DATE_TRUNC('MONTH', changes.order_date)::DATE AS month,
    (
      SELECT
        MIN(orders.order_date)
      FROM staging.orders AS orders
      WHERE
        orders.customer_id = changes.customer_id AND orders.is_counted
    ) AS first_order_date,
    changes._loaded_at
  FROM changes
  WHERE
    NOT changes.customer_id IS NULL
)
SELECT DISTINCT
  month::DATE,
  COALESCE(month <= first_order_date, TRUE)::BOOLEAN AS is_cohort_touched,
  _loaded_at::TIMESTAMPTZ
FROM touches
