-- Schema ops: what keeps runs and loads from each other. Run by the owner of database warehouse, again at any time.
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
GRANT EXECUTE ON FUNCTION ops.lock_holder(integer) TO loader, sqlmesh_user;
GRANT EXECUTE ON FUNCTION ops.acquire_run_lock(timestamptz), ops.release_run_lock() TO sqlmesh_user;
