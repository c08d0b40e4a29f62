MODEL (
  name staging.refund_touches,
  kind VIEW,
  owner commerce,
  tags (staging, commerce),
  grain (refund_id, refund_date, customer_id, product_id, _loaded_at),
  description 'One row per load that touched a refund, by a version of it, of its order that may have changed its worth, or of a line of its order, and per day, customer and product that any version of the refund ever named.',
  column_descriptions (
    refund_id = 'Refund touched.',
    refund_date = 'Local day that a version of the refund named; NULL for a deletion that names none.',
    customer_id = 'Customer that a version of the refund named; NULL where it named none.',
    product_id = 'Product that a version of the refund named; NULL where it named none.',
    _loaded_at = 'When the touching row was loaded.'
  )
);

WITH touches AS (
  SELECT
    refund_id,
    _loaded_at
  FROM raw.refunds
  UNION ALL
  SELECT
    refunds.refund_id,
    orders._loaded_at
  FROM staging.order_changes AS orders
  INNER JOIN raw.refunds AS refunds
    ON orders.order_id = refunds.order_id
  UNION ALL
  SELECT
    refunds.refund_id,
    order_items._loaded_at
  FROM raw.order_items AS order_items
  INNER JOIN raw.refunds AS refunds
    ON order_items.order_id = refunds.order_id
)
SELECT DISTINCT
  touches.refund_id::TEXT,
  @local_date(versions.refunded_at) AS refund_date,
  versions.customer_id::TEXT,
  versions.product_id::TEXT,
  touches._loaded_at::TIMESTAMPTZ
FROM touches
INNER JOIN raw.refunds AS versions
  ON touches.refund_id = versions.refund_id
