MODEL (
  name raw.tickets,
  kind VIEW,
  owner support,
  tags (raw, support),
  grain (_batch_id, _row_number),
  description 'One row per version of a support ticket that was ever landed, oldest versions included.',
  column_descriptions (
    ticket_id = 'Key of the ticket, as delivered.',
    customer_id = 'Customer who asked.',
    order_id = 'Order asked about.',
    channel = 'Channel it came by.',
    priority = 'Priority.',
    category = 'Subject.',
    status = 'open, pending, solved or closed.',
    created_at = 'When it was created.',
    updated_at = 'Version clock: the greatest wins.',
    _deleted = 'True: gone at the source as of this version.',
    _batch_id = 'Batch that brought the row.',
    _loaded_at = 'When the batch was published; drives the increments.',
    _source_file = 'File it came from.',
    _row_number = 'Its record in that file.'
  )
);

SELECT
  ticket_id::TEXT,
  customer_id::TEXT,
  order_id::TEXT,
  channel::TEXT,
  priority::TEXT,
  category::TEXT,
  status::TEXT,
  created_at::TIMESTAMPTZ,
  updated_at::TIMESTAMPTZ,
  _deleted::BOOLEAN,
  _batch_id::BIGINT,
  _loaded_at::TIMESTAMPTZ,
  _source_file::TEXT,
  _row_number::BIGINT
FROM landing.tickets
