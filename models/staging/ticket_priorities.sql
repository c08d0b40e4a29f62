MODEL (
  name staging.ticket_priorities,
  kind VIEW,
  owner support,
  tags (staging, support),
  grain (priority, reported_priority),
  description 'One row per priority of a ticket and line of a report in which it counts: its own, and that of all.',
  column_descriptions (
    priority = 'A priority of seeds.sla_targets, or other.',
    reported_priority = 'The same, or all.'
  )
);

WITH priorities AS (
  SELECT
    priority
  FROM seeds.sla_targets
  UNION ALL
  SELECT
    'other' AS priority
)
SELECT
  priority::TEXT,
  priority::TEXT AS reported_priority
FROM priorities
UNION ALL
SELECT
  priority::TEXT,
  'all' AS reported_priority
FROM priorities
