MODEL (
  name staging.ticket_open_periods,
  kind CUSTOM (
    materialization 'replace_touched',
    materialization_properties (key = ticket_id)
  ),
  owner support,
  tags (staging, support),
  grain (ticket_id, open_from),
  description 'One row per ticket and period of local days at whose end it was open: created, and its last event that sets a status was neither solved nor closed.',
  column_descriptions (
    ticket_id = 'Ticket.',
    priority = 'A priority of seeds.sla_targets, or other.',
    open_from = 'First day at whose end the ticket was open.',
    open_to = 'First later day at whose end it was not; NULL while it is open.'
  ),
  audits (
    grain_is_unique(columns := (ticket_id, open_from))
  )
);

WITH touched AS (
  SELECT DISTINCT
    ticket_id
  FROM staging.ticket_touches
  WHERE
    @loaded()
), tickets AS (
  SELECT
    ticket_id,
    priority,
    @local_date(created_at) AS created_date
  FROM staging.tickets
  WHERE
    @touched(ticket_id)
), events AS (
  /* an event dated before the creation sets the status with which the ticket is created */
  SELECT
    events.ticket_id,
    tickets.priority,
    GREATEST(@local_date(events.occurred_at), tickets.created_date) AS status_date,
    NOT events.event_type IN ('solved', 'closed') AS is_open,
    ROW_NUMBER() OVER (
      PARTITION BY events.ticket_id, GREATEST(@local_date(events.occurred_at), tickets.created_date)
      ORDER BY events.occurred_at DESC, events.event_id DESC
    ) AS recency
  FROM staging.ticket_events AS events
  INNER JOIN tickets
    ON events.ticket_id = tickets.ticket_id
  WHERE
    events.event_type IN ('open', 'pending', 'solved', 'reopened', 'closed')
    AND @touched(events.ticket_id)
), days AS (
  SELECT
    ticket_id,
    priority,
    status_date,
    is_open
  FROM events
  WHERE
    recency = 1
  UNION ALL
  SELECT
    tickets.ticket_id,
    tickets.priority,
    tickets.created_date AS status_date,
    TRUE AS is_open
  FROM tickets
  WHERE
    NOT EXISTS(
      SELECT
        1
      FROM events
      WHERE
        events.ticket_id = tickets.ticket_id
        AND events.status_date = tickets.created_date
    )
), compared AS (
  SELECT
    ticket_id,
    priority,
    status_date,
    is_open,
    LAG(is_open) OVER (PARTITION BY ticket_id ORDER BY status_date) AS was_open
  FROM days
), changes AS (
  SELECT
    ticket_id,
    priority,
    is_open,
    status_date AS open_from,
    LEAD(status_date) OVER (PARTITION BY ticket_id ORDER BY status_date) AS open_to
  FROM compared
  WHERE
    is_open IS DISTINCT FROM was_open
)
SELECT
  ticket_id::TEXT,
  priority::TEXT,
  open_from::DATE,
  open_to::DATE
FROM changes
WHERE
  is_open;

@create_index(ticket_id, open_from, unique := TRUE);

@create_index(open_to)
