-- What each login's sessions start with, and how long and how many those of readers may be. Run in database warehouse as the
-- administrator, again at any time: settings become what is said here, whatever the login itself has set.
--
-- Settings are defaults: a session may lift its own, and a login may change its defaults (ALTER ROLE mary SET
-- statement_timeout = 0). So ops.reap_sessions() ends what is over its limit all the same, whenever it is called: at the
-- start of every refresh and deployment, and by `make reap`.

-- A limit is changed here; then `make init`.
CREATE OR REPLACE VIEW ops.session_limits AS
SELECT *
FROM (
  VALUES
    ('analysts'::name, 20, interval '5 min', interval '10 min', interval '1 hour', interval '30 s', '10GB'),
    ('agents', 5, interval '30 s', interval '30 s', interval '2 min', interval '5 s', '1GB'),
    ('monitor'::name, 5, interval '30 s', interval '30 s', interval '2 min', interval '5 s', '1GB')
) AS limits (reader, connections, statement, idle_in_transaction, transaction, lock_wait, temporary_files);
COMMENT ON VIEW ops.session_limits IS 'One row per kind of reader: the limits of each login that is it or a member of it';
COMMENT ON COLUMN ops.session_limits.reader IS 'Group of logins, or one login';
COMMENT ON COLUMN ops.session_limits.connections IS 'Sessions of one login at once';
COMMENT ON COLUMN ops.session_limits.statement IS 'A statement may run so long';
COMMENT ON COLUMN ops.session_limits.idle_in_transaction IS 'A transaction may wait so long for its client';
COMMENT ON COLUMN ops.session_limits.transaction IS 'A transaction may last so long';
COMMENT ON COLUMN ops.session_limits.lock_wait IS 'A statement may wait so long for a lock';
COMMENT ON COLUMN ops.session_limits.temporary_files IS 'A session may write so much to disk; it cannot lift this one';

-- Administrators are nobody's readers: PostgreSQL makes whoever creates a role a member of it.
CREATE OR REPLACE VIEW ops.readers AS
SELECT logins.rolname AS login, limits.reader
FROM pg_catalog.pg_roles AS logins
JOIN ops.session_limits AS limits ON pg_catalog.pg_has_role(logins.oid, limits.reader, 'MEMBER')
WHERE logins.rolcanlogin AND NOT logins.rolsuper AND NOT logins.rolcreaterole;
COMMENT ON VIEW ops.readers IS 'One row per login that reads, people''s own included, and kind of reader that it is';
COMMENT ON COLUMN ops.readers.login IS 'Login';
COMMENT ON COLUMN ops.readers.reader IS 'Its row in ops.session_limits; of several, the most generous limits count';

-- End the sessions of readers that are over their limits, and say which and why.
CREATE OR REPLACE FUNCTION ops.reap_sessions() RETURNS TABLE (pid integer, login name, reason text)
LANGUAGE sql SECURITY DEFINER SET search_path = pg_catalog, pg_temp
AS $$
  WITH limits AS (
    SELECT login, max(statement) AS statement, max(idle_in_transaction) AS idle, max(transaction) AS whole
    FROM ops.readers JOIN ops.session_limits USING (reader)
    GROUP BY login
  ),
  sessions AS (
    SELECT pid, usename, CASE
        WHEN state IN ('active', 'fastpath function call') AND clock_timestamp() - query_start > statement
          THEN format('a statement ran longer than %s', statement)
        WHEN state LIKE 'idle in transaction%' AND clock_timestamp() - state_change > idle
          THEN format('it was idle in a transaction longer than %s', idle)
        WHEN clock_timestamp() - xact_start > whole
          THEN format('its transaction lasted longer than %s', whole)
      END AS reason
    FROM pg_stat_activity JOIN limits ON login = usename
    WHERE backend_type = 'client backend'
  ),
  over AS MATERIALIZED (SELECT * FROM sessions WHERE reason IS NOT NULL)  -- else all might be ended, and then looked at
  SELECT pid, usename, reason FROM over WHERE pg_terminate_backend(pid)
