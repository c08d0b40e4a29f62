MODEL (
  name staging.holidays,
  kind VIEW,
  owner commerce,
  tags (staging, commerce),
  grain holiday_date,
  description 'One row per public holiday of the country that the variable holiday_country names.',
  column_descriptions (
    holiday_date = 'The day.',
    holiday_name = 'Its name; several of one day separated by a semicolon.'
  )
);

SELECT
  holiday_date::DATE,
  holiday_name::TEXT
FROM seeds.holidays
WHERE
  country_code = @holiday_country
