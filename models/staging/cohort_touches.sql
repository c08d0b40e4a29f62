MODEL (
  name staging.cohort_touches,
  kind VIEW,
  owner commerce,
  tags (staging, commerce),
  grain (month, is_cohort_touched, _loaded_at),
  description 'One row per load and local month in which it brought an order of a customer, moved it, or made it count or not. What a mart about cohorts must recompute: this month, and every later one where the cohort of a customer may be another now.',
  column_descriptions (
    month = 'First day of a local month that a version of such an order named.',
    is_cohort_touched = 'True: the month is not after the first month of the customer, so that this load may have moved the customer to another cohort.',
    _loaded_at = 'When that version of the order was loaded.'
  )
);

WITH versions AS (
  SELECT
    order_id,
    customer_id,
    DATE_TRUNC('MONTH', @local_date(ordered_at))::DATE AS month,
    status = 'cancelled' OR _deleted AS is_out,
    _loaded_at
  FROM raw.orders
), touches AS (
  /* most loads of an order say nothing new here: that it was shipped, or a refund of it */
  SELECT
    versions.month,
    (
      SELECT
        MIN(orders.order_date)
      FROM staging.orders AS orders
      WHERE
        orders.customer_id = versions.customer_id AND orders.is_counted
    ) AS first_order_date,
    loads._loaded_at
  FROM versions AS loads
  INNER JOIN versions
    ON loads.order_id = versions.order_id
  WHERE
    NOT versions.customer_id IS NULL
    AND (
      NOT EXISTS(
        SELECT
          1
        FROM raw.orders AS earlier
        WHERE
          earlier.order_id = loads.order_id AND earlier._loaded_at < loads._loaded_at
      )
      OR EXISTS(
        SELECT
          1
        FROM versions AS others
        WHERE
          others.order_id = loads.order_id
          AND (
            others.customer_id IS DISTINCT FROM loads.customer_id
            OR others.month <> loads.month
            OR others.is_out <> loads.is_out
          )
      )
    )
)
SELECT DISTINCT
  month::DATE,
  COALESCE(month <= first_order_date, TRUE)::BOOLEAN AS is_cohort_touched,
  _loaded_at::TIMESTAMPTZ
FROM touches
