MODEL (
  name staging.products,
  kind CUSTOM (
    materialization 'replace_touched',
    materialization_properties (key = product_id)
  ),
  owner commerce,
  tags (staging, commerce),
  grain product_id,
  description 'One row per product that exists at the source: the newest version of each.',
  column_descriptions (
    product_id = 'Key of the product, as delivered.',
    product_name = 'Name.',
    category = 'Category.',
    brand = 'Brand.',
    list_price = 'List price.',
    unit_cost = 'Cost of one unit.',
    updated_at = 'Clock of the version shown.'
  ),
  audits (
    grain_is_unique(columns := product_id),
    no_rows_lost(source := raw.products, key := product_id)
  )
);

WITH touched AS (
  SELECT DISTINCT
    product_id
  FROM raw.products
  WHERE
    @loaded()
), versions AS (
  SELECT DISTINCT ON (product_id)
    product_id,
    product_name,
    category,
    brand,
    list_price,
    unit_cost,
    updated_at,
    _deleted
  FROM raw.products
  WHERE
    @landed() AND @touched(product_id)
  ORDER BY
    product_id,
    updated_at DESC,
    _loaded_at DESC,
    _row_number DESC,
    _batch_id DESC
)
SELECT
  product_id::TEXT,
  product_name::TEXT,
  category::TEXT,
  brand::TEXT,
  list_price::DECIMAL(18, 4),
  unit_cost::DECIMAL(18, 4),
  updated_at::TIMESTAMPTZ
FROM versions
WHERE
  NOT _deleted;

@create_index(product_id, unique := TRUE)
