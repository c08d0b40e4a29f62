MODEL (
  name marts.daily_segment_metrics,
  kind CUSTOM (
    materialization 'replace_touched',
    materialization_properties (key = order_date)
  ),
  owner commerce,
  tags (marts, sales),
  depends_on (
    marts.daily_revenue
  ),
  grain (order_date, segment),
  description 'One row per local day and segment with a counted order. Answers: how much do customers of high, medium and low value buy, and guests? A customer lies in the segment of that day, so that a report of the past does not change as the customer grows. Excludes cancelled orders.',
  column_descriptions (
    order_date = 'Local day of the orders; joins marts.dim_dates.',
    segment = 'guest, or the segment that marts.customer_metrics gives the customer on this day.',
    orders = 'Counted orders.',
    customers = 'Distinct customers; guests are not customers.',
    units = 'Units sold.',
    gross_revenue = 'Lines before discount, without tax, in the reporting currency.',
    discounts = 'Discounts, in the reporting currency.',
    net_sales = 'gross_revenue less discounts.',
    average_order_value = 'net_sales divided by orders.',
    median_order_value = 'Median of the net_sales of the orders.'
  ),
  audits (
    grain_is_unique(columns := (order_date, segment)),
    revenue_consistency,
    revenue_reconciles(facts := marts.daily_revenue)
  )
);

WITH touched AS (
  SELECT
    order_date
  FROM staging.order_touches
  WHERE
    @loaded() AND NOT order_date IS NULL
  UNION
  /* what a customer did on a day may change the segment of all later days */
  SELECT
    metrics.order_date
  FROM (
    SELECT
      customer_id,
      MIN(touch_date) AS first_date
    FROM (
      SELECT
        customer_id,
        order_date AS touch_date
      FROM staging.order_touches
      WHERE
        @loaded()
      UNION ALL
      SELECT
        customer_id,
        refund_date AS touch_date
      FROM staging.refund_touches
      WHERE
        @loaded()
    ) AS touches
    GROUP BY
      customer_id
  ) AS customers
  INNER JOIN marts.customer_metrics AS metrics
    ON customers.customer_id = metrics.customer_id
    AND customers.first_date <= metrics.order_date
), sales AS (
  /* who orders once on a day, as most do, has the value of the order in the day's sum */
  SELECT
    order_date,
    segment,
    orders,
    1 AS customers,
    units,
    gross_revenue,
    discounts,
    CASE WHEN orders = 1 THEN net_sales END AS order_value
  FROM marts.customer_metrics
  WHERE
    orders > 0 AND @touched(order_date)
  UNION ALL
  /* who orders more often is counted above, and brings the value of each order */
  SELECT
    metrics.order_date,
    metrics.segment,
    0 AS orders,
    0 AS customers,
    0 AS units,
    0 AS gross_revenue,
    0 AS discounts,
    orders.net_sales AS order_value
  FROM marts.customer_metrics AS metrics
  INNER JOIN marts.fct_orders AS orders
    ON metrics.customer_id = orders.customer_id
    AND metrics.order_date = orders.order_date
  WHERE
    metrics.orders > 1 AND orders.is_counted AND @touched(metrics.order_date)
  UNION ALL
  SELECT
    order_date,
    'guest' AS segment,
    1 AS orders,
    0 AS customers,
    units,
    gross_revenue,
    discounts,
    net_sales AS order_value
  FROM marts.fct_orders
  WHERE
    is_counted AND customer_id IS NULL AND @touched(order_date)
), segments AS (
  SELECT
    order_date,
    segment,
    SUM(orders) AS orders,
    SUM(customers) AS customers,
    SUM(units) AS units,
    SUM(gross_revenue) AS gross_revenue,
    SUM(discounts) AS discounts,
    SUM(gross_revenue) - SUM(discounts) AS net_sales,
    @percentile_agg(order_value, ARRAY[0.5], order_value)
  FROM sales
  GROUP BY
    order_date,
    segment
)
SELECT
  order_date::DATE,
  segment::TEXT,
  orders::BIGINT,
  customers::BIGINT,
  units::DECIMAL(18, 4),
  gross_revenue::DECIMAL(18, 4),
  discounts::DECIMAL(18, 4),
  net_sales::DECIMAL(18, 4),
  @ratio(net_sales, orders) AS average_order_value,
  order_value_p50::DECIMAL(18, 4) AS median_order_value
FROM segments;

@create_index(order_date, segment, unique := TRUE)
