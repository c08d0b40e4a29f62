MODEL (
  name staging.order_touches,
  kind VIEW,
  owner commerce,
  tags (staging, commerce),
  grain (order_id, order_date, customer_id, _loaded_at),
  description 'One row per load that touched an order, by a version of it that may have changed its worth, of a line or of a refund, and per day and customer that any version of the order ever named. What a mart must recompute when an order moves: where it was and where it is.',
  column_descriptions (
    order_id = 'Order touched.',
    order_date = 'Local day that a version of the order named; NULL while the order has not arrived, or for a deletion that names none.',
    customer_id = 'Customer that a version of the order named; NULL for a guest, or where order_date is NULL.',
    _loaded_at = 'When the touching row was loaded.'
  )
);

WITH touches AS (
  SELECT
    order_id,
    _loaded_at
  FROM staging.order_changes
  UNION ALL
  SELECT
    order_id,
    _loaded_at
  FROM raw.order_items
  UNION ALL
  SELECT
    versions.order_id,
    loads._loaded_at
  FROM raw.refunds AS loads
  INNER JOIN raw.refunds AS versions
    ON loads.refund_id = versions.refund_id
)
SELECT DISTINCT
  touches.order_id::TEXT,
  versions.order_date::DATE,
  versions.customer_id::TEXT,
  touches._loaded_at::TIMESTAMPTZ
FROM touches
LEFT JOIN staging.order_versions AS versions
  ON touches.order_id = versions.order_id
WHERE
  NOT touches.order_id IS NULL
