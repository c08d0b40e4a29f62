MODEL (
  name staging.product_versions,
  kind VIEW,
  owner commerce,
  tags (staging, commerce),
  grain (_batch_id, _row_number),
  description 'One row per version of a product that was ever landed: what history is made of.',
  column_descriptions (
    product_id = 'Key of the product, as delivered.',
    product_name = 'Name.',
    category = 'Category.',
    brand = 'Brand.',
    list_price = 'List price.',
    unit_cost = 'Cost of one unit.',
    updated_at = 'Version clock.',
    _deleted = 'True: gone at the source as of this version.',
    _batch_id = 'Batch that brought the row.',
    _loaded_at = 'When the batch was published.',
    _row_number = 'Its record in its file.'
  )
);

SELECT
  product_id::TEXT,
  product_name::TEXT,
  category::TEXT,
  brand::TEXT,
  list_price::DECIMAL(18, 4),
  unit_cost::DECIMAL(18, 4),
  updated_at::TIMESTAMPTZ,
  _deleted::BOOLEAN,
  _batch_id::BIGINT,
  _loaded_at::TIMESTAMPTZ,
  _row_number::BIGINT
FROM raw.products
