MODEL (
  name marts.daily_revenue,
  kind CUSTOM (
    materialization 'replace_touched',
    materialization_properties (key = order_date)
  ),
  owner commerce,
  tags (marts, sales),
  grain order_date,
  description 'One row per local day from the first to the as-of day, days without sales included. Answers: what did we sell and pay back, day by day? Excludes cancelled orders. Refunds are on a cash basis: they lie on the day they were paid back.',
  column_descriptions (
    order_date = 'Local day; joins marts.dim_dates.',
    orders = 'Counted orders of the day, guests included.',
    customers = 'Distinct customers with a counted order; guests are not customers.',
    units = 'Units sold.',
    gross_revenue = 'Lines before discount, without tax, in the reporting currency.',
    discounts = 'Discounts, in the reporting currency.',
    net_sales = 'gross_revenue less discounts.',
    average_order_value = 'net_sales divided by orders; NULL without orders.',
    refunds = 'Refunds paid back on this day, in the reporting currency.',
    net_revenue = 'net_sales less refunds; below zero on a day that pays back more than it sells.',
    tax = 'Tax on the orders of the day, in the reporting currency; never revenue.'
  ),
  audits (
    grain_is_unique(columns := order_date),
    revenue_consistency,
    revenue_spike,
    revenue_reconciles(facts := marts.fct_orders),
    revenue_reconciles(facts := marts.fct_refunds, totals := refunds, by := refund_date)
  )
);

WITH touched AS (
  SELECT
    order_date
  FROM staging.order_touches
  WHERE
    @loaded() AND NOT order_date IS NULL
  UNION
  SELECT
    refund_date AS order_date
  FROM staging.refund_touches
  WHERE
    @loaded() AND NOT refund_date IS NULL
  UNION
  SELECT
    COALESCE(days.date_day, present.order_date) AS order_date
  FROM marts.dim_dates AS days
  FULL OUTER JOIN marts.daily_revenue AS present
    ON days.date_day = present.order_date
  WHERE
    days.date_day IS NULL OR present.order_date IS NULL
), days AS (
  SELECT
    date_day AS order_date
  FROM marts.dim_dates
  WHERE
    @touched(date_day, order_date)
), sales AS (
  SELECT
    order_date,
    COUNT(*) AS orders,
    COUNT(DISTINCT customer_id) AS customers,
    SUM(units) AS units,
    SUM(gross_revenue) AS gross_revenue,
    SUM(discounts) AS discounts,
    SUM(net_sales) AS net_sales,
    SUM(tax) AS tax
  FROM marts.fct_orders
  WHERE
    is_counted AND @touched(order_date)
  GROUP BY
    order_date
), refunds AS (
  SELECT
    refund_date,
    SUM(refunds) AS refunds
  FROM marts.fct_refunds
  WHERE
    @touched(refund_date, order_date)
  GROUP BY
    refund_date
)
SELECT
  days.order_date::DATE,
  COALESCE(sales.orders, 0)::BIGINT AS orders,
  COALESCE(sales.customers, 0)::BIGINT AS customers,
  COALESCE(sales.units, 0)::DECIMAL(18, 4) AS units,
  COALESCE(sales.gross_revenue, 0)::DECIMAL(18, 4) AS gross_revenue,
  COALESCE(sales.discounts, 0)::DECIMAL(18, 4) AS discounts,
  COALESCE(sales.net_sales, 0)::DECIMAL(18, 4) AS net_sales,
  @ratio(sales.net_sales, sales.orders) AS average_order_value,
  COALESCE(refunds.refunds, 0)::DECIMAL(18, 4) AS refunds,
  CAST(COALESCE(sales.net_sales, 0) - COALESCE(refunds.refunds, 0) AS DECIMAL(18, 4)) AS net_revenue,
  COALESCE(sales.tax, 0)::DECIMAL(18, 4) AS tax
FROM days
LEFT JOIN sales
  ON days.order_date = sales.order_date
LEFT JOIN refunds
  ON days.order_date = refunds.refund_date;

@create_index(order_date, unique := TRUE)
