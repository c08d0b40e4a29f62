MODEL (
  name raw.customers,
  kind VIEW,
  owner commerce,
  tags (raw, commerce),
  grain (_batch_id, _row_number),
  description 'One row per version of a customer that was ever landed, oldest versions included.',
  column_descriptions (
    customer_id = 'Key of the customer, as delivered.',
    email = 'E-mail address (personal data).',
    full_name = 'Name (personal data).',
    country_code = 'ISO 3166 code of two letters.',
    created_at = 'When the customer was created.',
    updated_at = 'Version clock: the greatest wins.',
    _deleted = 'True: gone at the source as of this version.',
    _batch_id = 'Batch that brought the row.',
    _loaded_at = 'When the batch was published; drives the increments.',
    _source_file = 'File it came from.',
    _row_number = 'Its record in that file.'
  )
);

SELECT
  customer_id::TEXT,
  email::TEXT,
  full_name::TEXT,
  country_code::TEXT,
  created_at::TIMESTAMPTZ,
  updated_at::TIMESTAMPTZ,
  _deleted::BOOLEAN,
  _batch_id::BIGINT,
  _loaded_at::TIMESTAMPTZ,
  _source_file::TEXT,
  _row_number::BIGINT
FROM landing.customers
