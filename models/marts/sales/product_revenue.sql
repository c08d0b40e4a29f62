MODEL (
  name marts.product_revenue,
  kind CUSTOM (
    materialization 'replace_touched',
    materialization_properties (key = product_id)
  ),
  owner commerce,
  tags (marts, sales),
  depends_on (
    marts.dim_products
  ),
  grain product_id,
  description 'One row per product that was ever sold in a counted order or refunded. Answers: what has a product brought in over its whole life? Refunds are on an order basis. Excludes cancelled orders, and refunds that name neither a product nor a line.',
  column_descriptions (
    product_id = 'Product; joins marts.dim_products.',
    orders = 'Counted orders with the product.',
    units = 'Units sold.',
    gross_revenue = 'Lines before discount, without tax, in the reporting currency.',
    discounts = 'Discounts, in the reporting currency.',
    net_sales = 'gross_revenue less discounts.',
    refunds = 'Refunds of the product whenever paid back, in the reporting currency.',
    net_revenue = 'net_sales less refunds.',
    refund_rate = 'refunds divided by net_sales; NULL where that is 0.'
  ),
  audits (
    grain_is_unique(columns := product_id),
    foreign_key_holds(column := product_id, parent := marts.dim_products, key := product_id),
    revenue_consistency,
    revenue_reconciles(facts := marts.product_performance, totals := (net_sales, refunds))
  )
);

WITH touched AS (
  SELECT DISTINCT
    product_id
  FROM staging.product_touches
  WHERE
    @loaded() AND NOT product_id IS NULL
)
SELECT
  product_id::TEXT,
  SUM(orders)::BIGINT AS orders,
  SUM(units)::DECIMAL(18, 4) AS units,
  SUM(gross_revenue)::DECIMAL(18, 4) AS gross_revenue,
  SUM(discounts)::DECIMAL(18, 4) AS discounts,
  SUM(net_sales)::DECIMAL(18, 4) AS net_sales,
  SUM(refunds)::DECIMAL(18, 4) AS refunds,
  SUM(net_revenue)::DECIMAL(18, 4) AS net_revenue,
  @ratio(SUM(refunds), SUM(net_sales)) AS refund_rate
FROM marts.product_performance
WHERE
  @touched(product_id)
GROUP BY
  product_id;

@create_index(product_id, unique := TRUE);

@create_index(net_revenue)
