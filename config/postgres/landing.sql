-- The landing contract: seven append-only tables, and the ledger of what was loaded and what was rejected.
-- Run as the administrator in the warehouse database; repeating it changes nothing.
-- scripts/contract.py says the same as data; tests/python/test_contract.py holds the two together.
-- A deleted row (_deleted) needs only its key and its version clock, so the other columns may be empty in it.

CREATE SCHEMA IF NOT EXISTS landing;
COMMENT ON SCHEMA landing IS 'What the sources delivered: every version of every record, append-only';

-- Ledger -----------------------------------------------------------------------------------------------------------

CREATE TABLE IF NOT EXISTS landing.batches (
  batch_id BIGINT GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
  batch_name TEXT NOT NULL,
  loaded_at TIMESTAMPTZ NOT NULL UNIQUE,
  drop_folder TEXT NOT NULL,
  loaded_by TEXT NOT NULL DEFAULT session_user
);
COMMENT ON TABLE landing.batches IS 'One row per batch that was published, whole: a batch folder, at one instant';
COMMENT ON COLUMN landing.batches.batch_id IS 'The _batch_id of its rows';
COMMENT ON COLUMN landing.batches.batch_name IS 'Name of the batch folder';
COMMENT ON COLUMN landing.batches.loaded_at IS 'The _loaded_at of its rows; strictly increasing from batch to batch';
COMMENT ON COLUMN landing.batches.drop_folder IS 'The drop folder that held the batch folder';
COMMENT ON COLUMN landing.batches.loaded_by IS 'Login that published it';

CREATE TABLE IF NOT EXISTS landing.files (
  file_id BIGINT GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
  batch_id BIGINT NOT NULL REFERENCES landing.batches,
  path TEXT NOT NULL,
  table_name TEXT,
  sha256 TEXT,
  bytes BIGINT,
  status TEXT NOT NULL CHECK (status IN ('loaded', 'refused')),
  rows_read BIGINT NOT NULL DEFAULT 0,
  rows_loaded BIGINT NOT NULL DEFAULT 0,
  rows_duplicate BIGINT NOT NULL DEFAULT 0,
  rows_rejected BIGINT NOT NULL DEFAULT 0,
  seconds DOUBLE PRECISION NOT NULL,
  error TEXT,
  CONSTRAINT rows_conserved CHECK (rows_read = rows_loaded + rows_duplicate + rows_rejected),
  CONSTRAINT loaded_is_known CHECK (status = 'refused' OR (table_name IS NOT NULL AND sha256 IS NOT NULL)),
  CONSTRAINT refused_has_error CHECK ((status = 'refused') = (error IS NOT NULL))
);
-- The same content loads once, under whatever name.
CREATE UNIQUE INDEX IF NOT EXISTS files_loaded_once ON landing.files (table_name, sha256) WHERE status = 'loaded';
CREATE INDEX IF NOT EXISTS files_batch_id ON landing.files (batch_id);
COMMENT ON TABLE landing.files IS 'One row per file that was loaded or refused; a file known already is not repeated';
COMMENT ON COLUMN landing.files.file_id IS 'Order in which files were handled';
COMMENT ON COLUMN landing.files.batch_id IS 'Batch it was part of';
COMMENT ON COLUMN landing.files.path IS 'Batch folder and file name, as in _source_file';
COMMENT ON COLUMN landing.files.table_name IS 'Landing table it belongs to; empty when its name is no table';
COMMENT ON COLUMN landing.files.sha256 IS 'SHA-256 of its bytes, in hex; empty when it was refused unread';
COMMENT ON COLUMN landing.files.bytes IS 'Size in bytes, as delivered';
COMMENT ON COLUMN landing.files.status IS 'loaded, or refused: then nothing of it is in landing';
COMMENT ON COLUMN landing.files.rows_read IS 'Records in the file = loaded + duplicate + rejected';
COMMENT ON COLUMN landing.files.rows_loaded IS 'Records now in the landing table';
COMMENT ON COLUMN landing.files.rows_duplicate IS 'Records equal to one landed before or earlier in the file: left out';
COMMENT ON COLUMN landing.files.rows_rejected IS 'Records that break the contract: in landing.rejects';
COMMENT ON COLUMN landing.files.seconds IS 'Time it took to read, check and copy the file, without the publishing';
COMMENT ON COLUMN landing.files.error IS 'Why it was refused';

