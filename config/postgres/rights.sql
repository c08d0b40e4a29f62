-- What holds for everything in database warehouse, whoever made it: run last, as the administrator. Again at any time.

-- The owner of landing, ops and meta is a role without login and without power, so that a function that runs with its owner's
-- rights (SECURITY DEFINER) can do no more than is granted to it. Also moves what an older version's administrator made.
DO $$
DECLARE
  thing text;
BEGIN
  FOR thing IN
    SELECT format('SCHEMA %I', nspname) FROM pg_namespace
    WHERE nspname IN ('landing', 'ops', 'meta') AND nspowner <> 'warehouse_owner'::regrole
    UNION ALL
    SELECT format('%s %s', CASE relkind WHEN 'v' THEN 'VIEW' ELSE 'TABLE' END, oid::regclass) FROM pg_class
    WHERE relnamespace::regnamespace::text IN ('landing', 'ops', 'meta') AND relkind IN ('r', 'p', 'v')
      AND relowner <> 'warehouse_owner'::regrole
    UNION ALL
    SELECT format('ROUTINE %s', oid::regprocedure) FROM pg_proc
    WHERE pronamespace::regnamespace::text IN ('landing', 'ops', 'meta')
      AND proowner <> 'warehouse_owner'::regrole
  LOOP
    EXECUTE format('ALTER %s OWNER TO warehouse_owner', thing);
  END LOOP;
END
$$;

REVOKE ALL ON ALL ROUTINES IN SCHEMA landing, ops, meta FROM PUBLIC;
-- What is there already, and default privileges came too late for.
GRANT SELECT ON ALL TABLES IN SCHEMA marts, ml, meta TO analysts, agents;
GRANT SELECT ON ALL TABLES IN SCHEMA marts_pii TO analyst_pii;
GRANT SELECT ON ALL TABLES IN SCHEMA ops TO monitor;
-- What an older version granted otherwise.
ALTER DEFAULT PRIVILEGES IN SCHEMA landing REVOKE SELECT, INSERT ON TABLES FROM loader, sqlmesh_user;
ALTER DEFAULT PRIVILEGES FOR ROLE sqlmesh_user IN SCHEMA marts, ml REVOKE SELECT ON TABLES FROM analyst;
ALTER DEFAULT PRIVILEGES IN SCHEMA meta REVOKE SELECT, INSERT, DELETE ON TABLES FROM analyst, sqlmesh_user;
REVOKE SELECT ON ALL TABLES IN SCHEMA marts, ml, meta FROM analyst;
REVOKE USAGE ON SCHEMA marts, ml, meta FROM analyst;
REVOKE CONNECT ON DATABASE warehouse FROM analyst;

-- What follows needs a superuser; on a server where nobody here is one, it is skipped with a notice.

-- Everyone may take advisory locks, make large objects, write into the log of changes and run blocks of code: a reader
-- could stop all runs, or fill the disk.
DO $$
DECLARE
  routine record;
  holder text;
BEGIN
  IF NOT (SELECT rolsuper FROM pg_roles WHERE rolname = current_user) THEN
    RAISE NOTICE 'skipped: taking advisory locks, large objects and code blocks from readers needs a superuser';
    RETURN;
  END IF;
  FOR routine IN
    SELECT oid, oid::regprocedure AS name, proname ~ '^pg_(try_)?advisory_' AS is_lock FROM pg_proc
    WHERE pronamespace = 'pg_catalog'::regnamespace AND (
      proname ~ '^pg_(try_)?advisory_'
      OR proname IN ('lo_creat', 'lo_create', 'lo_from_bytea', 'lo_put', 'pg_logical_emit_message', 'pg_export_snapshot')
    )
  LOOP
    IF has_function_privilege('public', routine.oid, 'EXECUTE') THEN
      EXECUTE format('REVOKE EXECUTE ON FUNCTION %s FROM PUBLIC', routine.name);
    END IF;
    FOREACH holder IN ARRAY ARRAY['warehouse_owner', 'loader', 'sqlmesh_user'] LOOP
      IF routine.is_lock AND NOT has_function_privilege(holder, routine.oid, 'EXECUTE') THEN
        EXECUTE format('GRANT EXECUTE ON FUNCTION %s TO %I', routine.name, holder);
      ELSIF NOT routine.is_lock AND has_function_privilege(holder, routine.oid, 'EXECUTE') THEN
        EXECUTE format('REVOKE EXECUTE ON FUNCTION %s FROM %I', routine.name, holder);  -- an older version's
      END IF;
    END LOOP;
  END LOOP;
  REVOKE USAGE ON LANGUAGE plpgsql FROM PUBLIC;
  GRANT USAGE ON LANGUAGE plpgsql TO warehouse_owner;  -- and so to an administrator who is no superuser
END
$$;

DO $$
BEGIN
  IF NOT EXISTS (SELECT FROM pg_extension WHERE extname = 'pg_stat_statements') THEN
    CREATE EXTENSION pg_stat_statements SCHEMA public;
  END IF;
  GRANT USAGE ON SCHEMA public TO monitor;
EXCEPTION WHEN insufficient_privilege OR undefined_file OR feature_not_supported THEN
  RAISE NOTICE 'skipped: CREATE EXTENSION pg_stat_statements needs a superuser and the extension''s files';
END
$$;
