-- Schema ops: what keeps runs and loads from each other, and hashes personal data. Run by the owner of database
-- warehouse, again at any time.
--
-- Advisory locks of this project, in database warehouse, all held by sessions:
--   (7274, 1) run      one plan or run at a time; taken by ops.acquire_run_lock in before_all
--   (7274, 2) publish  held by a load from before it stamps _loaded_at until after its commit
--   (7274, 3) load     one load at a time
-- and in database postgres:
--   (7274, 0) bootstrap  one `make init` at a time

CREATE SCHEMA IF NOT EXISTS ops;
GRANT USAGE ON SCHEMA ops TO loader, sqlmesh_user;

-- Who holds a lock, for messages; NULL when nobody does. The owner's rights show sessions of other logins.
CREATE OR REPLACE FUNCTION ops.lock_holder(lock_key integer) RETURNS text
LANGUAGE sql STABLE SECURITY DEFINER SET search_path = pg_catalog, pg_temp
AS $$
  SELECT format(
    'pid %s, user %s, from %s, application %s, connected since %s',
    l.pid, a.usename, coalesce(host(a.client_addr), 'the server itself'), coalesce(nullif(a.application_name, ''), '?'),
    coalesce(to_char(a.backend_start, 'YYYY-MM-DD HH24:MI:SS OF'), '?'))
  FROM pg_locks AS l
  LEFT JOIN pg_stat_activity AS a USING (pid)
  WHERE l.locktype = 'advisory' AND l.classid = 7274 AND l.objid = lock_key AND l.objsubid = 2 AND l.granted
    AND l.database = (SELECT oid FROM pg_database WHERE datname = current_database())
  LIMIT 1
$$;

-- Personal data ----------------------------------------------------------------------------------------------------

-- HMAC-SHA256 of a text, in hex. The key is the session's, as two pads (scripts/settings.py): none of it is in the
-- database, and other sessions cannot see it.
CREATE OR REPLACE FUNCTION ops.keyed_hash(message text) RETURNS text
LANGUAGE plpgsql STABLE STRICT PARALLEL SAFE SET search_path = pg_catalog, pg_temp
AS $$
BEGIN
  IF coalesce(current_setting('warehouse.pii_outer', true), '') = '' THEN
    RAISE EXCEPTION USING ERRCODE = 'invalid_authorization_specification',
      MESSAGE = 'this session has no key for personal data',
      HINT = 'commands of the project take it from PII_KEY or <WAREHOUSE_HOME>/pii.key; `make init` makes the first';
  END IF;
  RETURN encode(
    sha256(
      decode(current_setting('warehouse.pii_outer'), 'hex')
      || sha256(decode(current_setting('warehouse.pii_inner'), 'hex') || convert_to(message, 'UTF8'))
    ),
    'hex');
END
$$;
COMMENT ON FUNCTION ops.keyed_hash(text) IS 'HMAC-SHA256 in hex, with the key that the session was opened with';

-- The key of a customer in ops.forgotten; another than that of an address which reads the same.
CREATE OR REPLACE FUNCTION ops.customer_hash(customer_id text) RETURNS text
LANGUAGE sql STABLE STRICT PARALLEL SAFE SET search_path = pg_catalog, pg_temp
AS $$ SELECT ops.keyed_hash('customer_id ' || customer_id) $$;
COMMENT ON FUNCTION ops.customer_hash(text) IS 'Keyed hash of a customer_id: customer_hash in ops.forgotten';

CREATE TABLE IF NOT EXISTS ops.pii_key (
  fingerprint TEXT PRIMARY KEY,
  recorded_at TIMESTAMPTZ NOT NULL DEFAULT clock_timestamp()
);
CREATE UNIQUE INDEX IF NOT EXISTS pii_key_is_one ON ops.pii_key ((TRUE));
COMMENT ON TABLE ops.pii_key IS 'One row: which key the hashes of personal data were made with, not the key';
COMMENT ON COLUMN ops.pii_key.fingerprint IS 'Keyed hash of a constant';
COMMENT ON COLUMN ops.pii_key.recorded_at IS 'Since when';

-- Refuse a session with another key than the one of the hashes that are there: touched rows would get new hashes, the
-- others keep theirs, and joins would lose them without a word. The first key is recorded.
CREATE OR REPLACE FUNCTION ops.check_pii_key() RETURNS void
LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
  own text := ops.keyed_hash('fingerprint');
BEGIN
  INSERT INTO ops.pii_key (fingerprint) SELECT own WHERE NOT EXISTS (SELECT FROM ops.pii_key) ON CONFLICT DO NOTHING;
  IF NOT EXISTS (SELECT FROM ops.pii_key WHERE fingerprint = own) THEN
    RAISE EXCEPTION USING ERRCODE = 'invalid_authorization_specification',
      MESSAGE = 'the key for personal data is not the one that this warehouse''s hashes were made with',
      HINT = 'put that one back into PII_KEY or <WAREHOUSE_HOME>/pii.key; for another on purpose see docs/decisions/0027-personal-data.md';
  END IF;
