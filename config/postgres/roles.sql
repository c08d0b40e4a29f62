-- Roles. Run in any database, by a superuser or a role with CREATEROLE, again at any time: attributes become what is said
-- here, also of a role that is there already. sessions.sql says what their sessions start with.
-- Passwords are set by scripts/bootstrap.py, as SCRAM verifiers. docs/decisions/0022-roles.md says why they are so.
--
--   warehouse_owner     no login: owns the database, landing, ops and meta; its functions do for others what these may not
--   loader              appends to landing
--   sqlmesh_user        reads landing; owns everything that SQLMesh makes
--   sqlmesh_state_user  database sqlmesh_state
--   test_user           database sqlmesh_test
--   analysts            group: read marts, ml and meta. Its logins are analyst, for a start, and people's own
--   analyst_pii         group: also read marts_pii
--   agents              group of AI agents and tools: what analysts read, within tight limits. Its login is agent
--   monitor             statistics of the server, and schema ops
--   view_keeper         no login: makes people's views again when a mart is replaced; a member of these people, no more

DO $$
DECLARE
  logins CONSTANT text[] := ARRAY[
    'loader', 'sqlmesh_user', 'sqlmesh_state_user', 'test_user', 'analyst', 'agent', 'monitor'];
  groups CONSTANT text[] := ARRAY['warehouse_owner', 'analysts', 'analyst_pii', 'agents', 'view_keeper'];
  -- Whose objects the administrator makes: without being superuser, one must be a member for that.
  makers CONSTANT text[] := ARRAY[
    'warehouse_owner', 'sqlmesh_user', 'sqlmesh_state_user', 'test_user', 'view_keeper'];
  name text;
BEGIN
  FOREACH name IN ARRAY logins || groups LOOP
    IF to_regrole(name) IS NULL THEN
      EXECUTE format('CREATE ROLE %I', name);
    ELSIF (SELECT rolsuper OR rolreplication OR rolbypassrls FROM pg_roles WHERE rolname = name) THEN
      RAISE EXCEPTION 'role % exists already and is more powerful than this project''s role of that name', name;
    END IF;
    EXECUTE format('ALTER ROLE %I %s INHERIT NOCREATEROLE NOCREATEDB', name,
                   CASE WHEN name = ANY (logins) THEN 'LOGIN' ELSE 'NOLOGIN' END);
    IF name = ANY (groups) THEN  -- a member may have set something
      EXECUTE format('ALTER ROLE %I RESET ALL', name);
    END IF;
    IF name = ANY (makers) AND NOT pg_has_role(current_user, name, 'USAGE') THEN
      EXECUTE format('GRANT %I TO %I', name, current_user);
    END IF;
  END LOOP;
END
$$;

GRANT analysts TO analyst, analyst_pii;
GRANT agents TO agent;

-- So many sessions of one login at once; those of readers are in sessions.sql.
ALTER ROLE loader CONNECTION LIMIT 10;
ALTER ROLE sqlmesh_user CONNECTION LIMIT 20;
ALTER ROLE sqlmesh_state_user CONNECTION LIMIT 20;
ALTER ROLE test_user CONNECTION LIMIT 20;

DO $$
BEGIN
  GRANT pg_monitor TO monitor;
EXCEPTION WHEN insufficient_privilege THEN
  RAISE NOTICE 'skipped: monitor sees schema ops only; to grant it pg_monitor needs a superuser';
END
$$;

-- The functions of ops name other people's sessions, and ops.reap_sessions ends them.
DO $$
BEGIN
  GRANT pg_read_all_stats, pg_signal_backend TO warehouse_owner;
EXCEPTION WHEN insufficient_privilege THEN
  RAISE NOTICE 'skipped: ops.reap_sessions ends sessions of analyst and agent, not of people''s own logins; '
    'to grant warehouse_owner pg_signal_backend and pg_read_all_stats needs a superuser';
  GRANT loader, sqlmesh_user, analyst, agent TO warehouse_owner;
END
$$;
