MODEL (
  name marts.customer_lifetime,
  kind CUSTOM (
    materialization 'replace_touched',
    materialization_properties (key = customer_id)
  ),
  owner commerce,
  tags (marts, customers),
  depends_on (
    marts.dim_customers
  ),
  grain customer_id,
  description 'One row per customer with a counted order, or with a refund that names the customer and no order. Answers: what is a customer worth over the whole life, since when, and did they come back? Excludes guests and cancelled orders. Refunds are on an order basis.',
  column_descriptions (
    customer_id = 'Customer; joins marts.dim_customers.',
    orders = 'Counted orders.',
    order_days = 'Local days with a counted order.',
    first_order_date = 'Local day of the first counted order; NULL without one.',
    last_order_date = 'Local day of the last counted order; NULL without one.',
    is_repeat_customer = 'True: two or more counted orders.',
    units = 'Units sold.',
    gross_revenue = 'Lines before discount, without tax, in the reporting currency.',
    discounts = 'Discounts, in the reporting currency.',
    net_sales = 'gross_revenue less discounts.',
    average_order_value = 'net_sales divided by orders; NULL without orders.',
    refunds = 'Refunds of these orders whenever paid back, and refunds without an order, in the reporting currency.',
    net_revenue = 'net_sales less refunds.',
    segment = 'high_value, medium_value or low_value, as marts.customer_metrics says on the last day of the customer.'
  ),
  audits (
    grain_is_unique(columns := customer_id),
    foreign_key_holds(column := customer_id, parent := marts.dim_customers, key := customer_id),
    revenue_consistency,
    revenue_reconciles(facts := marts.customer_metrics),
    revenue_reconciles(facts := marts.customer_metrics, total := refunds)
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
), days AS (
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
    segment,
    ROW_NUMBER() OVER (PARTITION BY customer_id ORDER BY order_date DESC) AS recency
  FROM marts.customer_metrics
  WHERE
    @touched(customer_id)
)
SELECT
  customer_id::TEXT,
  SUM(orders)::BIGINT AS orders,
  SUM(CASE WHEN orders > 0 THEN 1 ELSE 0 END)::BIGINT AS order_days,
  MIN(CASE WHEN orders > 0 THEN order_date END)::DATE AS first_order_date,
  MAX(CASE WHEN orders > 0 THEN order_date END)::DATE AS last_order_date,
  SUM(orders) > 1 AS is_repeat_customer,
  SUM(units)::DECIMAL(18, 4) AS units,
  SUM(gross_revenue)::DECIMAL(18, 4) AS gross_revenue,
  SUM(discounts)::DECIMAL(18, 4) AS discounts,
  SUM(net_sales)::DECIMAL(18, 4) AS net_sales,
  @ratio(SUM(net_sales), SUM(orders)) AS average_order_value,
  SUM(refunds)::DECIMAL(18, 4) AS refunds,
  SUM(net_revenue)::DECIMAL(18, 4) AS net_revenue,
  MAX(CASE WHEN recency = 1 THEN segment END)::TEXT AS segment
FROM days
GROUP BY
  customer_id;

@create_index(customer_id, unique := TRUE);

@create_index(first_order_date);

@create_index(net_revenue)
