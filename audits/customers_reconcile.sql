AUDIT (
  name customers_reconcile
);

/* Claim: every customer with a counted order is new in one month, and each month has its customers new or returning. A returned
row shows a total that differs: restate this model. */
SELECT
  here.new_customers,
  here.unexplained_customers,
  there.customers
FROM (
  SELECT
    COALESCE(SUM(new_customers), 0) AS new_customers,
    COALESCE(SUM(customers - new_customers - returning_customers), 0) AS unexplained_customers
  FROM @this_model
) AS here
CROSS JOIN (
  SELECT
    COUNT(*) AS customers
  FROM marts.customer_lifetime
  WHERE
    orders > 0
) AS there
WHERE
  here.new_customers <> there.customers OR here.unexplained_customers <> 0
