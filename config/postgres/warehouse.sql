-- Schemas and rights in database warehouse, run first, as the administrator. May be run again at any time.
--
--                 landing        marts, ml   marts_pii   meta   ops         other schemas   temporary tables
--   loader        read, append   -           -           -      locks       -               yes
--   sqlmesh_user  read           owns        owns        write  locks       makes its own   yes
--   analysts      -              read        -           read   -           -               no
--   analyst_pii   -              read        read        read   -           -               no
--   agents        -              read        -           read   -           -               no
--   monitor       -              -           -           -      read        -               no
--
-- Environments of engineers are other schemas (marts__dev_x): docs/decisions/0023-environments-are-for-engineers.md.

GRANT CONNECT, TEMPORARY ON DATABASE warehouse TO loader;
GRANT CONNECT, TEMPORARY, CREATE ON DATABASE warehouse TO sqlmesh_user;
GRANT CONNECT ON DATABASE warehouse TO analysts, agents, monitor;
REVOKE ALL ON SCHEMA public FROM PUBLIC;

CREATE SCHEMA IF NOT EXISTS landing AUTHORIZATION warehouse_owner;
GRANT USAGE ON SCHEMA landing TO loader, sqlmesh_user;

CREATE SCHEMA IF NOT EXISTS ops AUTHORIZATION warehouse_owner;
COMMENT ON SCHEMA ops IS 'The operation of the warehouse: locks, limits';
GRANT USAGE ON SCHEMA ops TO loader, sqlmesh_user, monitor;

CREATE SCHEMA IF NOT EXISTS meta AUTHORIZATION warehouse_owner;
GRANT USAGE ON SCHEMA meta TO analysts, agents;

CREATE SCHEMA IF NOT EXISTS marts AUTHORIZATION sqlmesh_user;
CREATE SCHEMA IF NOT EXISTS ml AUTHORIZATION sqlmesh_user;
CREATE SCHEMA IF NOT EXISTS marts_pii AUTHORIZATION sqlmesh_user;
GRANT USAGE ON SCHEMA marts, ml TO analysts, agents;
GRANT USAGE ON SCHEMA marts_pii TO analyst_pii;
-- SQLMesh drops and makes views anew at every promotion: only default privileges survive that.
ALTER DEFAULT PRIVILEGES FOR ROLE sqlmesh_user IN SCHEMA marts, ml GRANT SELECT ON TABLES TO analysts, agents;
ALTER DEFAULT PRIVILEGES FOR ROLE sqlmesh_user IN SCHEMA marts_pii GRANT SELECT ON TABLES TO analyst_pii;
ALTER DEFAULT PRIVILEGES FOR ROLE sqlmesh_user REVOKE EXECUTE ON FUNCTIONS FROM PUBLIC;
