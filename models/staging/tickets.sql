MODEL (
  name staging.tickets,
  kind CUSTOM (
    materialization 'replace_touched',
    materialization_properties (key = ticket_id)
  ),
  owner support,
  tags (staging, support),
  grain ticket_id,
  description 'One row per support ticket that exists at the source: the newest version of each.',
  column_descriptions (
    ticket_id = 'Key of the ticket, as delivered.',
    customer_id = 'Customer who asked.',
    order_id = 'Order asked about.',
    channel = 'Channel it came by.',
    priority = 'Priority.',
    category = 'Subject.',
    status = 'open, pending, solved or closed.',
    created_at = 'When it was created.',
    updated_at = 'Clock of the version shown.'
  ),
  audits (
    grain_is_unique(columns := ticket_id),
    no_rows_lost(source := raw.tickets, key := ticket_id)
  )
);

WITH touched AS (
  SELECT DISTINCT
    ticket_id
  FROM raw.tickets
  WHERE
    @loaded()
), versions AS (
  SELECT
    ticket_id,
    customer_id,
    order_id,
    channel,
    priority,
    category,
    status,
    created_at,
    updated_at,
    _deleted,
    ROW_NUMBER() OVER (
      PARTITION BY ticket_id
      ORDER BY updated_at DESC, _loaded_at DESC, _row_number DESC, _batch_id DESC
    ) AS version_rank
  FROM raw.tickets
  WHERE
    @landed() AND @touched(ticket_id)
)
SELECT
  ticket_id::TEXT,
  customer_id::TEXT,
  order_id::TEXT,
  channel::TEXT,
  priority::TEXT,
  category::TEXT,
  status::TEXT,
  created_at::TIMESTAMPTZ,
  updated_at::TIMESTAMPTZ
FROM versions
WHERE
  version_rank = 1 AND NOT _deleted;

@create_index(ticket_id, unique := TRUE);

@create_index(customer_id)
