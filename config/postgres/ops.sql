-- Schema ops: what keeps runs and loads from each other, what is remembered of them, and the hashes of personal data. Run by
-- the owner of database warehouse, again at any time.
--
-- Advisory locks of this project, in database warehouse, all held by sessions:
--   (7274, 1) run      one plan or run at a time; taken by ops.acquire_run_lock in before_all
--   (7274, 2) publish  held by a load from before it stamps _loaded_at until after its commit
--   (7274, 3) load     one load at a time
--   (7275, n) life     held by the recorder of run n of ops.runs while its process lives
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

-- The flight recorder (scripts/recorder.py) ------------------------------------------------------------------------

CREATE TABLE IF NOT EXISTS ops.runs (
  run_id BIGINT GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
  kind TEXT NOT NULL,
  environment TEXT,
  git_commit TEXT,
  versions JSONB NOT NULL DEFAULT '{}',
  host TEXT NOT NULL,
  pid INTEGER NOT NULL,
  started_at TIMESTAMPTZ NOT NULL DEFAULT clock_timestamp(),
  heartbeat_at TIMESTAMPTZ NOT NULL DEFAULT clock_timestamp(),
  ended_at TIMESTAMPTZ,
  status TEXT NOT NULL DEFAULT 'running' CHECK (status IN ('running', 'done', 'failed', 'crashed')),
  exit_code INTEGER,
  error TEXT,
  CONSTRAINT ends_when_over CHECK ((status = 'running') = (ended_at IS NULL))
);
CREATE INDEX IF NOT EXISTS runs_kind ON ops.runs (kind, started_at);
CREATE INDEX IF NOT EXISTS runs_running ON ops.runs (run_id) WHERE status = 'running';
COMMENT ON TABLE ops.runs IS 'One row per load, run, plan and audit, whoever began it and however it ended';
COMMENT ON COLUMN ops.runs.kind IS 'load, run, plan or audit';
COMMENT ON COLUMN ops.runs.environment IS 'SQLMesh''s environment; empty where there is none';
COMMENT ON COLUMN ops.runs.git_commit IS 'Commit of the checkout it ran in; empty without git';
COMMENT ON COLUMN ops.runs.versions IS 'Versions of what it ran with';
COMMENT ON COLUMN ops.runs.host IS 'Machine it ran on';
COMMENT ON COLUMN ops.runs.pid IS 'Process on that machine';
COMMENT ON COLUMN ops.runs.started_at IS 'When it began';
COMMENT ON COLUMN ops.runs.heartbeat_at IS 'Its last sign of life, every 30 s';
COMMENT ON COLUMN ops.runs.ended_at IS 'When it ended; of a crashed run its last sign of life; empty while it runs';
COMMENT ON COLUMN ops.runs.status IS 'running, done, failed, or crashed: it ended without a word, found by a later start';
COMMENT ON COLUMN ops.runs.exit_code IS 'Exit code of its command; empty while it runs and after a crash';
COMMENT ON COLUMN ops.runs.error IS 'What went wrong, for people';

CREATE TABLE IF NOT EXISTS ops.model_runs (
  run_id BIGINT NOT NULL REFERENCES ops.runs,
  model_name TEXT NOT NULL,
  snapshot_version TEXT NOT NULL,
  interval_start TIMESTAMPTZ NOT NULL,
  interval_end TIMESTAMPTZ NOT NULL,
  rows BIGINT,
  milliseconds BIGINT NOT NULL,
  status TEXT NOT NULL CHECK (status IN ('done', 'failed')),
  recorded_at TIMESTAMPTZ NOT NULL DEFAULT clock_timestamp()
);
CREATE INDEX IF NOT EXISTS model_runs_run_id ON ops.model_runs (run_id);
CREATE INDEX IF NOT EXISTS model_runs_model_name ON ops.model_runs (model_name, recorded_at);
COMMENT ON TABLE ops.model_runs IS 'One row per model and interval that a run evaluated';
COMMENT ON COLUMN ops.model_runs.run_id IS 'The run: ops.runs';
COMMENT ON COLUMN ops.model_runs.model_name IS 'Model, as in marts.daily_revenue';
COMMENT ON COLUMN ops.model_runs.snapshot_version IS 'Version of its physical table, the end of that one''s name';
COMMENT ON COLUMN ops.model_runs.interval_start IS 'Loads it looked at: from';
COMMENT ON COLUMN ops.model_runs.interval_end IS 'Loads it looked at: to';
COMMENT ON COLUMN ops.model_runs.rows IS 'Rows written, as SQLMesh counts them; empty where it does not';
COMMENT ON COLUMN ops.model_runs.milliseconds IS 'Time it took, its checks included';
COMMENT ON COLUMN ops.model_runs.status IS 'done, or failed: then its table is as before';
COMMENT ON COLUMN ops.model_runs.recorded_at IS 'When it was written here';

