MODEL (
  name marts.fct_tickets,
  kind CUSTOM (
    materialization 'replace_touched',
    materialization_properties (key = ticket_id)
  ),
  owner support,
  clustered_by created_date,
  tags (marts, core),
  depends_on (marts.dim_customers, marts.dim_dates, staging.orders),
  grain ticket_id,
  description 'One row per support ticket that has arrived. Answers: who asked what, how fast was the first reply, and when was it solved? Excludes events of tickets that have not arrived, which wait in staging.',
  column_descriptions (
    ticket_id = 'Key of the ticket, as delivered.',
    customer_id = 'Customer who asked; joins marts.dim_customers; NULL where none is named.',
    order_id = 'Order asked about; joins marts.fct_orders once it has arrived; NULL where none is named.',
    channel = 'Channel it came by.',
    priority = 'Priority in lower case where seeds.sla_targets lists it, else other.',
    source_priority = 'Priority as delivered.',
    category = 'Subject.',
    status = 'open, pending, solved or closed, as the ticket says.',
    created_at = 'When it was created.',
    created_date = 'Local day of created_at: the day of the ticket in every report; joins marts.dim_dates.',
    agent_replies = 'Replies of agents.',
    customer_replies = 'Replies of the customer.',
    solved_events = 'How often it was solved.',
    is_reopened = 'True: solved more than once.',
    first_reply_at = 'First reply of an agent; NULL until then.',
    first_resolution_at = 'First time it was solved; NULL until then.',
    full_resolution_at = 'Last time it was solved; NULL until then.',
    first_reply_minutes = 'Wall-clock minutes from creation to first_reply_at.',
    first_resolution_minutes = 'Wall-clock minutes from creation to first_resolution_at.',
    full_resolution_minutes = 'Wall-clock minutes from creation to full_resolution_at.',
    first_reply_due_at = 'When the first reply is due by the target of its priority; NULL where there is none.',
    first_reply_due_date = 'Local day of first_reply_due_at.',
    is_sla_met = 'Whether the first reply came by first_reply_due_at; NULL without a reply or a target.'
  ),
  audits (
    grain_is_unique(columns := ticket_id),
    no_facts_lost(source := staging.tickets, key := ticket_id, waits := FALSE),
    foreign_key_holds(column := customer_id, parent := marts.dim_customers, key := customer_id),
    foreign_key_holds(column := created_date, parent := marts.dim_dates, key := date_day)
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
    customer_id,
    order_id,
    channel,
    priority,
    source_priority,
    category,
    status,
    created_at,
    @minutes_after(created_at, first_reply_target_minutes) AS first_reply_due_at
  FROM staging.tickets
  WHERE
    @touched(ticket_id)
), events AS (
  SELECT
    ticket_id,
    SUM(CASE WHEN event_type = 'agent_reply' THEN 1 ELSE 0 END) AS agent_replies,
    SUM(CASE WHEN event_type = 'customer_reply' THEN 1 ELSE 0 END) AS customer_replies,
    SUM(CASE WHEN event_type = 'solved' THEN 1 ELSE 0 END) AS solved_events,
    MIN(CASE WHEN event_type = 'agent_reply' THEN occurred_at END) AS first_reply_at,
    MIN(CASE WHEN event_type = 'solved' THEN occurred_at END) AS first_resolution_at,
    MAX(CASE WHEN event_type = 'solved' THEN occurred_at END) AS full_resolution_at
  FROM staging.ticket_events
  WHERE
    @touched(ticket_id)
  GROUP BY
    ticket_id
)
SELECT
  tickets.ticket_id::TEXT,
  tickets.customer_id::TEXT,
  tickets.order_id::TEXT,
  tickets.channel::TEXT,
  tickets.priority::TEXT,
  tickets.source_priority::TEXT,
  tickets.category::TEXT,
  tickets.status::TEXT,
  tickets.created_at::TIMESTAMPTZ,
  @local_date(tickets.created_at) AS created_date,
  COALESCE(events.agent_replies, 0)::BIGINT AS agent_replies,
  COALESCE(events.customer_replies, 0)::BIGINT AS customer_replies,
  COALESCE(events.solved_events, 0)::BIGINT AS solved_events,
  COALESCE(events.solved_events, 0) > 1 AS is_reopened,
  events.first_reply_at::TIMESTAMPTZ,
  events.first_resolution_at::TIMESTAMPTZ,
  events.full_resolution_at::TIMESTAMPTZ,
  @minutes_between(tickets.created_at, events.first_reply_at) AS first_reply_minutes,
  @minutes_between(tickets.created_at, events.first_resolution_at) AS first_resolution_minutes,
  @minutes_between(tickets.created_at, events.full_resolution_at) AS full_resolution_minutes,
  tickets.first_reply_due_at::TIMESTAMPTZ,
  @local_date(tickets.first_reply_due_at) AS first_reply_due_date,
  events.first_reply_at <= tickets.first_reply_due_at AS is_sla_met
FROM tickets
LEFT JOIN events
  ON tickets.ticket_id = events.ticket_id;

@create_index(ticket_id, unique := TRUE);

@create_index(customer_id, created_at);

@create_index(created_date);

@create_index(first_reply_due_date)
