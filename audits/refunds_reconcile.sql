AUDIT (
  name refunds_reconcile,
  defaults (
    condition = TRUE
  )
);

/* Claim: the total of refunds here equals that of the facts. A returned row shows both totals: some key was not
recomputed. Restate this model. */
WITH here AS (
  SELECT
    COALESCE(SUM(refunds), 0) AS refunds
  FROM @this_model
), there AS (
  SELECT
    COALESCE(SUM(refunds), 0) AS refunds
  FROM @facts
  WHERE
    @condition
)
SELECT
  here.refunds AS refunds_here,
  there.refunds AS refunds_in_facts
FROM here
CROSS JOIN there
WHERE
  here.refunds <> there.refunds
