AUDIT (
  name revenue_reconciles,
  defaults (total = net_sales, condition = TRUE, by = NULL)
);

/* Claim: the total here equals that of the facts, which name the key as the column `by`. A returned row shows both totals: some
key was not recomputed. Restate this model. */
WITH here AS (
  SELECT
    COALESCE(SUM(@total), 0) AS total
  FROM @this_model AS this
  WHERE
    @replaced(this)
), there AS (
  SELECT
    COALESCE(SUM(@total), 0) AS total
  FROM @facts AS facts
  WHERE
    @condition AND @replaced(facts, @by)
)
SELECT
  here.total AS total_here,
  there.total AS total_in_facts
FROM here
CROSS JOIN there
WHERE
  here.total <> there.total
