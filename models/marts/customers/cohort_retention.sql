MODEL (
  name marts.cohort_retention,
  kind CUSTOM (
    materialization 'replace_touched',
    materialization_properties (key = month)
  ),
  owner commerce,
  tags (marts, customers),
  grain (cohort_month, months_since),
  description 'One row per cohort and month since, up to the month of the as-of day, months in which nobody came back included. Answers: how many of the customers who began in a month order again later? Excludes guests, cancelled orders, and months in which no customer began.',
  column_descriptions (
    cohort_month = 'First day of the local month of the first counted order of the customers.',
    months_since = 'Months from cohort_month to month; 0 is the first month itself.',
    month = 'First day of the local month of the orders.',
    is_complete = 'False: the month ends after the as-of day, so more may come.',
    customers = 'Customers of the cohort with a counted order in the month.',
    cohort_size = 'Customers of the cohort.',
    retention_rate = 'customers divided by cohort_size.'
  ),
  audits (
    grain_is_unique(columns := (cohort_month, months_since)),
    retention_consistency,
    revenue_reconciles(facts := marts.new_vs_returning, totals := customers)
  )
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
  FULL OUTER JOIN (
    SELECT DISTINCT
      cells.month,
      cells.is_complete
    FROM marts.cohort_retention AS cells
  ) AS present
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
), retained AS (
  /* a customer once a month: on the first day with an order */
  SELECT
    days.month,
    DATE_TRUNC('MONTH', metrics.first_order_date)::DATE AS cohort_month,
    COUNT(*) AS customers
  FROM days
  INNER JOIN marts.customer_metrics AS metrics
    ON days.date_day = metrics.order_date
  WHERE
    metrics.orders > 0 AND metrics.orders_in_month = metrics.orders
  GROUP BY
    days.month,
    DATE_TRUNC('MONTH', metrics.first_order_date)::DATE
), cells AS (
  SELECT DISTINCT
    cohorts.month AS cohort_month,
    cohorts.new_customers AS cohort_size,
    days.month,
    days.is_complete
  FROM days
  INNER JOIN marts.new_vs_returning AS cohorts
    ON days.month >= cohorts.month
  WHERE
    cohorts.new_customers > 0
)
SELECT
  cells.cohort_month::DATE,
  CAST((
    EXTRACT(YEAR FROM cells.month) - EXTRACT(YEAR FROM cells.cohort_month)
  ) * 12 + EXTRACT(MONTH FROM cells.month) - EXTRACT(MONTH FROM cells.cohort_month) AS INT) AS months_since,
  cells.month::DATE,
  cells.is_complete::BOOLEAN,
  COALESCE(retained.customers, 0)::BIGINT AS customers,
  cells.cohort_size::BIGINT,
  @ratio(COALESCE(retained.customers, 0), cells.cohort_size) AS retention_rate
FROM cells
LEFT JOIN retained
  ON cells.cohort_month = retained.cohort_month AND cells.month = retained.month;

@create_index(cohort_month, months_since, unique := TRUE);

@create_index(month)
