AUDIT (
  name revenue_consistency
);

/* Claim: gross revenue and net sales are never negative and never unknown. A returned row breaks it: look at its lines in
staging.order_items, where a discount is larger than its amount, and at its currency. */
SELECT
  *
FROM @this_model AS this
WHERE
  @replaced(this)
  AND (
    gross_revenue < 0 OR net_sales < 0 OR gross_revenue IS NULL OR net_sales IS NULL
  )
