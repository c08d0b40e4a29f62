MODEL (
  name staging.customer_touches,
  kind VIEW,
  owner commerce,
  tags (staging, commerce),
  grain (customer_id, _loaded_at),
  description 'One row per load that touched a customer: by a version of the customer, or of an order, a refund or a ticket that ever named the customer.',
  column_descriptions (
    customer_id = 'Customer touched; NULL where none was named.',
    _loaded_at = 'When the touching row was loaded.'
  )
);

SELECT
  customer_id::TEXT,
  _loaded_at::TIMESTAMPTZ
FROM raw.customers
UNION
SELECT
  customer_id::TEXT,
  _loaded_at::TIMESTAMPTZ
FROM staging.order_touches
UNION
SELECT
  customer_id::TEXT,
  _loaded_at::TIMESTAMPTZ
FROM staging.refund_touches
UNION
SELECT
  customer_id::TEXT,
  _loaded_at::TIMESTAMPTZ
FROM staging.ticket_touches
