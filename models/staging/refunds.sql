MODEL (
  name staging.refunds,
  kind CUSTOM (
    materialization 'replace_touched',
    materialization_properties (key = refund_id)
  ),
  owner commerce,
  tags (staging, commerce),
  grain refund_id,
  description 'One row per refund that exists at the source: the newest version of each. Refunds whose order has not arrived wait here.',
  column_descriptions (
    refund_id = 'Key of the refund, as delivered.',
    order_id = 'Order refunded, where one is named.',
    line_number = 'Line refunded, where one is named.',
    customer_id = 'Customer, where one is named.',
    product_id = 'Product, where one is named.',
    quantity = 'Units returned.',
    amount = 'Amount paid back, without tax, in the currency of the order.',
    reason = 'Reason given.',
    refunded_at = 'When it was paid back.',
    updated_at = 'Clock of the version shown.'
  ),
  audits (
    grain_is_unique(columns := refund_id),
    no_rows_lost(source := raw.refunds, key := refund_id)
  )
);

WITH touched AS (
  SELECT DISTINCT
    refund_id
  FROM raw.refunds
  WHERE
    @loaded()
), versions AS (
  SELECT DISTINCT ON (refund_id)
    refund_id,
    order_id,
    line_number,
    customer_id,
    product_id,
    quantity,
    amount,
    reason,
    refunded_at,
    updated_at,
    _deleted
  FROM raw.refunds
  WHERE
    @landed() AND @touched(refund_id)
  ORDER BY
    refund_id,
    updated_at DESC,
    _loaded_at DESC,
    _row_number DESC,
    _batch_id DESC
)
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
  updated_at::TIMESTAMPTZ
FROM versions
WHERE
  NOT _deleted;

@create_index(refund_id, unique := TRUE);

@create_index(order_id);

@create_index(customer_id);

@create_index(product_id);

@create_index(refunded_at)