$$;
REVOKE ALL ON FUNCTION ops.reap_sessions() FROM PUBLIC;
GRANT EXECUTE ON FUNCTION ops.reap_sessions() TO sqlmesh_user;

DO $$
DECLARE
  ours CONSTANT text[] := ARRAY[
    'loader', 'sqlmesh_user', 'sqlmesh_state_user', 'test_user', 'analyst', 'agent', 'monitor'];
  name text;
  own record;
  unlimited text[];
BEGIN
  FOR name IN SELECT unnest(ours) UNION SELECT login FROM ops.readers LOOP
    IF name = ANY (ours) THEN
      EXECUTE format('ALTER ROLE %I RESET ALL', name);
    END IF;
    BEGIN
      EXECUTE format('ALTER ROLE %I SET timezone = %L', name, 'UTC');
    EXCEPTION
      WHEN invalid_parameter_value THEN  -- a server without tzdata
        EXECUTE format('ALTER ROLE %I SET timezone = %L', name, 'GMT');
      WHEN insufficient_privilege THEN
        RAISE NOTICE 'skipped: % is not for % to change; its sessions start without limits', name, current_user;
        CONTINUE;
    END;
    -- A client that was killed must not keep its locks, or the processor, until its statement ends.
    BEGIN
      EXECUTE format('ALTER ROLE %I SET client_connection_check_interval = %L', name, '2s');
    EXCEPTION WHEN invalid_parameter_value THEN
      RAISE NOTICE 'skipped: client_connection_check_interval does not exist on this platform';
    END;
    -- The programs write every name in full; no object of another schema can step in for one.
    EXECUTE format('ALTER ROLE %I SET search_path = pg_catalog', name);

    -- Settings are not inherited from a group. A login of several gets the most generous limits.
    FOR own IN
      SELECT reader, connections, temporary_files, extract(epoch FROM statement)::integer AS statement,
        extract(epoch FROM idle_in_transaction)::integer AS idle, extract(epoch FROM transaction)::integer AS transaction,
        extract(epoch FROM lock_wait)::integer AS lock_wait
      FROM ops.readers JOIN ops.session_limits AS limits USING (reader)
      WHERE login = name ORDER BY limits.statement DESC LIMIT 1
    LOOP
      IF own.reader <> 'monitor' THEN
        EXECUTE format('ALTER ROLE %I SET search_path = marts, ml, meta', name);
      END IF;
      EXECUTE format('ALTER ROLE %I CONNECTION LIMIT %s', name, own.connections);
      -- The rights, not this, keep readers from writing.
      EXECUTE format('ALTER ROLE %I SET default_transaction_read_only = on', name);
      EXECUTE format('ALTER ROLE %I SET statement_timeout = ''%ss''', name, own.statement);
      EXECUTE format('ALTER ROLE %I SET idle_in_transaction_session_timeout = ''%ss''', name, own.idle);
      EXECUTE format('ALTER ROLE %I SET lock_timeout = ''%ss''', name, own.lock_wait);
      IF current_setting('transaction_timeout', true) IS NOT NULL THEN  -- from PostgreSQL 17
        EXECUTE format('ALTER ROLE %I SET transaction_timeout = ''%ss''', name, own.transaction);
      END IF;
      BEGIN
        EXECUTE format('ALTER ROLE %I SET temp_file_limit = %L', name, own.temporary_files);
      EXCEPTION WHEN insufficient_privilege THEN
        unlimited := unlimited || name;
      END;
    END LOOP;
  END LOOP;

  IF unlimited IS NOT NULL THEN
    RAISE NOTICE 'skipped: to limit temporary files needs a superuser (%)', array_to_string(unlimited, ', ');
  END IF;

  -- A plan that replaces a view waits this long for readers, then fails instead of blocking everyone behind it.
  ALTER ROLE sqlmesh_user SET lock_timeout = '10s';
  -- Its tasks are at work side by side; for statements of milliseconds, as most are, more processes cost more than they do.
  ALTER ROLE sqlmesh_user SET max_parallel_workers_per_gather = 0;
  -- It looks up hundreds of keys at a time: reading a table once pays sooner than for an analyst's single customer.
  ALTER ROLE sqlmesh_user SET random_page_cost = 2;
END
$$;
