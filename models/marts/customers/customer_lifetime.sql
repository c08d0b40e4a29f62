MODEL (
  name marts.customer_lifetime,
  kind CUSTOM (
    materialization 'replace_touched',
    materialization_properties (key = customer_id)
  ),
  owner commerce,
  clustered_by first_order_date,
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
    revenue_reconciles(facts := marts.customer_metrics, totals := (net_sales, refunds))
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
), sums AS (
  SELECT
    customer_id,
    SUM(orders) AS orders,
    SUM(CASE WHEN orders > 0 THEN 1 ELSE 0 END) AS order_days,
    MIN(CASE WHEN orders > 0 THEN order_date END) AS first_order_date,
    MAX(CASE WHEN orders > 0 THEN order_date END) AS last_order_date,
    MAX(order_date) AS last_date,
    SUM(units) AS units,
    SUM(gross_revenue) AS gross_revenue,
    SUM(discounts) AS discounts,
    SUM(gross_revenue) - SUM(discounts) AS net_sales,
    SUM(refunds) AS refunds,
    SUM(gross_revenue) - SUM(discounts) - SUM(refunds) AS net_revenue
  FROM marts.customer_metrics
  WHERE
    @touched(customer_id)
  GROUP BY
    customer_id
)
SELECT
  sums.customer_id::TEXT,
  sums.orders::BIGINT,
  sums.order_days::BIGINT,
  sums.first_order_date::DATE,
  sums.last_order_date::DATE,
  sums.orders > 1 AS is_repeat_customer,
  sums.units::DECIMAL(18, 4),
  sums.gross_revenue::DECIMAL(18, 4),
  sums.discounts::DECIMAL(18, 4),
  sums.net_sales::DECIMAL(18, 4),
  @ratio(sums.net_sales, sums.orders) AS average_order_value,
  sums.refunds::DECIMAL(18, 4),
  sums.net_revenue::DECIMAL(18, 4),
  days.segment::TEXT
FROM sums
INNER JOIN marts.customer_metrics AS days
  ON sums.customer_id = days.customer_id AND sums.last_date = days.order_date;

@create_index(customer_id, unique := TRUE);

@create_index(first_order_date);

@create_index(net_revenue)
