MODEL (
  name seeds.countries,
  kind SEED (
    path '$root/seeds/countries.csv'
  ),
  owner commerce,
  tags (seeds, commerce),
  grain country_code,
  description 'One row per thing.',
  columns (
    country_code TEXT,
    country_name TEXT
  ),
  column_descriptions (country_code = 'P.', country_name = 'M.')
)
