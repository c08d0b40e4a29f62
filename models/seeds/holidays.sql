MODEL (
  name seeds.holidays,
  kind SEED (
    path '$root/seeds/holidays.csv'
  ),
  owner commerce,
  tags (seeds, commerce),
  grain (country_code, holiday_date),
  description 'One row per thing.',
  columns (
    country_code TEXT,
    holiday_date DATE,
    holiday_name TEXT
  ),
  column_descriptions (country_code = 'P.', holiday_date = 'M.', holiday_name = 'N.')
)
