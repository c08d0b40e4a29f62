AUDIT (
  name revenue_reconciles,
  defaults (totals = net_sales, condition = TRUE, by = NULL)
);

/* Claim: the totals here equal those of the facts, which name the key as the column `by`. A returned row shows both: some key was
not recomputed. Restate this model. */
WITH here AS (
  SELECT
    @EACH(@totals, total -> COALESCE(SUM(total), 0) AS @total)
  FROM @this_model AS this
  WHERE
    @replaced(this)
), there AS (
  SELECT
    @EACH(@totals, total -> COALESCE(SUM(total), 0) AS @total)
  FROM @facts AS facts
  WHERE
    @condition AND @replaced(facts, @by)
)
SELECT
  @EACH(@totals, total -> here.@total AS @{total}_here),
  @EACH(@totals, total -> there.@total AS @{total}_in_facts)
FROM here
CROSS JOIN there
WHERE
  NOT (
    @keys_equal(here, there, @totals)
  )
