MODEL (
  name staging.order_versions,
  kind VIEW,
  owner commerce,
  tags (staging, commerce),
  grain (_batch_id, _row_number),
  description 'One row per version of an order that was ever landed: what the order was worth to whom and when, as far as the order itself says.',
  column_descriptions (
    order_id = 'Key of the order, as delivered.',
    customer_id = 'Customer; NULL for a guest, or in a deletion that names none.',
    currency = 'ISO 4217 code of the amounts.',
    is_counted = 'Whether an order of this status counts; NULL in a deletion that tells none.',
    ordered_at = 'When it was ordered; NULL in a deletion that tells none.',
    order_date = 'Local day of ordered_at.',
    _deleted = 'True: gone at the source as of this version.',
    _batch_id = 'Batch that brought the row.',
    _loaded_at = 'When the batch was published.',
    _row_number = 'Its record in its file.'
  )
);

SELECT
  orders.order_id::TEXT,
  orders.customer_id::TEXT,
  orders.currency::TEXT,
  statuses.is_counted::BOOLEAN,
  orders.ordered_at::TIMESTAMPTZ,
  @local_date(orders.ordered_at) AS order_date,
  orders._deleted::BOOLEAN,
  orders._batch_id::BIGINT,
  orders._loaded_at::TIMESTAMPTZ,
  orders._row_number::BIGINT
FROM raw.orders AS orders
LEFT JOIN seeds.order_statuses AS statuses
  ON orders.status = statuses.status
