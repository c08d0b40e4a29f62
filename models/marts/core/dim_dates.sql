MODEL (
  name marts.dim_dates,
  kind CUSTOM (
    materialization 'replace_touched',
    materialization_properties (key = month)
  ),
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
    is_month_complete = 'False: the month ends after the as-of day, so more may come.'
  ),
  audits (
    grain_is_unique(columns := date_day)
  )
);

WITH touched AS (
  /* what changes lies between where the days began and begin, or between where they ended and end */
  SELECT
    months.month
  FROM (
    SELECT
      spine.date_month AS month
    FROM (
      @date_spine(
        (
          SELECT
            first_date
          FROM staging.covered_days
        ),
        (
          SELECT
            as_of_date
          FROM staging.covered_days
        ),
        'month'
      )
    ) AS spine
    UNION
    SELECT
      present.month
    FROM marts.dim_dates AS present
  ) AS months
  CROSS JOIN staging.covered_days AS covered
  CROSS JOIN (
    SELECT
      MIN(days.date_day) AS first_date,
      MAX(days.date_day) AS last_date
    FROM marts.dim_dates AS days
  ) AS present
  WHERE
    covered.first_date IS NULL
    OR (
      covered.first_date <> present.first_date
      AND months.month <= GREATEST(covered.first_date, present.first_date)
    )
    OR (
      covered.as_of_date <> present.last_date
      AND months.month >= DATE_TRUNC('MONTH', LEAST(covered.as_of_date, present.last_date))
    )
), spine AS (
  SELECT
    days.date_day,
    DATE_TRUNC('MONTH', days.date_day)::DATE AS month,
    covered.as_of_date
  FROM (
    @date_spine(
      (
        SELECT
          first_date
        FROM staging.covered_days
      ),
      (
        SELECT
          as_of_date
        FROM staging.covered_days
      ),
      'day'
    )
  ) AS days
  CROSS JOIN staging.covered_days AS covered
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
  DATE_TRUNC('MONTH', spine.month + 31)::DATE - 1 <= spine.as_of_date AS is_month_complete
FROM spine
LEFT JOIN staging.holidays AS holidays
  ON spine.date_day = holidays.holiday_date
WHERE
  @touched(spine.month);

@create_index(date_day, unique := TRUE);

@create_index(month)
