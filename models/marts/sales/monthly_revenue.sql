MODEL (
  name marts.monthly_revenue,
  kind CUSTOM (
    materialization 'replace_touched',
    materialization_properties (key = month)
  ),
  owner commerce,
  tags (marts, sales),
  grain month,
  description 'One row per local month from the first to that of the as-of day, months without sales included. Answers: what did we sell and pay back, month by month, and is the month over? Excludes cancelled orders. Refunds are on a cash basis: they lie in the month they were paid back.',
  column_descriptions (
    month = 'First day of the local month.',
    is_complete = 'False: the month ends after the as-of day, so more may come.',
    orders = 'Counted orders of the month, guests included.',
    customers = 'Distinct customers with a counted order; guests are not customers.',
    units = 'Units sold.',
    gross_revenue = 'Lines before discount, without tax, in the reporting currency.',
    discounts = 'Discounts, in the reporting currency.',
    net_sales = 'gross_revenue less discounts.',
    average_order_value = 'net_sales divided by orders; NULL without orders.',
    refunds = 'Refunds paid back in this month, in the reporting currency.',
    net_revenue = 'net_sales less refunds; below zero in a month that pays back more than it sells.',
    tax = 'Tax on the orders of the month, in the reporting currency; never revenue.'
  ),
  audits (
    grain_is_unique(columns := month),
    revenue_consistency,
    revenue_reconciles(facts := marts.daily_revenue, totals := (net_sales, refunds), by := order_date)
  )
);

WITH touched AS (
  SELECT
    DATE_TRUNC('MONTH', order_date)::DATE AS month
  FROM staging.order_touches
  WHERE
    @loaded() AND NOT order_date IS NULL
  UNION
  SELECT
    DATE_TRUNC('MONTH', refund_date)::DATE AS month
  FROM staging.refund_touches
  WHERE
    @loaded() AND NOT refund_date IS NULL
  UNION
  SELECT
    COALESCE(spine.month, present.month) AS month
  FROM (
    SELECT DISTINCT
      month,
      is_month_complete
    FROM marts.dim_dates
  ) AS spine
  FULL OUTER JOIN marts.monthly_revenue AS present
    ON spine.month = present.month
  WHERE
    spine.month IS NULL
    OR present.month IS NULL
    OR spine.is_month_complete <> present.is_complete
), months AS (
  SELECT DISTINCT
    month,
    is_month_complete AS is_complete
  FROM marts.dim_dates
  WHERE
    @touched(month)
), sales AS (
  SELECT
    dates.month,
    SUM(days.orders) AS orders,
    SUM(days.units) AS units,
    SUM(days.gross_revenue) AS gross_revenue,
    SUM(days.discounts) AS discounts,
    SUM(days.net_sales) AS net_sales,
    SUM(days.refunds) AS refunds,
    SUM(days.net_revenue) AS net_revenue,
    SUM(days.tax) AS tax
  FROM marts.dim_dates AS dates
  INNER JOIN marts.daily_revenue AS days
    ON dates.date_day = days.order_date
  WHERE
    @touched(dates.month)
  GROUP BY
    dates.month
)
SELECT
  months.month::DATE,
  months.is_complete::BOOLEAN,
  COALESCE(sales.orders, 0)::BIGINT AS orders,
  COALESCE(customers.customers, 0)::BIGINT AS customers,
  COALESCE(sales.units, 0)::DECIMAL(18, 4) AS units,
  COALESCE(sales.gross_revenue, 0)::DECIMAL(18, 4) AS gross_revenue,
  COALESCE(sales.discounts, 0)::DECIMAL(18, 4) AS discounts,
  COALESCE(sales.net_sales, 0)::DECIMAL(18, 4) AS net_sales,
  @ratio(sales.net_sales, sales.orders) AS average_order_value,
  COALESCE(sales.refunds, 0)::DECIMAL(18, 4) AS refunds,
  COALESCE(sales.net_revenue, 0)::DECIMAL(18, 4) AS net_revenue,
  COALESCE(sales.tax, 0)::DECIMAL(18, 4) AS tax
FROM months
LEFT JOIN sales
  ON months.month = sales.month
LEFT JOIN marts.new_vs_returning AS customers
  ON months.month = customers.month;

@create_index(month, unique := TRUE)
