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

WITH changes AS (
  /* most loads of an order say nothing new here: that it was shipped, or a refund of it */
  SELECT
    loads.customer_id,
    loads.ordered_at,
    loads._loaded_at
  FROM raw.orders AS loads
  WHERE
    NOT EXISTS(
      SELECT
        1
      FROM raw.orders AS earlier
      WHERE
        earlier.order_id = loads.order_id AND earlier._loaded_at < loads._loaded_at
    )
  UNION ALL
  SELECT
    versions.customer_id,
    versions.ordered_at,
    loads._loaded_at
  FROM raw.orders AS loads
  INNER JOIN raw.orders AS others
    ON loads.order_id = others.order_id
    AND (
      loads.customer_id IS DISTINCT FROM others.customer_id
      OR DATE_TRUNC('MONTH', @local_date(loads.ordered_at)) <> DATE_TRUNC('MONTH', @local_date(others.ordered_at))
      OR (
        loads.status = 'cancelled' OR loads._deleted
      ) <> (
        others.status = 'cancelled' OR others._deleted
      )
    )
  INNER JOIN raw.orders AS versions
    ON loads.order_id = versions.order_id
), touches AS (
  SELECT
    DATE_TRUNC('MONTH', @local_date(changes.ordered_at))::DATE AS month,
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
