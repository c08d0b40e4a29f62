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
    priority = 'Priority in lower case where seeds.sla_targets lists it, else other.',
    source_priority = 'Priority as delivered.',
    first_reply_target_minutes = 'Minutes within which a ticket of this priority is to be answered; NULL for other.',
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
  SELECT DISTINCT ON (ticket_id)
    ticket_id,
    customer_id,
    order_id,
    channel,
    priority,
    category,
    status,
    created_at,
    updated_at,
    _deleted
  FROM raw.tickets
  WHERE
    @landed() AND @touched(ticket_id)
  ORDER BY
    ticket_id,
    updated_at DESC,
    _loaded_at DESC,
    _row_number DESC,
    _batch_id DESC
)
SELECT
  versions.ticket_id::TEXT,
  versions.customer_id::TEXT,
  versions.order_id::TEXT,
  versions.channel::TEXT,
  COALESCE(targets.priority, 'other')::TEXT AS priority,
  versions.priority::TEXT AS source_priority,
  targets.first_reply_minutes::INT AS first_reply_target_minutes,
  versions.category::TEXT,
  versions.status::TEXT,
  versions.created_at::TIMESTAMPTZ,
  versions.updated_at::TIMESTAMPTZ
FROM versions
LEFT JOIN seeds.sla_targets AS targets
  ON LOWER(TRIM(versions.priority)) = targets.priority
WHERE
  NOT versions._deleted;

@create_index(ticket_id, unique := TRUE);

@create_index(customer_id);

@create_index(created_at)
