-- Schemas and rights in database warehouse, run by its owner. May be run again at any time.
--
--                 landing          marts, ml   other schemas        temporary tables
--   loader        read, append     -           -                    yes
--   sqlmesh_user  read             owns        makes its own        yes
--   analyst       -                read        -                    no

DO $$
BEGIN
  EXECUTE format('GRANT CONNECT, TEMPORARY ON DATABASE %I TO loader', current_database());
  EXECUTE format('GRANT CONNECT, TEMPORARY, CREATE ON DATABASE %I TO sqlmesh_user', current_database());
  EXECUTE format('GRANT CONNECT ON DATABASE %I TO analyst', current_database());
END
$$;

CREATE SCHEMA IF NOT EXISTS landing;
GRANT USAGE ON SCHEMA landing TO loader, sqlmesh_user;
ALTER DEFAULT PRIVILEGES IN SCHEMA landing GRANT SELECT, INSERT ON TABLES TO loader;
ALTER DEFAULT PRIVILEGES IN SCHEMA landing GRANT SELECT ON TABLES TO sqlmesh_user;

CREATE SCHEMA IF NOT EXISTS marts AUTHORIZATION sqlmesh_user;
CREATE SCHEMA IF NOT EXISTS ml AUTHORIZATION sqlmesh_user;
GRANT USAGE ON SCHEMA marts, ml TO analyst;
-- SQLMesh drops and makes views anew at every promotion: only default privileges survive that.
ALTER DEFAULT PRIVILEGES FOR ROLE sqlmesh_user IN SCHEMA marts, ml GRANT SELECT ON TABLES TO analyst;

-- What follows needs a superuser; on a server where nobody here is one, it is skipped with a notice.

DO $$
DECLARE
  locking regprocedure;
BEGIN
  IF NOT (SELECT rolsuper FROM pg_roles WHERE rolname = current_user) THEN
    RAISE NOTICE 'skipped: taking advisory locks and large objects from analysts needs a superuser';
    RETURN;
  END IF;
  -- Everyone may take advisory locks and make large objects: an analyst could stop all runs, or fill the disk.
  FOR locking IN
    SELECT oid::regprocedure FROM pg_proc
    WHERE pronamespace = 'pg_catalog'::regnamespace AND proacl IS NULL
      AND (proname ~ '^pg_(try_)?advisory_' OR proname IN ('lo_creat', 'lo_create', 'lo_from_bytea', 'lo_put'))
  LOOP
    EXECUTE format('REVOKE EXECUTE ON FUNCTION %s FROM PUBLIC', locking);
    EXECUTE format('GRANT EXECUTE ON FUNCTION %s TO %I, loader, sqlmesh_user', locking, current_user);
  END LOOP;
END
$$;

DO $$
BEGIN
  IF NOT EXISTS (SELECT FROM pg_extension WHERE extname = 'pg_stat_statements') THEN
    CREATE EXTENSION pg_stat_statements;
  END IF;
EXCEPTION WHEN insufficient_privilege OR undefined_file OR feature_not_supported THEN
  RAISE NOTICE 'skipped: CREATE EXTENSION pg_stat_statements needs a superuser and the extension''s files';
END
$$;
