MODEL (
  name staging.product_touches,
  kind VIEW,
  owner commerce,
  tags (staging, commerce),
  grain (product_id, _loaded_at),
  description 'One row per load that touched a product: by a version of the product, or of an order line or a refund that ever named the product.',
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
  loads._loaded_at::TIMESTAMPTZ
FROM raw.order_items AS loads
INNER JOIN raw.order_items AS versions
  ON loads.order_id = versions.order_id AND loads.line_number = versions.line_number
UNION
SELECT
  product_id::TEXT,
  _loaded_at::TIMESTAMPTZ
FROM staging.refund_touches
