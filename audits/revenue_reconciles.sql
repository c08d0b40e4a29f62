AUDIT (
  name revenue_reconciles,
  defaults (total = net_sales, condition = TRUE)
);

/* Claim: the total here equals that of the facts. A returned row shows both totals: some key was not recomputed. Restate this
model. */
WITH here AS (
  SELECT
    COALESCE(SUM(@total), 0) AS total
  FROM @this_model
), there AS (
  SELECT
    COALESCE(SUM(@total), 0) AS total
  FROM @facts
  WHERE
    @condition
)
SELECT
  here.total AS total_here,
  there.total AS total_in_facts
FROM here
CROSS JOIN there
WHERE
  here.total <> there.total