CREATE TABLE IF NOT EXISTS ops.audit_results (
  run_id BIGINT NOT NULL REFERENCES ops.runs,
  model_name TEXT NOT NULL,
  audit_name TEXT NOT NULL,
  is_blocking BOOLEAN NOT NULL,
  count BIGINT NOT NULL,
  query TEXT,
  first_rows JSONB,
  recorded_at TIMESTAMPTZ NOT NULL DEFAULT clock_timestamp()
);
CREATE INDEX IF NOT EXISTS audit_results_run_id ON ops.audit_results (run_id);
CREATE INDEX IF NOT EXISTS audit_results_failed ON ops.audit_results (model_name, recorded_at) WHERE count > 0;
COMMENT ON TABLE ops.audit_results IS 'One row per audit that a run made, passed or not';
COMMENT ON COLUMN ops.audit_results.run_id IS 'The run: ops.runs';
COMMENT ON COLUMN ops.audit_results.model_name IS 'Model it looked at';
COMMENT ON COLUMN ops.audit_results.audit_name IS 'Audit, a file of audits/';
COMMENT ON COLUMN ops.audit_results.is_blocking IS 'Whether a failure takes back what the model has written';
COMMENT ON COLUMN ops.audit_results.count IS 'Rows at fault; 0: passed';
COMMENT ON COLUMN ops.audit_results.query IS 'The query that found them; empty where it passed';
COMMENT ON COLUMN ops.audit_results.first_rows IS 'Up to 50 of them, personal columns blanked; empty where it passed';
COMMENT ON COLUMN ops.audit_results.recorded_at IS 'When it was written here';

CREATE TABLE IF NOT EXISTS ops.incidents (
  incident_id BIGINT GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
  kind TEXT NOT NULL,
  owner TEXT NOT NULL,
  what TEXT NOT NULL,
  opened_at TIMESTAMPTZ NOT NULL DEFAULT clock_timestamp(),
  alerted_at TIMESTAMPTZ,
  closed_at TIMESTAMPTZ
);
CREATE UNIQUE INDEX IF NOT EXISTS incidents_open ON ops.incidents (kind, owner) WHERE closed_at IS NULL;
COMMENT ON TABLE ops.incidents IS 'One row per trouble of the scheduled job, from its first failure to its recovery';
COMMENT ON COLUMN ops.incidents.incident_id IS 'Key';
COMMENT ON COLUMN ops.incidents.kind IS 'Step that failed: server, load, run, freshness';
COMMENT ON COLUMN ops.incidents.owner IS 'Who is to look: the owner of the models that failed, or operator';
COMMENT ON COLUMN ops.incidents.what IS 'What went wrong at first';
COMMENT ON COLUMN ops.incidents.opened_at IS 'When it was found';
COMMENT ON COLUMN ops.incidents.alerted_at IS 'When an alert was delivered; empty while none was';
COMMENT ON COLUMN ops.incidents.closed_at IS 'When the step succeeded again; empty while it does not';

GRANT SELECT, INSERT ON ops.runs, ops.model_runs, ops.audit_results, ops.incidents TO sqlmesh_user;
GRANT UPDATE (heartbeat_at, ended_at, status, exit_code, error) ON ops.runs TO sqlmesh_user;
GRANT UPDATE (alerted_at, closed_at) ON ops.incidents TO sqlmesh_user;
