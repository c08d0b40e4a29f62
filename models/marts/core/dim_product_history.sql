MODEL (
  name marts.dim_product_history,
  kind CUSTOM (
    materialization 'replace_touched',
    materialization_properties (key = product_id)
  ),
  owner commerce,
  tags (marts, core),
  grain (product_id, valid_from),
  description 'One row per product and period in which nothing shown here changed, without gaps or overlaps from the first version on. Answers: what did a product cost, and in which category was it, when it was sold? Join on valid_from <= the instant, and valid_to > the instant or valid_to IS NULL. Excludes products that no products file has described.',
  column_descriptions (
    product_id = 'Key of the product, as delivered; joins marts.dim_products.',
    product_name = 'Name, or unknown.',
    category = 'Category, or unknown.',
    brand = 'Brand, or unknown.',
    list_price = 'List price, as delivered; NULL where unknown.',
    unit_cost = 'Cost of one unit, as delivered; NULL where unknown.',
    is_deleted = 'True: in this period the product was gone at the source.',
    is_current = 'True for the last period, which has no end.',
    valid_from = 'Start of the period, inclusive: updated_at of the version that began it.',
    valid_to = 'End of the period, exclusive: start of the next; NULL while current.'
  ),
  audits (
    grain_is_unique(columns := (product_id, valid_from)),
    history_is_gapless(key := product_id)
  )
);

WITH touched AS (
  SELECT DISTINCT
    product_id
  FROM staging.product_versions
  WHERE
    @loaded()
), versions AS (
  SELECT DISTINCT ON (product_id, updated_at)
    product_id,
    CASE WHEN _deleted THEN 'unknown' ELSE COALESCE(product_name, 'unknown') END AS product_name,
    CASE WHEN _deleted THEN 'unknown' ELSE COALESCE(category, 'unknown') END AS category,
    CASE WHEN _deleted THEN 'unknown' ELSE COALESCE(brand, 'unknown') END AS brand,
    CASE WHEN NOT _deleted THEN list_price END AS list_price,
    CASE WHEN NOT _deleted THEN unit_cost END AS unit_cost,
    _deleted AS is_deleted,
    updated_at
  FROM staging.product_versions
  WHERE
    @landed() AND @touched(product_id)
  ORDER BY
    product_id,
    updated_at,
    _loaded_at DESC,
    _row_number DESC,
    _batch_id DESC
), compared AS (
  SELECT
    product_id,
    product_name,
    category,
    brand,
    list_price,
    unit_cost,
    is_deleted,
    updated_at,
    LAG(product_name) OVER (PARTITION BY product_id ORDER BY updated_at) AS previous_product_name,
    LAG(category) OVER (PARTITION BY product_id ORDER BY updated_at) AS previous_category,
    LAG(brand) OVER (PARTITION BY product_id ORDER BY updated_at) AS previous_brand,
    LAG(list_price) OVER (PARTITION BY product_id ORDER BY updated_at) AS previous_list_price,
    LAG(unit_cost) OVER (PARTITION BY product_id ORDER BY updated_at) AS previous_unit_cost,
    LAG(is_deleted) OVER (PARTITION BY product_id ORDER BY updated_at) AS previous_is_deleted
  FROM versions
), changes AS (
  /* the first version has no previous, so that its is_deleted differs from NULL */
  SELECT
    product_id,
    product_name,
    category,
    brand,
    list_price,
    unit_cost,
    is_deleted,
    updated_at AS valid_from,
    LEAD(updated_at) OVER (PARTITION BY product_id ORDER BY updated_at) AS valid_to
  FROM compared
  WHERE
    is_deleted IS DISTINCT FROM previous_is_deleted
    OR product_name IS DISTINCT FROM previous_product_name
    OR category IS DISTINCT FROM previous_category
    OR brand IS DISTINCT FROM previous_brand
    OR list_price IS DISTINCT FROM previous_list_price
    OR unit_cost IS DISTINCT FROM previous_unit_cost
)
SELECT
  product_id::TEXT,
  product_name::TEXT,
  category::TEXT,
  brand::TEXT,
  list_price::DECIMAL(18, 4),
  unit_cost::DECIMAL(18, 4),
  is_deleted::BOOLEAN,
  valid_to IS NULL AS is_current,
  valid_from::TIMESTAMPTZ,
  valid_to::TIMESTAMPTZ
FROM changes;

@create_index(product_id, valid_from, unique := TRUE)
