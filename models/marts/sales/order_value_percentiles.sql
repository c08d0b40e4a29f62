MODEL (
  name marts.order_value_percentiles,
  kind CUSTOM (
    materialization 'replace_touched',
    materialization_properties (key = month)
  ),
  owner commerce,
  tags (marts, sales),
  depends_on (
    marts.daily_revenue
  ),
  grain month,
  description 'One row per local month with a counted order. Answers: what is a typical order worth, and a large one? The value of an order is its net_sales. Excludes cancelled orders and months without orders.',
  column_descriptions (
    month = 'First day of the local month.',
    is_complete = 'False: the month ends after the as-of day, so more may come.',
    orders = 'Counted orders of the month, guests included.',
    net_sales = 'Their net_sales, in the reporting currency; divided by orders it is the average order value.',
    p25 = 'Order value that a quarter of the orders do not exceed, interpolated between neighbours.',
    p50 = 'Median order value.',
    p75 = 'Order value that three quarters of the orders do not exceed.',
    p90 = 'Order value that 90 % of the orders do not exceed.',
    p95 = 'Order value that 95 % of the orders do not exceed.',
    p99 = 'Order value that 99 % of the orders do not exceed.'
  ),
  audits (
    grain_is_unique(columns := month),
    revenue_reconciles(facts := marts.daily_revenue, by := order_date)
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
    spine.month
  FROM (
    SELECT DISTINCT
      month,
      is_month_complete
    FROM marts.dim_dates
  ) AS spine
  INNER JOIN marts.order_value_percentiles AS present
    ON spine.month = present.month
  WHERE
    spine.is_month_complete <> present.is_complete
), orders AS (
  SELECT
    dates.month,
    dates.is_month_complete AS is_complete,
    orders.net_sales
  FROM marts.dim_dates AS dates
  INNER JOIN marts.fct_orders AS orders
    ON dates.date_day = orders.order_date
  WHERE
    orders.is_counted AND @touched(dates.month)
)
SELECT
  month::DATE,
  is_complete::BOOLEAN,
  COUNT(*)::BIGINT AS orders,
  SUM(net_sales)::DECIMAL(18, 4) AS net_sales,
  @percentile_agg(net_sales, ARRAY[0.25, 0.5, 0.75, 0.9, 0.95, 0.99])
FROM orders
GROUP BY
  month,
  is_complete;

@create_index(month, unique := TRUE)
