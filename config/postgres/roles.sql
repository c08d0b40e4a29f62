-- Logins and what each session of theirs starts with. Run in any database, by a superuser or a role with CREATEROLE.
-- Passwords are set by scripts/bootstrap.py, as SCRAM verifiers. May be run again at any time.

DO $$
DECLARE
  login text;
BEGIN
  FOREACH login IN ARRAY ARRAY['loader', 'sqlmesh_user', 'analyst', 'sqlmesh_state_user', 'test_user'] LOOP
    IF to_regrole(login) IS NULL THEN
      EXECUTE format('CREATE ROLE %I LOGIN', login);
    END IF;
    -- Without being superuser, one must be a member of a role to make databases and schemas that it owns.
    IF NOT pg_has_role(current_user, login, 'USAGE') THEN
      EXECUTE format('GRANT %I TO %I', login, current_user);
    END IF;
    BEGIN
      EXECUTE format('ALTER ROLE %I SET timezone = %L', login, 'UTC');
    EXCEPTION WHEN invalid_parameter_value THEN  -- a server without tzdata
      EXECUTE format('ALTER ROLE %I SET timezone = %L', login, 'GMT');
    END;
  END LOOP;

  -- A runner that was killed must not keep its locks until its statement ends.
  FOREACH login IN ARRAY ARRAY['loader', 'sqlmesh_user'] LOOP
    BEGIN
      EXECUTE format('ALTER ROLE %I SET client_connection_check_interval = %L', login, '2s');
    EXCEPTION WHEN invalid_parameter_value THEN
      RAISE NOTICE 'skipped: client_connection_check_interval does not exist on this platform';
    END;
  END LOOP;
END
$$;

-- A plan that replaces a view waits this long for readers, then fails instead of blocking everyone behind it.
ALTER ROLE sqlmesh_user SET lock_timeout = '10s';

-- Defaults that keep an analyst's mistakes small. The rights, not these, keep analysts from writing.
ALTER ROLE analyst SET default_transaction_read_only = on;
ALTER ROLE analyst SET statement_timeout = '5min';
ALTER ROLE analyst SET idle_in_transaction_session_timeout = '10min';
