MODEL (
  name marts.waiting_records,
  kind CUSTOM (
    materialization 'replace_touched',
    materialization_properties (key = parent_id)
  ),
  owner commerce,
  tags (marts, core),
  grain (parent_type, parent_id),
  description 'One row per order or ticket that files name and that has not arrived, or is gone at the source. Answers: what is loaded and counts nowhere yet, for which order or ticket does it wait, and since when? Empty where nothing waits. Excludes refunds without an order, and orders that tickets ask about, which wait for nothing (docs/decisions/0011-waiting-children.md).',
  column_descriptions (
    parent_type = 'order or ticket: what has not arrived.',
    parent_id = 'Its key, as the waiting records name it.',
    order_items = 'Lines that wait for the order.',
    refunds = 'Refunds that wait for the order.',
    ticket_events = 'Events that wait for the ticket.',
    waiting_since = 'Clock of the oldest of them: updated_at of a line or a refund, occurred_at of an event.'
  ),
  audits (
    grain_is_unique(columns := (parent_type, parent_id))
  )
);

WITH touched AS (
  SELECT
    order_id AS parent_id
  FROM staging.order_touches
  WHERE
    @loaded()
  UNION
  SELECT
    ticket_id AS parent_id
  FROM staging.ticket_touches
  WHERE
    @loaded() AND NOT ticket_id IS NULL
), children AS (
  SELECT
    'order' AS parent_type,
    order_id AS parent_id,
    1 AS order_items,
    0 AS refunds,
    0 AS ticket_events,
    updated_at AS waiting_since
  FROM staging.order_items AS order_items
  WHERE
    @touched(order_id, parent_id, may_be_empty := TRUE)
    AND NOT EXISTS(
      SELECT
        1
      FROM staging.orders AS orders
      WHERE
        orders.order_id = order_items.order_id
    )
  UNION ALL
  SELECT
    'order' AS parent_type,
    order_id AS parent_id,
    0 AS order_items,
    1 AS refunds,
    0 AS ticket_events,
    updated_at AS waiting_since
  FROM staging.refunds AS refunds
  WHERE
    @touched(order_id, parent_id, may_be_empty := TRUE)
    AND NOT order_id IS NULL
    AND NOT EXISTS(
      SELECT
        1
      FROM staging.orders AS orders
      WHERE
        orders.order_id = refunds.order_id
    )
  UNION ALL
  SELECT
    'ticket' AS parent_type,
    ticket_id AS parent_id,
    0 AS order_items,
    0 AS refunds,
    1 AS ticket_events,
    occurred_at AS waiting_since
  FROM staging.ticket_events AS ticket_events
  WHERE
    @touched(ticket_id, parent_id, may_be_empty := TRUE)
    AND NOT EXISTS(
      SELECT
        1
      FROM staging.tickets AS tickets
      WHERE
        tickets.ticket_id = ticket_events.ticket_id
    )
)
SELECT
  parent_type::TEXT,
  parent_id::TEXT,
  SUM(order_items)::BIGINT AS order_items,
  SUM(refunds)::BIGINT AS refunds,
  SUM(ticket_events)::BIGINT AS ticket_events,
  MIN(waiting_since)::TIMESTAMPTZ AS waiting_since
FROM children
GROUP BY
  parent_type,
  parent_id;

@create_index(parent_id, parent_type, unique := TRUE)
