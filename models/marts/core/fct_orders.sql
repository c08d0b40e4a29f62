MODEL (
  name marts.fct_orders,
  kind CUSTOM (
    materialization 'replace_touched',
    materialization_properties (key = order_id)
  ),
  owner commerce,
  clustered_by order_date,
  tags (marts, core),
  depends_on (marts.dim_customers, marts.dim_dates),
  grain order_id,
  description 'One row per order. Answers: who ordered what value on which day, and what came back? Cancelled orders are here with is_counted false and nothing in the columns of revenue, so that a plain sum is right. Excludes tax and shipping from revenue.',
  column_descriptions (
    order_id = 'Key of the order, as delivered.',
    customer_id = 'Customer; joins marts.dim_customers; NULL for a guest.',
    status = 'placed, shipped, delivered or cancelled.',
    is_counted = 'False for a cancelled order, which counts nowhere.',
    ordered_at = 'When it was ordered.',
    order_date = 'Local day of the order; joins marts.dim_dates.',
    currency = 'ISO 4217 code of the amounts.',
    exchange_rate = 'Units of the reporting currency for one unit of this currency on the local day of the order.',
    gross_amount = 'Lines before discount, without tax, in the currency of the order.',
    discount_amount = 'Discounts, in the currency of the order.',
    net_amount = 'gross_amount less discount_amount, in the currency of the order.',
    tax_amount = 'Tax, in the currency of the order.',
    refund_amount = 'Refunds of this order whenever paid back, in the currency of the order.',
    shipping_amount = 'Shipping, in the currency of the order.',
    lines = 'Lines of the order that have arrived, counted or not.',
    units = 'Units sold; zero where the order does not count.',
    gross_revenue = 'gross_amount in the reporting currency; zero where the order does not count.',
    discounts = 'discount_amount in the reporting currency; zero where the order does not count.',
    net_sales = 'gross_revenue less discounts: the value of the order.',
    refunds = 'refund_amount in the reporting currency (order basis); zero where the order does not count.',
    net_revenue = 'net_sales less refunds.',
    tax = 'tax_amount in the reporting currency; zero where the order does not count; never revenue.',
    shipping = 'shipping_amount in the reporting currency; zero where the order does not count; never revenue.'
  ),
  audits (
    grain_is_unique(columns := order_id),
    no_facts_lost(source := staging.orders, key := order_id),
    foreign_key_holds(column := customer_id, parent := marts.dim_customers, key := customer_id),
    foreign_key_holds(column := order_date, parent := marts.dim_dates, key := date_day),
    revenue_consistency,
    revenue_reconciles(facts := marts.fct_order_items),
    revenue_reconciles(facts := marts.fct_refunds, totals := refunds, condition := NOT order_id IS NULL)
  )
);

WITH touched AS (
  SELECT
    order_id
  FROM staging.order_touches
  WHERE
    @loaded()
  UNION
  SELECT
    order_id
  FROM staging.order_versions
  WHERE
    @loaded()
), orders AS (
  /* an order without a rate is worth NULL, not nothing */
  SELECT
    order_id,
    customer_id,
    status,
    is_counted,
    ordered_at,
    order_date,
    currency,
    exchange_rate,
    shipping_amount,
    CASE WHEN is_counted THEN exchange_rate ELSE 0 END AS revenue_rate,
    CASE WHEN is_counted AND exchange_rate IS NULL THEN NULL ELSE 0 END AS nothing
  FROM staging.orders
  WHERE
    @touched(order_id)
), lines AS (
  SELECT
    order_id,
    COUNT(*) AS lines,
    SUM(gross_amount) AS gross_amount,
    SUM(discount_amount) AS discount_amount,
    SUM(gross_amount) - SUM(discount_amount) AS net_amount,
    SUM(tax_amount) AS tax_amount,
    SUM(units) AS units,
    SUM(gross_revenue) AS gross_revenue,
    SUM(discounts) AS discounts,
    SUM(gross_revenue) - SUM(discounts) AS net_sales,
    SUM(tax) AS tax
  FROM marts.fct_order_items
  WHERE
    @touched(order_id)
  GROUP BY
    order_id
), refunds AS (
  SELECT
    order_id,
    SUM(amount) AS refund_amount,
    SUM(refunds) AS refunds
  FROM marts.fct_refunds
  WHERE
    NOT order_id IS NULL AND @touched(order_id)
  GROUP BY
    order_id
)
SELECT
  orders.order_id::TEXT,
  orders.customer_id::TEXT,
  orders.status::TEXT,
  orders.is_counted::BOOLEAN,
  orders.ordered_at::TIMESTAMPTZ,
  orders.order_date::DATE,
  orders.currency::TEXT,
  orders.exchange_rate::DECIMAL(20, 12),
  COALESCE(lines.gross_amount, 0)::DECIMAL(18, 4) AS gross_amount,
  COALESCE(lines.discount_amount, 0)::DECIMAL(18, 4) AS discount_amount,
  COALESCE(lines.net_amount, 0)::DECIMAL(18, 4) AS net_amount,
  COALESCE(lines.tax_amount, 0)::DECIMAL(18, 4) AS tax_amount,
  COALESCE(refunds.refund_amount, 0)::DECIMAL(18, 4) AS refund_amount,
  orders.shipping_amount::DECIMAL(18, 4),
  COALESCE(lines.lines, 0)::BIGINT AS lines,
  COALESCE(lines.units, 0)::DECIMAL(18, 4) AS units,
  COALESCE(lines.gross_revenue, orders.nothing)::DECIMAL(18, 4) AS gross_revenue,
  COALESCE(lines.discounts, orders.nothing)::DECIMAL(18, 4) AS discounts,
  COALESCE(lines.net_sales, orders.nothing)::DECIMAL(18, 4) AS net_sales,
  COALESCE(refunds.refunds, orders.nothing)::DECIMAL(18, 4) AS refunds,
  CAST(COALESCE(lines.net_sales, orders.nothing) - COALESCE(refunds.refunds, orders.nothing) AS DECIMAL(18, 4)) AS net_revenue,
  COALESCE(lines.tax, orders.nothing)::DECIMAL(18, 4) AS tax,
  CAST(orders.shipping_amount * orders.revenue_rate AS DECIMAL(18, 4)) AS shipping
FROM orders
LEFT JOIN lines
  ON orders.order_id = lines.order_id
LEFT JOIN refunds
  ON orders.order_id = refunds.order_id;

@create_index(order_id, unique := TRUE);

@create_index(order_date);

@create_index(customer_id, order_date)
