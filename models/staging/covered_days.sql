MODEL (
  name staging.covered_days,
  kind VIEW,
  owner commerce,
  tags (staging, commerce),
  grain (first_date, as_of_date),
  description 'One row per warehouse: the days that it covers, from the first order, refund, ticket or ticket event to the as-of day, the last on which one lies (docs/decisions/0015-as-of-day.md).',
  column_descriptions (
    first_date = 'Local day of the first of them; NULL where nothing is loaded.',
    as_of_date = 'The as-of day; NULL where nothing is loaded.'
  )
);

WITH instants AS (
  SELECT
    MIN(ordered_at) AS first_at,
    MAX(ordered_at) AS last_at
  FROM staging.orders
  UNION ALL
  SELECT
    MIN(refunded_at) AS first_at,
    MAX(refunded_at) AS last_at
  FROM staging.refunds
  UNION ALL
  SELECT
    MIN(occurred_at) AS first_at,
    MAX(occurred_at) AS last_at
  FROM staging.ticket_events
  UNION ALL
  SELECT
    MIN(created_at) AS first_at,
    MAX(created_at) AS last_at
  FROM staging.tickets
)
SELECT
  @local_date(MIN(first_at)) AS first_date,
  @local_date(MAX(last_at)) AS as_of_date
FROM instants
