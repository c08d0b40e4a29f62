MODEL (
  name raw.ticket_events,
  kind VIEW,
  owner support,
  tags (raw, support),
  grain (_batch_id, _row_number),
  description 'One row per version of a ticket event that was ever landed, oldest versions included.',
  column_descriptions (
    event_id = 'Key of the event, as delivered.',
    ticket_id = 'Ticket it happened to.',
    event_type = 'created, assigned, agent_reply, customer_reply, open, pending, solved, reopened or closed.',
    actor_type = 'Who acted: agent, customer, system.',
    actor_id = 'Which of them.',
    occurred_at = 'When it happened.',
    _deleted = 'True: gone at the source as of this version.',
    _batch_id = 'Batch that brought the row.',
    _loaded_at = 'When the batch was published; drives the increments.',
    _source_file = 'File it came from.',
    _row_number = 'Its record in that file.'
  )
);

SELECT
  event_id::TEXT,
  ticket_id::TEXT,
  event_type::TEXT,
  actor_type::TEXT,
  actor_id::TEXT,
  occurred_at::TIMESTAMPTZ,
  _deleted::BOOLEAN,
  _batch_id::BIGINT,
  _loaded_at::TIMESTAMPTZ,
  _source_file::TEXT,
  _row_number::BIGINT
FROM landing.ticket_events
