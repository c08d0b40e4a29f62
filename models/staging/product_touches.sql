MODEL (
  name staging.product_touches,
  kind VIEW,
  owner commerce,
  tags (staging, commerce),
  grain (product_id, _loaded_at),
  description 'One row per load that touched a product: by a version of the product, of an order with a line that ever named the product, of that line, or of a refund of that order or of the product.',
  column_descriptions (
    product_id = 'Product touched; NULL where none was named.',
    _loaded_at = 'When the touching row was loaded.'
  )
);

SELECT
  product_id::TEXT,
  _loaded_at::TIMESTAMPTZ
FROM raw.products
UNION
SELECT
  versions.product_id::TEXT,
  touches._loaded_at::TIMESTAMPTZ
FROM staging.order_touches AS touches
INNER JOIN raw.order_items AS versions
  ON touches.order_id = versions.order_id
UNION
SELECT
  product_id::TEXT,
  _loaded_at::TIMESTAMPTZ
FROM staging.refund_touches
