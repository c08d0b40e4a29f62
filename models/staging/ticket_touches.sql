MODEL (
  name staging.ticket_touches,
  kind VIEW,
  owner support,
  tags (staging, support),
  grain (ticket_id, created_date, customer_id, _loaded_at),
  description 'One row per load that touched a ticket, by a version of it or of an event, and per day and customer that any version of the ticket ever named.',
  column_descriptions (
    ticket_id = 'Ticket touched.',
    created_date = 'Local day of creation that a version of the ticket named; NULL while the ticket has not arrived, or for a deletion that names none.',
    customer_id = 'Customer that a version of the ticket named; NULL where it named none, or while the ticket has not arrived.',
    _loaded_at = 'When the touching row was loaded.'
  )
);

WITH touches AS (
  SELECT
    ticket_id,
    _loaded_at
  FROM raw.tickets
  UNION ALL
  SELECT
    versions.ticket_id,
    loads._loaded_at
  FROM raw.ticket_events AS loads
  INNER JOIN raw.ticket_events AS versions
    ON loads.event_id = versions.event_id
)
SELECT DISTINCT
  touches.ticket_id::TEXT,
  @local_date(versions.created_at) AS created_date,
  versions.customer_id::TEXT,
  touches._loaded_at::TIMESTAMPTZ
FROM touches
LEFT JOIN raw.tickets AS versions
  ON touches.ticket_id = versions.ticket_id
