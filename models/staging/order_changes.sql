MODEL (
  name staging.order_changes,
  kind VIEW,
  owner commerce,
  tags (staging, commerce),
  grain (order_id, _loaded_at),
  description 'One row per load that brought an order, or a version that may have changed what it is worth to whom and when. Most versions do not: they say that it was shipped.',
  column_descriptions (
    order_id = 'Order changed.',
    _loaded_at = 'When the changing version was loaded.'
  )
);

SELECT
  loads.order_id::TEXT,
  loads._loaded_at::TIMESTAMPTZ
FROM staging.order_versions AS loads
INNER JOIN staging.order_versions AS others
  ON loads.order_id = others.order_id
GROUP BY
  loads.order_id,
  loads._loaded_at
HAVING
  loads._loaded_at = MIN(others._loaded_at)
  OR SUM(
    CASE
      WHEN loads.customer_id IS DISTINCT FROM others.customer_id
      OR loads.currency IS DISTINCT FROM others.currency
      OR loads.is_counted IS DISTINCT FROM others.is_counted
      OR loads.ordered_at IS DISTINCT FROM others.ordered_at
      OR loads._deleted <> others._deleted
      THEN 1
      ELSE 0
    END
  ) > 0
