MODEL (
  name staging.product_touches,
  kind VIEW,
  owner commerce,
  tags (staging, commerce),
  grain (product_id, order_date, _loaded_at),
  description 'One row per load that touched a product, by a version of the product, of an order with a line or a refund that ever named the product, of that line or refund, or of a refund without an order, and per day on which it was sold or refunded, on an order basis, by any version of these.',
  column_descriptions (
    product_id = 'Product touched; NULL where none was named.',
    order_date = 'Local day that a version of the order named, or, of a refund without an order that has arrived, of the refund; NULL for a line whose order has not arrived, for a version of the product itself, or for a deletion that names none.',
    _loaded_at = 'When the touching row was loaded.'
  )
);

SELECT
  product_id::TEXT,
  NULL::DATE AS order_date,
  _loaded_at::TIMESTAMPTZ
FROM raw.products
UNION
SELECT
  versions.product_id::TEXT,
  touches.order_date::DATE,
  touches._loaded_at::TIMESTAMPTZ
FROM staging.order_touches AS touches
INNER JOIN raw.order_items AS versions
  ON touches.order_id = versions.order_id
UNION
SELECT
  touches.product_id::TEXT,
  COALESCE(orders.order_date, touches.refund_date)::DATE AS order_date,
  touches._loaded_at::TIMESTAMPTZ
FROM staging.refund_touches AS touches
INNER JOIN raw.refunds AS versions
  ON touches.refund_id = versions.refund_id
LEFT JOIN staging.order_versions AS orders
  ON versions.order_id = orders.order_id