CREATE TABLE IF NOT EXISTS landing.rejects (
  batch_id BIGINT NOT NULL REFERENCES landing.batches,
  source_file TEXT NOT NULL,
  table_name TEXT NOT NULL,
  line BIGINT NOT NULL,
  column_name TEXT,
  value TEXT,
  reason TEXT NOT NULL,
  rejected_at TIMESTAMPTZ NOT NULL
);
CREATE INDEX IF NOT EXISTS rejects_batch_id ON landing.rejects (batch_id);
COMMENT ON TABLE landing.rejects IS 'One row per record that breaks the contract; the rest of its file is loaded';
COMMENT ON COLUMN landing.rejects.batch_id IS 'Batch it came in';
COMMENT ON COLUMN landing.rejects.source_file IS 'Batch folder and file name';
COMMENT ON COLUMN landing.rejects.table_name IS 'Landing table it was meant for';
COMMENT ON COLUMN landing.rejects.line IS 'Line of the file on which the record begins; in parquet its row; from 1';
COMMENT ON COLUMN landing.rejects.column_name IS 'First column at fault, in the order of the contract; empty: the record';
COMMENT ON COLUMN landing.rejects.value IS 'What stands there, cut to 200 characters; (withheld) where it may be personal data';
COMMENT ON COLUMN landing.rejects.reason IS 'What is wrong with it';
COMMENT ON COLUMN landing.rejects.rejected_at IS 'loaded_at of the batch';

-- The seven tables -------------------------------------------------------------------------------------------------

CREATE TABLE IF NOT EXISTS landing.customers (
  customer_id TEXT NOT NULL,
  email TEXT,
  full_name TEXT,
  country_code TEXT,
  created_at TIMESTAMPTZ,
  updated_at TIMESTAMPTZ NOT NULL,
  _deleted BOOLEAN NOT NULL DEFAULT FALSE,
  _batch_id BIGINT NOT NULL,
  _loaded_at TIMESTAMPTZ NOT NULL DEFAULT clock_timestamp(),
  _source_file TEXT,
  _row_number BIGINT,
  CONSTRAINT customers_contract CHECK (isfinite(updated_at))
);
CREATE INDEX IF NOT EXISTS customers_customer_id ON landing.customers (customer_id);
CREATE INDEX IF NOT EXISTS customers_loaded_at
ON landing.customers USING brin (_loaded_at) WITH (pages_per_range = 32, autosummarize = ON);
COMMENT ON TABLE landing.customers IS 'One row per delivered version of a customer';
COMMENT ON COLUMN landing.customers.customer_id IS 'Key, carried unchanged';
COMMENT ON COLUMN landing.customers.email IS 'E-mail address (personal data)';
COMMENT ON COLUMN landing.customers.full_name IS 'Name (personal data)';
COMMENT ON COLUMN landing.customers.country_code IS 'ISO 3166-1 alpha-2';
COMMENT ON COLUMN landing.customers.created_at IS 'When the customer was first known';
COMMENT ON COLUMN landing.customers.updated_at IS 'Version clock: the newest version wins';

