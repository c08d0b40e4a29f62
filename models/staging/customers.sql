MODEL (
  name staging.customers,
  kind CUSTOM (
    materialization 'replace_touched',
    materialization_properties (key = customer_id)
  ),
  owner commerce,
  tags (staging, commerce),
  grain customer_id,
  description 'One row per customer that exists at the source: the newest version of each.',
  column_descriptions (
    customer_id = 'Key of the customer, as delivered.',
    email = 'E-mail address (personal data).',
    full_name = 'Name (personal data).',
    email_hash = 'Keyed hash of the e-mail address without its outer blanks, in lower case; NULL without one.',
    country_code = 'ISO 3166 code of two letters.',
    country_name = 'Name of the country; NULL for a code that seeds.countries does not list.',
    created_at = 'When the customer was created.',
    updated_at = 'Clock of the version shown.'
  ),
  audits (
    grain_is_unique(columns := customer_id),
    no_rows_lost(source := raw.customers, key := customer_id)
  )
);

WITH touched AS (
  SELECT DISTINCT
    customer_id
  FROM raw.customers
  WHERE
    @loaded()
), versions AS (
  SELECT DISTINCT ON (customer_id)
    customer_id,
    email,
    full_name,
    country_code,
    created_at,
    updated_at,
    _deleted
  FROM raw.customers
  WHERE
    @landed() AND @touched(customer_id)
  ORDER BY
    customer_id,
    updated_at DESC,
    _loaded_at DESC,
    _row_number DESC,
    _batch_id DESC
)
SELECT
  versions.customer_id::TEXT,
  versions.email::TEXT,
  versions.full_name::TEXT,
  @keyed_hash(versions.email)::TEXT AS email_hash,
  versions.country_code::TEXT,
  countries.country_name::TEXT,
  versions.created_at::TIMESTAMPTZ,
  versions.updated_at::TIMESTAMPTZ
FROM versions
LEFT JOIN seeds.countries AS countries
  ON versions.country_code = countries.country_code
WHERE
  NOT versions._deleted;

@create_index(customer_id, unique := TRUE)
