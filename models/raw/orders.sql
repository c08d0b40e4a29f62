MODEL (
  name raw.orders,
  kind VIEW,
  owner commerce,
  tags (raw, commerce),
  grain (_batch_id, _row_number),
  description 'One row per version of an order that was ever landed, oldest versions included.',
  column_descriptions (
    order_id = 'Key of the order, as delivered.',
    customer_id = 'Customer; NULL for a guest.',
    status = 'placed, shipped, delivered or cancelled.',
    currency = 'ISO 4217 code of the amounts.',
    shipping_amount = 'Shipping charged.',
    ordered_at = 'When it was ordered.',
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
  customer_id::TEXT,
  status::TEXT,
  currency::TEXT,
  shipping_amount::DECIMAL(18, 4),
  ordered_at::TIMESTAMPTZ,
  updated_at::TIMESTAMPTZ,
  _deleted::BOOLEAN,
  _batch_id::BIGINT,
  _loaded_at::TIMESTAMPTZ,
  _source_file::TEXT,
  _row_number::BIGINT
FROM landing.orders