CREATE TABLE IF NOT EXISTS landing.products (
  product_id TEXT NOT NULL,
  product_name TEXT,
  category TEXT,
  brand TEXT,
  list_price NUMERIC(18, 4),
  unit_cost NUMERIC(18, 4),
  updated_at TIMESTAMPTZ NOT NULL,
  _deleted BOOLEAN NOT NULL DEFAULT FALSE,
  _batch_id BIGINT NOT NULL,
  _loaded_at TIMESTAMPTZ NOT NULL DEFAULT clock_timestamp(),
  _source_file TEXT,
  _row_number BIGINT,
  CONSTRAINT products_contract CHECK (
    isfinite(updated_at) AND list_price <> 'NaN' AND unit_cost <> 'NaN'
  )
);
CREATE INDEX IF NOT EXISTS products_product_id ON landing.products (product_id);
CREATE INDEX IF NOT EXISTS products_loaded_at
ON landing.products USING brin (_loaded_at) WITH (pages_per_range = 32, autosummarize = ON);
COMMENT ON TABLE landing.products IS 'One row per delivered version of a product';
COMMENT ON COLUMN landing.products.product_id IS 'Key, carried unchanged';
COMMENT ON COLUMN landing.products.product_name IS 'Name';
COMMENT ON COLUMN landing.products.category IS 'Category, as the source has it';
COMMENT ON COLUMN landing.products.brand IS 'Brand';
COMMENT ON COLUMN landing.products.list_price IS 'Price of one unit before discount';
COMMENT ON COLUMN landing.products.unit_cost IS 'Cost of one unit';
COMMENT ON COLUMN landing.products.updated_at IS 'Version clock: the newest version wins';

CREATE TABLE IF NOT EXISTS landing.orders (
  order_id TEXT NOT NULL,
  customer_id TEXT,
  status TEXT,
  currency TEXT,
  shipping_amount NUMERIC(18, 4),
  ordered_at TIMESTAMPTZ,
  updated_at TIMESTAMPTZ NOT NULL,
  _deleted BOOLEAN NOT NULL DEFAULT FALSE,
  _batch_id BIGINT NOT NULL,
  _loaded_at TIMESTAMPTZ NOT NULL DEFAULT clock_timestamp(),
  _source_file TEXT,
  _row_number BIGINT,
  CONSTRAINT orders_contract CHECK (
    isfinite(updated_at)
    AND shipping_amount <> 'NaN'
    AND (
      _deleted
      OR (
        status IS NOT NULL AND status IN ('placed', 'shipped', 'delivered', 'cancelled')
        AND currency IS NOT NULL
        AND ordered_at IS NOT NULL AND isfinite(ordered_at)
      )
    )
  )
);
CREATE INDEX IF NOT EXISTS orders_order_id ON landing.orders (order_id);
CREATE INDEX IF NOT EXISTS orders_loaded_at
ON landing.orders USING brin (_loaded_at) WITH (pages_per_range = 32, autosummarize = ON);
COMMENT ON TABLE landing.orders IS 'One row per delivered version of an order';
COMMENT ON COLUMN landing.orders.order_id IS 'Key, carried unchanged';
COMMENT ON COLUMN landing.orders.customer_id IS 'Who ordered; empty: a guest';
COMMENT ON COLUMN landing.orders.status IS 'placed, shipped, delivered or cancelled';
COMMENT ON COLUMN landing.orders.currency IS 'ISO 4217, of every amount of the order and its lines';
COMMENT ON COLUMN landing.orders.shipping_amount IS 'Shipping charged; never revenue';
COMMENT ON COLUMN landing.orders.ordered_at IS 'Event time: when it was ordered';
COMMENT ON COLUMN landing.orders.updated_at IS 'Version clock: the newest version wins';

