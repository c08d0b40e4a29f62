MODEL (
  name seeds.holidays,
  kind SEED (
    path '$root/seeds/holidays.csv'
  ),
  owner commerce,
  tags (seeds, commerce),
  grain (country_code, holiday_date),
  description 'One row per country and public holiday of the whole country.',
  columns (
    country_code TEXT,
    holiday_date DATE,
    holiday_name TEXT
  ),
  column_descriptions (
    country_code = 'ISO 3166-1 code of two letters.',
    holiday_date = 'The day.',
    holiday_name = 'Its name in English where there is one; several of one day separated by a semicolon.'
  ),
  audits (
    unique_combination_of_columns(columns := (country_code, holiday_date)),
    not_null(columns := (country_code, holiday_date, holiday_name))
  )
)
