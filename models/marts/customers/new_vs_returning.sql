MODEL (
  name marts.new_vs_returning,
  kind CUSTOM (
    materialization 'replace_touched',
    materialization_properties (key = month)
  ),
  owner commerce,
  tags (marts, customers),
  depends_on (
    marts.customer_lifetime
  ),
  grain month,
  description 'One row per local month from the first to that of the as-of day. Answers: how many customers are new in a month, how many come back, how many order more than once? New: the first counted order ever lies in the month. Excludes guests and cancelled orders.',
  column_descriptions (
    month = 'First day of the local month.',
    is_complete = 'False: the month ends after the as-of day, so more may come.',
    customers = 'Customers with a counted order in the month.',
    new_customers = 'Of these, those whose first counted order ever lies in the month: the cohort of the month.',
    returning_customers = 'Of these, those with a counted order in an earlier month.',
    repeat_customers = 'Of these, those with two or more counted orders in the month.',
    repeat_customer_rate = 'repeat_customers divided by customers; NULL where there are none.'
  ),
  audits (grain_is_unique(columns := month), customers_reconcile)
);

WITH touched AS (
  SELECT
    months.month
  FROM (
    SELECT DISTINCT
      month
    FROM marts.dim_dates
  ) AS months
  INNER JOIN staging.cohort_touches AS touches
    ON months.month = touches.month
    OR (
      touches.is_cohort_touched AND months.month > touches.month
    )
  WHERE
    @loaded()
  UNION
  SELECT
    COALESCE(spine.month, present.month) AS month
  FROM (
    SELECT DISTINCT
      month,
      is_month_complete
    FROM marts.dim_dates
  ) AS spine
  FULL OUTER JOIN marts.new_vs_returning AS present
    ON spine.month = present.month
  WHERE
    spine.month IS NULL
    OR present.month IS NULL
    OR spine.is_month_complete <> present.is_complete
), days AS (
  SELECT
    date_day,
    month,
    is_month_complete AS is_complete
  FROM marts.dim_dates
  WHERE
    @touched(month)
), months AS (
  SELECT DISTINCT
    month,
    is_complete
  FROM days
), active AS (
  /* a customer's first day with an order in the month, and the day of the second order */
  SELECT
    days.month,
    metrics.first_order_date,
    metrics.orders_in_month = metrics.orders AS is_first_day,
    metrics.orders_in_month > 1 AND metrics.orders_in_month - metrics.orders <= 1 AS is_second_order
  FROM days
  INNER JOIN marts.customer_metrics AS metrics
    ON days.date_day = metrics.order_date
  WHERE
    metrics.orders > 0
), counts AS (
  SELECT
    month,
    SUM(CASE WHEN is_first_day THEN 1 ELSE 0 END) AS customers,
    SUM(CASE WHEN is_first_day AND first_order_date >= month THEN 1 ELSE 0 END) AS new_customers,
    SUM(CASE WHEN is_first_day AND first_order_date < month THEN 1 ELSE 0 END) AS returning_customers,
    SUM(CASE WHEN is_second_order THEN 1 ELSE 0 END) AS repeat_customers
  FROM active
  GROUP BY
    month
)
SELECT
  months.month::DATE,
  months.is_complete::BOOLEAN,
  COALESCE(counts.customers, 0)::BIGINT AS customers,
  COALESCE(counts.new_customers, 0)::BIGINT AS new_customers,
  COALESCE(counts.returning_customers, 0)::BIGINT AS returning_customers,
  COALESCE(counts.repeat_customers, 0)::BIGINT AS repeat_customers,
  @ratio(counts.repeat_customers, counts.customers) AS repeat_customer_rate
FROM months
LEFT JOIN counts
  ON months.month = counts.month;

@create_index(month, unique := TRUE)
