AUDIT (
  name backlog_reconciles
);

/* Claim: on the as-of day as many tickets are open as have an open period without an end, and each day follows from the day
before. A returned row shows a day on which they differ: restate this model. */
SELECT
  days.date_day,
  days.priority,
  days.open_tickets,
  days.expected_tickets
FROM (
  SELECT
    date_day,
    priority,
    open_tickets,
    LAG(open_tickets, 1, 0) OVER (PARTITION BY priority ORDER BY date_day) + opened_tickets - closed_tickets AS expected_tickets
  FROM @this_model
  UNION ALL
  SELECT
    last_days.date_day,
    last_days.priority,
    last_days.open_tickets,
    (
      SELECT
        COUNT(*)
      FROM staging.ticket_open_periods AS periods
      WHERE
        periods.open_to IS NULL
    ) AS expected_tickets
  FROM @this_model AS last_days
  WHERE
    last_days.priority = 'all'
    AND last_days.date_day = (
      SELECT
        MAX(date_day)
      FROM @this_model
    )
) AS days
WHERE
  days.open_tickets <> days.expected_tickets
