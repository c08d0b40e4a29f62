MODEL (
  name marts_pii.customers,
  kind CUSTOM (
    materialization 'replace_touched',
    materialization_properties (key = customer_id)
  ),
  owner commerce,
  tags (marts_pii, customers),
  grain customer_id,
  description 'One row per customer that a customers file has described, with personal data: for members of analyst_pii. Answers: who is behind a customer_id or an email_hash? Excludes customers that are gone at the source; of those forgotten only the pseudonym is left.',
  column_descriptions (
    customer_id = 'Key of the customer, as delivered; joins marts.dim_customers.',
    email_hash = 'Keyed hash of the e-mail address; joins marts.dim_customers.',
    email = 'E-mail address, as delivered (personal data).',
    full_name = 'Name, as delivered (personal data).'
  ),
  audits (
    grain_is_unique(columns := customer_id)
  )
);

WITH touched AS (
  SELECT DISTINCT
    customer_id
  FROM staging.customer_versions
  WHERE
    @loaded()
), customers AS (
  SELECT
    customer_id,
    email_hash,
    email,
    full_name
  FROM staging.customers
  WHERE
    @touched(customer_id)
)
SELECT
  customer_id::TEXT,
  email_hash::TEXT,
  email::TEXT,
  full_name::TEXT
FROM customers;

@create_index(customer_id, unique := TRUE);

@create_index(email_hash)
