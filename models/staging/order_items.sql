MODEL (
  name staging.order_items,
  kind CUSTOM (
    materialization 'replace_touched',
    materialization_properties (key = order_id)
  ),
  owner commerce,
  tags (staging, commerce),
  grain (order_id, line_number),
  description 'One row per order line that exists at the source: the newest version of each. Lines whose order has not arrived wait here.',
  column_descriptions (
    order_id = 'Order of the line.',
    line_number = 'Number of the line in its order.',
    product_id = 'Product sold.',
    quantity = 'Units sold.',
    gross_amount = 'Line total before discount, without tax, in the currency of the order.',
    discount_amount = 'Discount; nothing delivered is zero.',
    tax_amount = 'Tax; nothing delivered is zero.',
    updated_at = 'Clock of the version shown.'
  ),
  audits (
    grain_is_unique(columns := (order_id, line_number)),
    no_rows_lost(source := raw.order_items, key := (order_id, line_number))
  )
);

WITH touched AS (
  SELECT DISTINCT
    order_id
  FROM raw.order_items
  WHERE
    @loaded()
), versions AS (
  SELECT DISTINCT ON (order_id, line_number)
    order_id,
    line_number,
    product_id,
    quantity,
    gross_amount,
    discount_amount,
    tax_amount,
    updated_at,
    _deleted
  FROM raw.order_items
  WHERE
    @landed() AND @touched(order_id)
  ORDER BY
    order_id,
    line_number,
    updated_at DESC,
    _loaded_at DESC,
    _row_number DESC,
    _batch_id DESC
)
SELECT
  order_id::TEXT,
  line_number::INT,
  product_id::TEXT,
  quantity::DECIMAL(18, 4),
  gross_amount::DECIMAL(18, 4),
  COALESCE(discount_amount, 0)::DECIMAL(18, 4) AS discount_amount,
  COALESCE(tax_amount, 0)::DECIMAL(18, 4) AS tax_amount,
  updated_at::TIMESTAMPTZ
FROM versions
WHERE
  NOT _deleted;

@create_index(order_id, line_number, unique := TRUE);

@create_index(product_id)
