MODEL (
  name staging.ticket_events,
  kind CUSTOM (
    materialization 'replace_touched',
    materialization_properties (key = event_id)
  ),
  owner support,
  tags (staging, support),
  grain event_id,
  description 'One row per event of a support ticket that exists at the source: the version loaded last, for events have no updated_at.',
  column_descriptions (
    event_id = 'Key of the event, as delivered.',
    ticket_id = 'Ticket it happened to.',
    event_type = 'created, assigned, agent_reply, customer_reply, open, pending, solved, reopened or closed.',
    actor_type = 'Who acted: agent, customer, system.',
    actor_id = 'Which of them.',
    occurred_at = 'When it happened.'
  ),
  audits (
    grain_is_unique(columns := event_id),
    no_rows_lost(source := raw.ticket_events, key := event_id, clock := _loaded_at)
  )
);

WITH touched AS (
  SELECT DISTINCT
    event_id
  FROM raw.ticket_events
  WHERE
    @loaded()
), versions AS (
  SELECT DISTINCT ON (event_id)
    event_id,
    ticket_id,
    event_type,
    actor_type,
    actor_id,
    occurred_at,
    _deleted
  FROM raw.ticket_events
  WHERE
    @landed() AND @touched(event_id)
  ORDER BY
    event_id,
    _loaded_at DESC,
    _row_number DESC,
    _batch_id DESC
)
SELECT
  event_id::TEXT,
  ticket_id::TEXT,
  event_type::TEXT,
  actor_type::TEXT,
  actor_id::TEXT,
  occurred_at::TIMESTAMPTZ
FROM versions
WHERE
  NOT _deleted;

@create_index(event_id, unique := TRUE);

@create_index(ticket_id);

@create_index(occurred_at)
