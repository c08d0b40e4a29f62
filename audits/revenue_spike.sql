AUDIT (
  name revenue_spike,
  blocking FALSE
);

/* Claim: no day sells more than ten times the average day. A returned day does: a sale, or amounts in the wrong unit. Does
not block, because a shop may have such a day. */
WITH average AS (
  SELECT
    AVG(gross_revenue) AS gross_revenue
  FROM @this_model
)
SELECT
  this.order_date,
  this.gross_revenue,
  average.gross_revenue AS average_gross_revenue
FROM @this_model AS this
CROSS JOIN average
WHERE
  this.gross_revenue > 10 * average.gross_revenue AND @replaced(this)