CREATE TABLE IF NOT EXISTS landing.order_items (
  order_id TEXT NOT NULL,
  line_number INTEGER NOT NULL,
  product_id TEXT,
  quantity NUMERIC(18, 4),
  gross_amount NUMERIC(18, 4),
  discount_amount NUMERIC(18, 4),
  tax_amount NUMERIC(18, 4),
  updated_at TIMESTAMPTZ NOT NULL,
  _deleted BOOLEAN NOT NULL DEFAULT FALSE,
  _batch_id BIGINT NOT NULL,
  _loaded_at TIMESTAMPTZ NOT NULL DEFAULT clock_timestamp(),
  _source_file TEXT,
  _row_number BIGINT,
  CONSTRAINT order_items_contract CHECK (
    isfinite(updated_at)
    AND tax_amount <> 'NaN'
    AND (
      _deleted
      OR (
        product_id IS NOT NULL
        AND quantity IS NOT NULL AND quantity > 0 AND quantity <> 'NaN'
        AND gross_amount IS NOT NULL AND gross_amount >= 0 AND gross_amount <> 'NaN'
        AND discount_amount BETWEEN 0 AND gross_amount
      )
    )
  )
);
CREATE INDEX IF NOT EXISTS order_items_order_id ON landing.order_items (order_id);
CREATE INDEX IF NOT EXISTS order_items_loaded_at
ON landing.order_items USING brin (_loaded_at) WITH (pages_per_range = 32, autosummarize = ON);
COMMENT ON TABLE landing.order_items IS 'One row per delivered version of an order line';
COMMENT ON COLUMN landing.order_items.order_id IS 'Key, with line_number: the order, carried unchanged';
COMMENT ON COLUMN landing.order_items.line_number IS 'Key, with order_id: the line of the order';
COMMENT ON COLUMN landing.order_items.product_id IS 'What was ordered';
COMMENT ON COLUMN landing.order_items.quantity IS 'Units, more than 0';
COMMENT ON COLUMN landing.order_items.gross_amount IS 'Line total before discount, without tax, at least 0';
COMMENT ON COLUMN landing.order_items.discount_amount IS 'Discount on the line: 0 to gross_amount';
COMMENT ON COLUMN landing.order_items.tax_amount IS 'Tax on the line; never revenue';
COMMENT ON COLUMN landing.order_items.updated_at IS 'Version clock: the newest version wins';

CREATE TABLE IF NOT EXISTS landing.refunds (
  refund_id TEXT NOT NULL,
  order_id TEXT,
  line_number INTEGER,
  customer_id TEXT,
  product_id TEXT,
  quantity NUMERIC(18, 4),
  amount NUMERIC(18, 4),
  reason TEXT,
  refunded_at TIMESTAMPTZ,
  updated_at TIMESTAMPTZ NOT NULL,
  _deleted BOOLEAN NOT NULL DEFAULT FALSE,
  _batch_id BIGINT NOT NULL,
  _loaded_at TIMESTAMPTZ NOT NULL DEFAULT clock_timestamp(),
  _source_file TEXT,
  _row_number BIGINT,
  CONSTRAINT refunds_contract CHECK (
    isfinite(updated_at)
    AND quantity <> 'NaN'
    AND (
      _deleted
      OR (
        amount IS NOT NULL AND amount >= 0 AND amount <> 'NaN'
        AND refunded_at IS NOT NULL AND isfinite(refunded_at)
      )
    )
  )
);
CREATE INDEX IF NOT EXISTS refunds_refund_id ON landing.refunds (refund_id);
CREATE INDEX IF NOT EXISTS refunds_order_id ON landing.refunds (order_id);
CREATE INDEX IF NOT EXISTS refunds_loaded_at
ON landing.refunds USING brin (_loaded_at) WITH (pages_per_range = 32, autosummarize = ON);
COMMENT ON TABLE landing.refunds IS 'One row per delivered version of a refund';
COMMENT ON COLUMN landing.refunds.refund_id IS 'Key, carried unchanged';
COMMENT ON COLUMN landing.refunds.order_id IS 'Order it gives back; may be empty';
COMMENT ON COLUMN landing.refunds.line_number IS 'Line of that order; may be empty';
COMMENT ON COLUMN landing.refunds.customer_id IS 'Who got it; may be empty';
COMMENT ON COLUMN landing.refunds.product_id IS 'What came back; may be empty';
COMMENT ON COLUMN landing.refunds.quantity IS 'Units that came back; may be empty';
COMMENT ON COLUMN landing.refunds.amount IS 'Money given back, at least 0';
COMMENT ON COLUMN landing.refunds.reason IS 'Why, as the source has it';
COMMENT ON COLUMN landing.refunds.refunded_at IS 'Event time: when it was paid back';
COMMENT ON COLUMN landing.refunds.updated_at IS 'Version clock: the newest version wins';

