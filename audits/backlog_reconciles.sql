AUDIT (
  name backlog_reconciles
);

/* Claim: each day follows from the day before, and on the as-of day as many tickets are open as have an open period without an
end. A returned row is a day on which they differ: restate this model. */
SELECT
  this.date_day,
  this.priority,
  this.open_tickets,
  COALESCE(before.open_tickets, 0) + this.opened_tickets - this.closed_tickets AS expected_tickets
FROM @this_model AS this
LEFT JOIN @this_model AS before
  ON before.date_day = this.date_day - 1 AND before.priority = this.priority
WHERE
  this.open_tickets <> COALESCE(before.open_tickets, 0) + this.opened_tickets - this.closed_tickets
  AND @replaced(this)
UNION ALL
SELECT
  this.date_day,
  this.priority,
  this.open_tickets,
  periods.open_tickets AS expected_tickets
FROM @this_model AS this
CROSS JOIN (
  SELECT
    COUNT(*) AS open_tickets
  FROM staging.ticket_open_periods
  WHERE
    open_to IS NULL
) AS periods
WHERE
  this.priority = 'all'
  AND this.open_tickets <> periods.open_tickets
  AND this.date_day = (
    SELECT
      MAX(date_day)
    FROM @this_model
  )
