AUDIT (
  name tickets_reconcile
);

/* Claim: the lines of all priorities together count every ticket once, and so do those of each priority. A returned row shows
the three totals: some period was not recomputed. Restate this model. */
WITH here AS (
  SELECT
    COALESCE(SUM(CASE WHEN priority = 'all' THEN tickets_created ELSE 0 END), 0) AS in_all,
    COALESCE(SUM(CASE WHEN priority <> 'all' THEN tickets_created ELSE 0 END), 0) AS in_each
  FROM @this_model AS this
  WHERE
    @replaced(this)
), there AS (
  SELECT
    COUNT(*) AS tickets
  FROM marts.fct_tickets AS tickets
  WHERE
    @replaced(tickets, created_date)
)
SELECT
  here.in_all,
  here.in_each,
  there.tickets
FROM here
CROSS JOIN there
WHERE
  here.in_all <> there.tickets OR here.in_each <> there.tickets
