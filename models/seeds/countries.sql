MODEL (
  name seeds.countries,
  kind SEED (
    path '$root/seeds/countries.csv',
    csv_settings (keep_default_na = FALSE)
  ),
  owner commerce,
  tags (seeds, commerce),
  grain country_code,
  description 'One row per country of ISO 3166-1.',
  columns (
    country_code TEXT,
    country_name TEXT
  ),
  column_descriptions (country_code = 'Code of two letters.', country_name = 'Name in English.'),
  audits (
    unique_values(columns := country_code),
    not_null(columns := (country_code, country_name))
  )
)
