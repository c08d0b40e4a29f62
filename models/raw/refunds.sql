MODEL (
  name raw.refunds,
  kind VIEW,
  owner commerce,
  tags (raw, commerce),
  grain (_batch_id, _row_number),
  description 'One row per version of a refund that was ever landed, oldest versions included.',
  column_descriptions (
    refund_id = 'Key of the refund, as delivered.',
    order_id = 'Order refunded, where one is named.',
    line_number = 'Line refunded, where one is named.',
    customer_id = 'Customer, where one is named.',
    product_id = 'Product, where one is named.',
    quantity = 'Units returned.',
    amount = 'Amount paid back, without tax.',
    reason = 'Reason given.',
    refunded_at = 'When it was paid back.',
    updated_at = 'Version clock: the greatest wins.',
    _deleted = 'True: gone at the source as of this version.',
    _batch_id = 'Batch that brought the row.',
    _loaded_at = 'When the batch was published; drives the increments.',
    _source_file = 'File it came from.',
    _row_number = 'Its record in that file.'
  )
);

SELECT
  refund_id::TEXT,
  order_id::TEXT,
  line_number::INT,
  customer_id::TEXT,
  product_id::TEXT,
  quantity::DECIMAL(18, 4),
  amount::DECIMAL(18, 4),
  reason::TEXT,
  refunded_at::TIMESTAMPTZ,
  updated_at::TIMESTAMPTZ,
  _deleted::BOOLEAN,
  _batch_id::BIGINT,
  _loaded_at::TIMESTAMPTZ,
  _source_file::TEXT,
  _row_number::BIGINT
FROM landing.refunds
