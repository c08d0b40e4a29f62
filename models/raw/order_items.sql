MODEL (
  name raw.order_items,
  kind VIEW,
  owner commerce,
  tags (raw, commerce),
  grain (_batch_id, _row_number),
  description 'One row per version of an order line that was ever landed, oldest versions included.',
  column_descriptions (
    order_id = 'Order of the line.',
    line_number = 'Number of the line in its order.',
    product_id = 'Product sold.',
    quantity = 'Units sold, above zero.',
    gross_amount = 'Line total before discount, without tax.',
    discount_amount = 'Discount, from zero to gross_amount.',
    tax_amount = 'Tax.',
    updated_at = 'Version clock: the greatest wins.',
    _deleted = 'True: gone at the source as of this version.',
    _batch_id = 'Batch that brought the row.',
    _loaded_at = 'When the batch was published; drives the increments.',
    _source_file = 'File it came from.',
    _row_number = 'Its record in that file.'
  )
);

SELECT
  order_id::TEXT,
  line_number::INT,
  product_id::TEXT,
  quantity::DECIMAL(18, 4),
  gross_amount::DECIMAL(18, 4),
  discount_amount::DECIMAL(18, 4),
  tax_amount::DECIMAL(18, 4),
  updated_at::TIMESTAMPTZ,
  _deleted::BOOLEAN,
  _batch_id::BIGINT,
  _loaded_at::TIMESTAMPTZ,
  _source_file::TEXT,
  _row_number::BIGINT
FROM landing.order_items