CREATE TABLE IF NOT EXISTS landing.tickets (
  ticket_id TEXT NOT NULL,
  customer_id TEXT,
  order_id TEXT,
  channel TEXT,
  priority TEXT,
  category TEXT,
  status TEXT,
  created_at TIMESTAMPTZ,
  updated_at TIMESTAMPTZ NOT NULL,
  _deleted BOOLEAN NOT NULL DEFAULT FALSE,
  _batch_id BIGINT NOT NULL,
  _loaded_at TIMESTAMPTZ NOT NULL DEFAULT clock_timestamp(),
  _source_file TEXT,
  _row_number BIGINT,
  CONSTRAINT tickets_contract CHECK (
    isfinite(updated_at)
    AND (
      _deleted
      OR (
        status IS NOT NULL AND status IN ('open', 'pending', 'solved', 'closed')
        AND created_at IS NOT NULL AND isfinite(created_at)
      )
    )
  )
);
CREATE INDEX IF NOT EXISTS tickets_ticket_id ON landing.tickets (ticket_id);
CREATE INDEX IF NOT EXISTS tickets_loaded_at
ON landing.tickets USING brin (_loaded_at) WITH (pages_per_range = 32, autosummarize = ON);
COMMENT ON TABLE landing.tickets IS 'One row per delivered version of a support ticket';
COMMENT ON COLUMN landing.tickets.ticket_id IS 'Key, carried unchanged';
COMMENT ON COLUMN landing.tickets.customer_id IS 'Who asked; may be empty';
COMMENT ON COLUMN landing.tickets.order_id IS 'Order it is about; may be empty';
COMMENT ON COLUMN landing.tickets.channel IS 'How it came in, as the source has it';
COMMENT ON COLUMN landing.tickets.priority IS 'Priority, as the source has it';
COMMENT ON COLUMN landing.tickets.category IS 'Subject area, as the source has it';
COMMENT ON COLUMN landing.tickets.status IS 'open, pending, solved or closed';
COMMENT ON COLUMN landing.tickets.created_at IS 'Event time: when it was opened';
COMMENT ON COLUMN landing.tickets.updated_at IS 'Version clock: the newest version wins';

CREATE TABLE IF NOT EXISTS landing.ticket_events (
  event_id TEXT NOT NULL,
  ticket_id TEXT,
  event_type TEXT,
  actor_type TEXT,
  actor_id TEXT,
  occurred_at TIMESTAMPTZ NOT NULL,
  _deleted BOOLEAN NOT NULL DEFAULT FALSE,
  _batch_id BIGINT NOT NULL,
  _loaded_at TIMESTAMPTZ NOT NULL DEFAULT clock_timestamp(),
  _source_file TEXT,
  _row_number BIGINT,
  CONSTRAINT ticket_events_contract CHECK (
    isfinite(occurred_at)
    AND (
      _deleted
      OR (
        ticket_id IS NOT NULL
        AND event_type IS NOT NULL
        AND event_type IN (
          'created', 'assigned', 'agent_reply', 'customer_reply', 'open', 'pending', 'solved', 'reopened', 'closed'
        )
      )
    )
  )
);
CREATE INDEX IF NOT EXISTS ticket_events_event_id ON landing.ticket_events (event_id);
CREATE INDEX IF NOT EXISTS ticket_events_ticket_id ON landing.ticket_events (ticket_id);
CREATE INDEX IF NOT EXISTS ticket_events_loaded_at
ON landing.ticket_events USING brin (_loaded_at) WITH (pages_per_range = 32, autosummarize = ON);
COMMENT ON TABLE landing.ticket_events IS 'One row per delivered version of something that happened to a ticket';
COMMENT ON COLUMN landing.ticket_events.event_id IS 'Key, carried unchanged';
COMMENT ON COLUMN landing.ticket_events.ticket_id IS 'The ticket';
COMMENT ON COLUMN landing.ticket_events.event_type IS
  'created, assigned, agent_reply, customer_reply, open, pending, solved, reopened or closed';
