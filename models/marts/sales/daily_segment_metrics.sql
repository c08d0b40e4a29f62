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
), customers AS (
  SELECT
    customer_id,
    order_date,
    segment,
    orders,
    units,
    gross_revenue,
    discounts,
    net_sales
  FROM marts.customer_metrics
  WHERE
    orders > 0 AND @touched(order_date)
), guests AS (
  SELECT
    order_date,
    'guest' AS segment,
    units,
    gross_revenue,
    discounts,
    net_sales
  FROM marts.fct_orders
  WHERE
    is_counted AND customer_id IS NULL AND @touched(order_date)
), sales AS (
  SELECT
    order_date,
    segment,
    orders,
    1 AS customers,
    units,
    gross_revenue,
    discounts,
    net_sales
  FROM customers
  UNION ALL
  SELECT
    order_date,
    segment,
    1 AS orders,
    0 AS customers,
    units,
    gross_revenue,
    discounts,
    net_sales
  FROM guests
), segments AS (
  SELECT
    order_date,
    segment,
    SUM(orders) AS orders,
    SUM(customers) AS customers,
    SUM(units) AS units,
    SUM(gross_revenue) AS gross_revenue,
    SUM(discounts) AS discounts,
    SUM(net_sales) AS net_sales
  FROM sales
  GROUP BY
    order_date,
    segment
), order_values AS (
  /* who orders once on a day, as most do, has the value of the order in the day's sum */
  SELECT
    order_date,
    segment,
    net_sales
  FROM customers
  WHERE
    orders = 1
  UNION ALL
  SELECT
    customers.order_date,
    customers.segment,
    orders.net_sales
  FROM customers
  INNER JOIN marts.fct_orders AS orders
    ON customers.customer_id = orders.customer_id
    AND customers.order_date = orders.order_date
  WHERE
    customers.orders > 1 AND orders.is_counted
  UNION ALL
  SELECT
    order_date,
    segment,
    net_sales
  FROM guests
), medians AS (
  SELECT
    order_date,
    segment,
    @percentile_agg(net_sales, ARRAY[0.5], order_value)
  FROM order_values
  GROUP BY
    order_date,
    segment
)
SELECT
  segments.order_date::DATE,
  segments.segment::TEXT,
  segments.orders::BIGINT,
  segments.customers::BIGINT,
  segments.units::DECIMAL(18, 4),
  segments.gross_revenue::DECIMAL(18, 4),
  segments.discounts::DECIMAL(18, 4),
  segments.net_sales::DECIMAL(18, 4),
  @ratio(segments.net_sales, segments.orders) AS average_order_value,
  medians.order_value_p50::DECIMAL(18, 4) AS median_order_value
FROM segments
INNER JOIN medians
  ON segments.order_date = medians.order_date AND segments.segment = medians.segment;

@create_index(order_date, segment, unique := TRUE)
