MODEL (
  name staging.customer_versions,
  kind VIEW,
  owner commerce,
  tags (staging, commerce),
  grain (_batch_id, _row_number),
  description 'One row per version of a customer that was ever landed: what history is made of. Excludes personal data.',
  column_descriptions (
    customer_id = 'Key of the customer, as delivered.',
    country_code = 'ISO 3166 code of two letters.',
    created_at = 'When the customer was created.',
    updated_at = 'Version clock.',
    _deleted = 'True: gone at the source as of this version.',
    _batch_id = 'Batch that brought the row.',
    _loaded_at = 'When the batch was published.',
    _row_number = 'Its record in its file.'
  )
);

SELECT
  customer_id::TEXT,
  country_code::TEXT,
  created_at::TIMESTAMPTZ,
  updated_at::TIMESTAMPTZ,
  _deleted::BOOLEAN,
  _batch_id::BIGINT,
  _loaded_at::TIMESTAMPTZ,
  _row_number::BIGINT
FROM raw.customers
