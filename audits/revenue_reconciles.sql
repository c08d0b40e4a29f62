AUDIT (
  name revenue_reconciles,
  defaults (
    condition = TRUE
  )
);

/* Claim: the total of net sales here equals that of the facts. A returned row shows both totals: some key was not
recomputed. Restate this model. */
WITH here AS (
  SELECT
    COALESCE(SUM(net_sales), 0) AS net_sales
  FROM @this_model
), there AS (
  SELECT
    COALESCE(SUM(net_sales), 0) AS net_sales
  FROM @facts
  WHERE
    @condition
)
SELECT
  here.net_sales AS net_sales_here,
  there.net_sales AS net_sales_in_facts
FROM here
CROSS JOIN there
WHERE
  here.net_sales <> there.net_sales
