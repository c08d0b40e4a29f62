MODEL (
  name marts.dim_customer_history,
  kind CUSTOM (
    materialization 'replace_touched',
    materialization_properties (key = customer_id)
  ),
  owner commerce,
  tags (marts, core),
  grain (customer_id, valid_from),
  description 'One row per customer and period in which nothing shown here changed, without gaps or overlaps from the first version on. Answers: where did a customer live when they ordered? Join on valid_from <= the instant, and valid_to > the instant or valid_to IS NULL. Excludes personal data, and customers that no customers file has described.',
  column_descriptions (
    customer_id = 'Key of the customer, as delivered; joins marts.dim_customers.',
    country_code = 'ISO 3166 code of two letters, or unknown.',
    created_at = 'When the customer was created; NULL where unknown.',
    is_deleted = 'True: in this period the customer was gone at the source.',
    is_current = 'True for the last period, which has no end.',
    valid_from = 'Start of the period, inclusive: updated_at of the version that began it.',
    valid_to = 'End of the period, exclusive: start of the next; NULL while current.'
  ),
  audits (
    grain_is_unique(columns := (customer_id, valid_from)),
    history_is_gapless(key := customer_id)
  )
);

WITH touched AS (
  SELECT DISTINCT
    customer_id
  FROM staging.customer_versions
  WHERE
    @loaded()
), versions AS (
  SELECT DISTINCT ON (customer_id, updated_at)
    customer_id,
    CASE WHEN _deleted THEN 'unknown' ELSE COALESCE(country_code, 'unknown') END AS country_code,
    CASE WHEN NOT _deleted THEN created_at END AS created_at,
    _deleted AS is_deleted,
    updated_at
  FROM staging.customer_versions
  WHERE
    @landed() AND @touched(customer_id)
  ORDER BY
    customer_id,
    updated_at,
    _loaded_at DESC,
    _row_number DESC,
    _batch_id DESC
), compared AS (
  SELECT
    customer_id,
    country_code,
    created_at,
    is_deleted,
    updated_at,
    LAG(country_code) OVER (PARTITION BY customer_id ORDER BY updated_at) AS previous_country_code,
    LAG(created_at) OVER (PARTITION BY customer_id ORDER BY updated_at) AS previous_created_at,
    LAG(is_deleted) OVER (PARTITION BY customer_id ORDER BY updated_at) AS previous_is_deleted
  FROM versions
), changes AS (
  /* the first version has no previous, so that its is_deleted differs from NULL */
  SELECT
    customer_id,
    country_code,
    created_at,
    is_deleted,
    updated_at AS valid_from,
    LEAD(updated_at) OVER (PARTITION BY customer_id ORDER BY updated_at) AS valid_to
  FROM compared
  WHERE
    is_deleted IS DISTINCT FROM previous_is_deleted
    OR country_code IS DISTINCT FROM previous_country_code
    OR created_at IS DISTINCT FROM previous_created_at
)
SELECT
  customer_id::TEXT,
  country_code::TEXT,
  created_at::TIMESTAMPTZ,
  is_deleted::BOOLEAN,
  valid_to IS NULL AS is_current,
  valid_from::TIMESTAMPTZ,
  valid_to::TIMESTAMPTZ
FROM changes;

@create_index(customer_id, valid_from, unique := TRUE)