COMMENT ON COLUMN landing.ticket_events.actor_type IS 'Kind of actor, as the source has it';
COMMENT ON COLUMN landing.ticket_events.actor_id IS 'Who did it';
COMMENT ON COLUMN landing.ticket_events.occurred_at IS 'Event time, and version clock: events have no updated_at';

-- What all seven have in common ------------------------------------------------------------------------------------

-- The runner takes this lock alone for a moment before it reads: no row stamped before a run commits after it.
-- SECURITY DEFINER: not every login may take advisory locks.
CREATE OR REPLACE FUNCTION landing.hold_publish_lock() RETURNS TRIGGER
LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
BEGIN
  PERFORM pg_advisory_xact_lock_shared(7274, 2);
  RETURN NULL;
END $$;
COMMENT ON FUNCTION landing.hold_publish_lock() IS 'Whoever writes landing holds the publish lock until the commit';

-- The loader owns nothing, so it cannot ANALYZE; stale statistics after a first load cost minutes in the models.
-- The BRIN indexes skip nothing in pages that are not summarized yet, which autovacuum does too, but later.
CREATE OR REPLACE FUNCTION landing.analyze() RETURNS VOID
LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
BEGIN
  ANALYZE landing.customers, landing.products, landing.orders, landing.order_items, landing.refunds,
    landing.tickets, landing.ticket_events;
  PERFORM brin_summarize_new_values(index.oid)
  FROM pg_class AS index JOIN pg_am ON pg_am.oid = index.relam
  WHERE index.relnamespace = 'landing'::REGNAMESPACE AND pg_am.amname = 'brin';
END $$;
COMMENT ON FUNCTION landing.analyze() IS 'Statistics of the seven tables, for the loader after a big load';

DO $$
DECLARE
  name TEXT;
BEGIN
  FOREACH name IN ARRAY ARRAY[
    'customers', 'products', 'orders', 'order_items', 'refunds', 'tickets', 'ticket_events'
  ] LOOP
    EXECUTE format(
      'CREATE OR REPLACE TRIGGER hold_publish_lock BEFORE INSERT ON landing.%I '
      'FOR EACH STATEMENT EXECUTE FUNCTION landing.hold_publish_lock()', name
    );
    EXECUTE format('COMMENT ON COLUMN landing.%I._deleted IS %L', name, 'Gone at the source as of this version');
    EXECUTE format('COMMENT ON COLUMN landing.%I._batch_id IS %L', name, 'Batch it came in: landing.batches');
    EXECUTE format(
      'COMMENT ON COLUMN landing.%I._loaded_at IS %L', name, 'When the batch was published; drives the increments'
    );
    EXECUTE format('COMMENT ON COLUMN landing.%I._source_file IS %L', name, 'Batch folder and file name');
    EXECUTE format(
      'COMMENT ON COLUMN landing.%I._row_number IS %L', name,
      'Line of the file on which the record begins; in parquet its row; from 1'
    );
  END LOOP;
END $$;

-- Who may what -----------------------------------------------------------------------------------------------------

REVOKE ALL ON FUNCTION landing.analyze(), landing.hold_publish_lock() FROM PUBLIC;
GRANT USAGE ON SCHEMA landing TO loader, sqlmesh_user;
GRANT SELECT, INSERT ON ALL TABLES IN SCHEMA landing TO loader;
GRANT EXECUTE ON FUNCTION landing.analyze() TO loader;
GRANT SELECT ON ALL TABLES IN SCHEMA landing TO sqlmesh_user;
