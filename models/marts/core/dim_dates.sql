MODEL (
  name marts.dim_dates,
  kind FULL,
  owner commerce,
  tags (marts, core),
  grain date_day,
  description 'One row per local day from the first order, refund, ticket or ticket event to the as-of day, the last day on which one lies. Answers: which days does the warehouse cover, and which month, week and weekday is a day? Excludes days after the as-of day, whatever the wall clock says.',
  column_descriptions (
    date_day = 'The day.',
    year_number = 'Calendar year.',
    quarter = 'First day of the quarter.',
    month = 'First day of the month.',
    week = 'Monday of the week.',
    day_of_month = '1 to 31.',
    day_of_week = '1 Monday to 7 Sunday, as ISO 8601.',
    is_weekend = 'True on Saturday and Sunday.',
    is_holiday = 'True on a public holiday of the country that the variable holiday_country names.',
    holiday_name = 'Its name; NULL on other days.',
    is_month_complete = 'False: the month ends after the as-of day, so more may come.',
    as_of_date = 'The as-of day, the same in every row (docs/decisions/0015-as-of-day.md).'
  ),
  audits (
    grain_is_unique(columns := date_day)
  )
);

WITH instants AS (
  SELECT
    MIN(ordered_at) AS first_at,
    MAX(ordered_at) AS last_at
  FROM staging.orders
  UNION ALL
  SELECT
    MIN(refunded_at) AS first_at,
    MAX(refunded_at) AS last_at
  FROM staging.refunds
  UNION ALL
  SELECT
    MIN(occurred_at) AS first_at,
    MAX(occurred_at) AS last_at
  FROM staging.ticket_events
  UNION ALL
  SELECT
    MIN(created_at) AS first_at,
    MAX(created_at) AS last_at
  FROM staging.tickets
), bounds AS (
  SELECT
    @local_date(MIN(first_at)) AS first_date,
    @local_date(MAX(last_at)) AS as_of_date
  FROM instants
), spine AS (
  SELECT
    date_day,
    DATE_TRUNC('MONTH', date_day)::DATE AS month
  FROM (
    @date_spine(
      (
        SELECT
          first_date
        FROM bounds
      ),
      (
        SELECT
          as_of_date
        FROM bounds
      ),
      'day'
    )
  ) AS days
)
SELECT
  spine.date_day::DATE,
  EXTRACT(YEAR FROM spine.date_day)::INT AS year_number,
  DATE_TRUNC('QUARTER', spine.date_day)::DATE AS quarter,
  spine.month::DATE,
  DATE_TRUNC('WEEK', spine.date_day)::DATE AS week,
  EXTRACT(DAY FROM spine.date_day)::INT AS day_of_month,
  @iso_weekday(spine.date_day) AS day_of_week,
  @iso_weekday(spine.date_day) >= 6 AS is_weekend,
  NOT holidays.holiday_date IS NULL AS is_holiday,
  holidays.holiday_name::TEXT,
  DATE_TRUNC('MONTH', spine.month + 31)::DATE - 1 <= bounds.as_of_date AS is_month_complete,
  bounds.as_of_date::DATE
FROM spine
CROSS JOIN bounds
LEFT JOIN staging.holidays AS holidays
  ON spine.date_day = holidays.holiday_date;

@create_index(date_day, unique := TRUE)
