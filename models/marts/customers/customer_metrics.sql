MODEL (
  name marts.customer_metrics,
  kind CUSTOM (
    materialization 'replace_touched',
    materialization_properties (key = customer_id)
  ),
  owner commerce,
  clustered_by order_date,
  tags (marts, customers),
  depends_on (
    marts.dim_customers
  ),
  grain (customer_id, order_date),
  description 'One row per customer and local day with a counted order, or with a refund that names the customer and no order. Answers: what does a customer buy, how often, and what comes back? Excludes guests and cancelled orders. Refunds are on an order basis: they lie on the day of their order.',
  column_descriptions (
    customer_id = 'Customer; joins marts.dim_customers.',
    order_date = 'Local day of the orders; of a refund without an order its own local day.',
    orders = 'Counted orders.',
    units = 'Units sold.',
    gross_revenue = 'Lines before discount, without tax, in the reporting currency.',
    discounts = 'Discounts, in the reporting currency.',
    net_sales = 'gross_revenue less discounts.',
    refunds = 'Refunds of these orders whenever paid back, and refunds of the day without an order, in the reporting currency.',
    net_revenue = 'net_sales less refunds.',
    tax = 'Tax on these orders, in the reporting currency; never revenue.',
    segment = 'high_value, medium_value or low_value, by net_revenue and order days up to and including this day: high_value above the variable high_value_daily_revenue per order day on more than high_value_order_days order days, else medium_value above medium_value_daily_revenue per order day.',
    orders_in_month = 'Counted orders of the customer in the local month, up to and including this day: on the first day with an order it equals orders, so that customers of a month are counted without DISTINCT.',
    first_order_date = 'Local day of the first counted order of the customer, up to and including this day; NULL before it.'
  ),
  audits (
    grain_is_unique(columns := (customer_id, order_date)),
    foreign_key_holds(column := customer_id, parent := marts.dim_customers, key := customer_id),
    revenue_consistency,
    revenue_reconciles(facts := marts.fct_orders, condition := NOT customer_id IS NULL)
  )
);

WITH touched AS (
  SELECT
    customer_id
  FROM staging.order_touches
  WHERE
    @loaded() AND NOT customer_id IS NULL
  UNION
  SELECT
    customer_id
  FROM staging.refund_touches
  WHERE
    @loaded() AND NOT customer_id IS NULL
), activity AS (
  /* in order, so that PostgreSQL sorts once: for the sums and for both windows */
  SELECT
    customer_id,
    DATE_TRUNC('MONTH', order_date)::DATE AS month,
    order_date,
    1 AS orders,
    units,
    gross_revenue,
    discounts,
    refunds,
    tax
  FROM marts.fct_orders
  WHERE
    is_counted AND NOT customer_id IS NULL AND @touched(customer_id)
  UNION ALL
  SELECT
    customer_id,
    DATE_TRUNC('MONTH', refund_date)::DATE AS month,
    refund_date AS order_date,
    0 AS orders,
    0 AS units,
    0 AS gross_revenue,
    0 AS discounts,
    refunds,
    0 AS tax
  FROM marts.fct_refunds
  WHERE
    order_id IS NULL AND NOT customer_id IS NULL AND @touched(customer_id)
  ORDER BY
    customer_id,
    month,
    order_date
), days AS (
  SELECT
    customer_id,
    month,
    order_date,
    SUM(orders) AS orders,
    SUM(units) AS units,
    SUM(gross_revenue) AS gross_revenue,
    SUM(discounts) AS discounts,
    SUM(gross_revenue) - SUM(discounts) AS net_sales,
    SUM(refunds) AS refunds,
    SUM(gross_revenue) - SUM(discounts) - SUM(refunds) AS net_revenue,
    SUM(tax) AS tax
  FROM activity
  GROUP BY
    customer_id,
    month,
    order_date
), to_date AS (
  SELECT
    customer_id,
    order_date,
    orders,
    units,
    gross_revenue,
    discounts,
    net_sales,
    refunds,
    net_revenue,
    tax,
    SUM(CASE WHEN orders > 0 THEN 1 ELSE 0 END) OVER (
      PARTITION BY customer_id
      ORDER BY month, order_date
      ROWS BETWEEN UNBOUNDED PRECEDING AND CURRENT ROW
    ) AS order_days_to_date,
    SUM(net_revenue) OVER (
      PARTITION BY customer_id
      ORDER BY month, order_date
      ROWS BETWEEN UNBOUNDED PRECEDING AND CURRENT ROW
    ) AS net_revenue_to_date,
    MIN(CASE WHEN orders > 0 THEN order_date END) OVER (
      PARTITION BY customer_id
      ORDER BY month, order_date
      ROWS BETWEEN UNBOUNDED PRECEDING AND CURRENT ROW
    ) AS first_order_date,
    SUM(orders) OVER (
      PARTITION BY customer_id, month
      ORDER BY order_date
      ROWS BETWEEN UNBOUNDED PRECEDING AND CURRENT ROW
    ) AS orders_in_month
  FROM days
)
SELECT
  customer_id::TEXT,
  order_date::DATE,
  orders::BIGINT,
  units::DECIMAL(18, 4),
  gross_revenue::DECIMAL(18, 4),
  discounts::DECIMAL(18, 4),
  net_sales::DECIMAL(18, 4),
  refunds::DECIMAL(18, 4),
  net_revenue::DECIMAL(18, 4),
  tax::DECIMAL(18, 4),
  CASE
    WHEN order_days_to_date > @high_value_order_days
    AND net_revenue_to_date > @high_value_daily_revenue * order_days_to_date
    THEN 'high_value'
    WHEN net_revenue_to_date > @medium_value_daily_revenue * order_days_to_date
    THEN 'medium_value'
    ELSE 'low_value'
  END::TEXT AS segment,
  orders_in_month::BIGINT,
  first_order_date::DATE
FROM to_date;

@create_index(customer_id, order_date, unique := TRUE);

@create_index(order_date)
