AUDIT (
  name customers_reconcile
);

/* Claim: the new customers of a month are those whose first counted order lies in it, and all its customers are new or returning.
A returned row is a month of which this is not true: restate this model. */
SELECT
  COALESCE(months.month, first_orders.month) AS month,
  months.customers,
  months.new_customers,
  months.returning_customers,
  first_orders.customers AS first_customers
FROM (
  SELECT
    this.month,
    this.customers,
    this.new_customers,
    this.returning_customers
  FROM @this_model AS this
  WHERE
    @replaced(this)
) AS months
FULL OUTER JOIN (
  SELECT
    DATE_TRUNC('MONTH', lifetimes.first_order_date)::DATE AS month,
    COUNT(*) AS customers
  FROM marts.customer_lifetime AS lifetimes
  WHERE
    lifetimes.orders > 0 AND @replaced(lifetimes, first_order_date)
  GROUP BY
    DATE_TRUNC('MONTH', lifetimes.first_order_date)::DATE
) AS first_orders
  ON months.month = first_orders.month
WHERE
  COALESCE(months.new_customers, 0) <> COALESCE(first_orders.customers, 0)
  OR months.customers <> months.new_customers + months.returning_customers