END
$$;

CREATE TABLE IF NOT EXISTS ops.forgotten (
  customer_hash TEXT PRIMARY KEY,
  pseudonym TEXT NOT NULL UNIQUE,
  forgotten_at TIMESTAMPTZ NOT NULL DEFAULT clock_timestamp(),
  forgotten_by TEXT NOT NULL
);
COMMENT ON TABLE ops.forgotten IS 'One row per customer that was forgotten (make forget); loads replace the customer_id by the pseudonym';
COMMENT ON COLUMN ops.forgotten.customer_hash IS 'ops.customer_hash of the customer_id: it is nowhere in the clear';
COMMENT ON COLUMN ops.forgotten.pseudonym IS 'What stands for the customer_id since, in every table';
COMMENT ON COLUMN ops.forgotten.forgotten_at IS 'When';
COMMENT ON COLUMN ops.forgotten.forgotten_by IS 'Account on the machine that did it';

-- Locks of runs ---------------------------------------------------------------------------------------------------

-- Take the run lock, or fail with SQLSTATE 55P03 (lock_not_available) and the holder's name; then wait until the
-- server's clock has passed run_end and no load is between its stamp and its commit: whatever was stamped up to run_end
-- is visible afterwards. May be called again in a session that has the lock. Locks are the session's, not the
-- transaction's, because the caller may sit in a long transaction. On any failure the lock taken here is given back.
CREATE OR REPLACE FUNCTION ops.acquire_run_lock(run_end timestamptz) RETURNS void
LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp SET lock_timeout = '10min'
AS $$
DECLARE
  ahead numeric := extract(epoch FROM run_end - clock_timestamp());
BEGIN
  IF NOT pg_try_advisory_lock(7274, 1) THEN
    RAISE EXCEPTION USING ERRCODE = 'lock_not_available',
      MESSAGE = format('another sqlmesh plan or run is at work: %s; wait for it or stop it',
                       coalesce(ops.lock_holder(1), 'it has just ended'));
  END IF;

  BEGIN
    IF ahead > 60 THEN
      RAISE EXCEPTION USING ERRCODE = 'datetime_field_overflow',
        MESSAGE = format('this machine''s clock is %s s ahead of the server''s', round(ahead)),
        HINT = 'set both clocks right (NTP), then run again';
    END IF;
    WHILE clock_timestamp() <= run_end LOOP
      PERFORM pg_sleep(extract(epoch FROM run_end - clock_timestamp()) + 0.001);
    END LOOP;
    BEGIN
      PERFORM pg_advisory_lock(7274, 2);
    EXCEPTION WHEN lock_not_available THEN
      RAISE EXCEPTION USING ERRCODE = 'lock_not_available',
        MESSAGE = format('a load has been publishing for 10 minutes: %s; wait for it or stop it', ops.lock_holder(2));
    END;
    PERFORM pg_advisory_unlock(7274, 2);
  EXCEPTION WHEN OTHERS OR query_canceled THEN
    PERFORM pg_advisory_unlock(7274, 1);
    RAISE;
  END;
END
$$;

-- Give the run lock back, however often this session took it; without effect when it has not.
CREATE OR REPLACE FUNCTION ops.release_run_lock() RETURNS void
LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp
AS $$
BEGIN
  WHILE EXISTS (
    SELECT FROM pg_locks
    WHERE locktype = 'advisory' AND classid = 7274 AND objid = 1 AND objsubid = 2 AND granted
      AND pid = pg_backend_pid()
  ) LOOP
    PERFORM pg_advisory_unlock(7274, 1);
  END LOOP;
END
$$;

REVOKE ALL ON FUNCTION ops.lock_holder(integer), ops.acquire_run_lock(timestamptz), ops.release_run_lock() FROM PUBLIC;
REVOKE ALL ON FUNCTION ops.keyed_hash(text), ops.customer_hash(text), ops.check_pii_key() FROM PUBLIC;
GRANT EXECUTE ON FUNCTION ops.lock_holder(integer) TO loader, sqlmesh_user;
GRANT EXECUTE ON FUNCTION ops.acquire_run_lock(timestamptz), ops.release_run_lock() TO sqlmesh_user;
GRANT EXECUTE ON FUNCTION ops.keyed_hash(text), ops.check_pii_key() TO loader, sqlmesh_user;
GRANT EXECUTE ON FUNCTION ops.customer_hash(text) TO loader;
GRANT SELECT ON ops.forgotten TO loader;
GRANT SELECT ON ops.pii_key TO loader, sqlmesh_user;
