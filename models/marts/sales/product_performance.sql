MODEL (
  name marts.product_performance,
  kind CUSTOM (
    materialization 'replace_touched',
    materialization_properties (key = month)
  ),
  owner commerce,
  tags (marts, sales),
  depends_on (marts.daily_revenue, marts.dim_products),
  grain (product_id, month),
  description 'One row per product and local month with a counted line, or with a refund of it. Answers: what sold best in a month, and what came back? Refunds are on an order basis: they lie in the month of their order, or in their own without one. Excludes cancelled orders, and refunds that name neither a product nor a line.',
  column_descriptions (
    product_id = 'Product; joins marts.dim_products.',
    month = 'First day of the local month.',
    is_complete = 'False: the month ends after the as-of day, so more may come.',
    orders = 'Counted orders with the product.',
    units = 'Units sold.',
    gross_revenue = 'Lines before discount, without tax, in the reporting currency.',
    discounts = 'Discounts, in the reporting currency.',
    net_sales = 'gross_revenue less discounts.',
    refunds = 'Refunds of the product whenever paid back, in the reporting currency.',
    net_revenue = 'net_sales less refunds.',
    revenue_rank = 'Rank in the month by net_revenue, 1 for the most; equal values share a rank.'
  ),
  audits (
    grain_is_unique(columns := (product_id, month)),
    foreign_key_holds(column := product_id, parent := marts.dim_products, key := product_id),
    revenue_consistency,
    revenue_reconciles(facts := marts.daily_revenue, by := order_date),
    revenue_reconciles(
      facts := marts.fct_refunds,
      totals := refunds,
      condition := NOT product_id IS NULL,
      by := order_basis_date
    )
  )
);

WITH touched AS (
  SELECT
    DATE_TRUNC('MONTH', order_date)::DATE AS month,
    product_id
  FROM staging.product_touches
  WHERE
    @loaded() AND NOT order_date IS NULL AND NOT product_id IS NULL
  UNION
  /* no product of it is summed anew */
  SELECT
    turned.month,
    '' AS product_id
  FROM (
    @turned_months(marts.product_performance, revenue_rank, product_id)
  ) AS turned
), sales AS (
  SELECT
    product_id,
    order_month AS month,
    SUM(CASE WHEN is_first_of_product THEN 1 ELSE 0 END) AS orders,
    SUM(units) AS units,
    SUM(gross_revenue) AS gross_revenue,
    SUM(discounts) AS discounts,
    SUM(gross_revenue) - SUM(discounts) AS net_sales
  FROM marts.fct_order_items
  WHERE
    is_counted AND @touched((product_id, order_month), (product_id, month))
  GROUP BY
    product_id,
    order_month
), refunds AS (
  /* summed before products are asked for: else each is looked up on each day of its month */
  SELECT
    months.product_id,
    months.month,
    months.refunds
  FROM (
    SELECT
      refunds.product_id,
      days.month,
      SUM(refunds.refunds) AS refunds
    FROM marts.dim_dates AS days
    INNER JOIN marts.fct_refunds AS refunds
      ON days.date_day = refunds.order_basis_date
    WHERE
      refunds.is_counted AND NOT refunds.product_id IS NULL AND @touched(days.month)
    GROUP BY
      refunds.product_id,
      days.month
  ) AS months
  WHERE
    @touched((months.product_id, months.month))
), products AS (
  SELECT
    COALESCE(sales.product_id, refunds.product_id) AS product_id,
    COALESCE(sales.month, refunds.month) AS month,
    COALESCE(sales.orders, 0) AS orders,
    COALESCE(sales.units, 0) AS units,
    COALESCE(sales.gross_revenue, 0) AS gross_revenue,
    COALESCE(sales.discounts, 0) AS discounts,
    COALESCE(sales.net_sales, 0) AS net_sales,
    COALESCE(refunds.refunds, 0) AS refunds,
    COALESCE(sales.net_sales, 0) - COALESCE(refunds.refunds, 0) AS net_revenue
  FROM sales
  FULL OUTER JOIN refunds
    ON sales.product_id = refunds.product_id AND sales.month = refunds.month
  UNION ALL
  /* of the month's other products only the rank may be another now, and whether it is over */
  SELECT
    present.product_id,
    present.month,
    present.orders,
    present.units,
    present.gross_revenue,
    present.discounts,
    present.net_sales,
    present.refunds,
    present.net_revenue
  FROM marts.product_performance AS present
  WHERE
    @touched(present.month) AND NOT @touched((present.product_id, present.month))
), months AS (
  SELECT DISTINCT
    month,
    is_month_complete AS is_complete
  FROM marts.dim_dates
)
SELECT
  products.product_id::TEXT,
  products.month::DATE,
  months.is_complete::BOOLEAN,
  products.orders::BIGINT,
  products.units::DECIMAL(18, 4),
  products.gross_revenue::DECIMAL(18, 4),
  products.discounts::DECIMAL(18, 4),
  products.net_sales::DECIMAL(18, 4),
  products.refunds::DECIMAL(18, 4),
  products.net_revenue::DECIMAL(18, 4),
  RANK() OVER (PARTITION BY products.month ORDER BY products.net_revenue DESC)::BIGINT AS revenue_rank
FROM products
INNER JOIN months
  ON products.month = months.month;

@create_index(product_id, month, unique := TRUE);

@create_index(month, revenue_rank, product_id);

@create_index(month) /* PostgreSQL takes the index above for so dear that it would read the whole table for a dozen months */
