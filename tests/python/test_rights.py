"""Who may what: a list of every right, compared with one that was reviewed, and attempts by each login at everything else."""

import difflib
import os
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import closing, contextmanager, suppress
from pathlib import Path

import psycopg2
import pytest
from psycopg2 import errors
from psycopg2.extensions import connection

from scripts import bootstrap, pipeline, sessions
from scripts.errors import Exit, WarehouseError
from scripts.settings import LOGINS, ROOT, connect
from tests.python.conftest import Home
from tests.python.test_end_to_end import Warehouse

pytestmark = pytest.mark.slow

REVIEWED = ROOT / "tests" / "python" / "rights.txt"

# People's own logins, and the group that each is a member of.
PEOPLE = {"mary": "analysts", "paula": "analyst_pii", "robot": "agents"}
SECRET = "of-people-and-robots"


def run(session: connection, statement: str) -> list[tuple[object, ...]]:
    with session.cursor() as cursor:
        cursor.execute(statement)
        return cursor.fetchall() if cursor.description else []


@pytest.fixture(scope="module")
def warehouse(homes: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Warehouse]:
    """An empty prod, as after `make init`."""
    with Warehouse(homes / "rights", tmp_path_factory.mktemp("drops"), zone="UTC").built() as made:
        yield made


@pytest.fixture(scope="module")
def admin(warehouse: Warehouse) -> Iterator[connection]:
    with closing(warehouse.home.connect("postgres", "warehouse")) as session:
        yield session


# ---- the list ---------------------------------------------------------------------------------------------------

# An ACL as "grantee PRIVILEGE, PRIVILEGE; grantee ...", without what an owner has of its own.
ACL = """
    COALESCE((
      SELECT STRING_AGG(grantee || ' ' || rights, '; ' ORDER BY grantee)
      FROM (
        SELECT CASE a.grantee WHEN 0 THEN 'PUBLIC' ELSE a.grantee::REGROLE::TEXT END AS grantee,
          STRING_AGG(a.privilege_type || CASE WHEN a.is_grantable THEN '*' ELSE '' END, ', ' ORDER BY a.privilege_type) AS rights
        FROM ACLEXPLODE(COALESCE({acl}, ACLDEFAULT('{kind}', {owner}))) AS a
        WHERE a.grantee <> {owner}
        GROUP BY a.grantee
      ) AS grants
    ), 'nobody else')
"""


def acl(column: str, owner: str, kind: str) -> str:
    return ACL.format(acl=column, owner=owner, kind=kind)


OF_SERVER = f"""
    SELECT 'role ' || rolname || ':' || CONCAT_WS(',', CASE WHEN rolcanlogin THEN ' login' ELSE ' no login' END,
      CASE WHEN rolsuper THEN ' superuser' END, CASE WHEN rolcreaterole THEN ' createrole' END,
      CASE WHEN rolcreatedb THEN ' createdb' END, CASE WHEN rolreplication THEN ' replication' END,
      CASE WHEN rolbypassrls THEN ' bypassrls' END, CASE WHEN NOT rolinherit THEN ' noinherit' END,
      CASE WHEN rolconnlimit >= 0 THEN ' ' || rolconnlimit || ' connections' END)
    FROM pg_roles WHERE rolname !~ '^pg_'
    UNION ALL
    SELECT 'member ' || member::REGROLE || ' of ' || roleid::REGROLE
      || CONCAT(CASE WHEN admin_option THEN ', admin' END, CASE WHEN NOT inherit_option THEN ', noinherit' END)
    FROM pg_auth_members WHERE member::REGROLE::TEXT !~ '^pg_'
    UNION ALL
    SELECT 'setting ' || CASE setrole WHEN 0 THEN 'of all' ELSE setrole::REGROLE::TEXT END
      || COALESCE(' in ' || datname, '') || ': ' || entry
    FROM pg_db_role_setting LEFT JOIN pg_database ON pg_database.oid = setdatabase, UNNEST(setconfig) AS entry
    UNION ALL
    SELECT 'database ' || datname || ' of ' || datdba::REGROLE || ': ' || {acl("datacl", "datdba", "d")} FROM pg_database
    UNION ALL
    SELECT 'parameter ' || parname || ': ' || {acl("paracl", "10", "p")} FROM pg_parameter_acl
"""

# Physical tables have a hash in their names, and SQLMesh's state is its own affair: one line for all that are alike.
NAME = """CASE WHEN nspname ~ '^(analytics_|sqlmesh$)' THEN nspname || '.*' ELSE nspname || '.' || {0} END"""
THEIRS = "nspname NOT IN ('pg_catalog', 'information_schema', 'pg_toast')"
EXTENSIONS = "NOT EXISTS (SELECT FROM pg_depend AS d WHERE d.objid = {0}.oid AND d.classid = '{0}'::REGCLASS AND d.deptype = 'e')"
IN_DATABASE = f"""
    SELECT 'schema ' || nspname || ' of ' || nspowner::REGROLE || ': ' || {acl("nspacl", "nspowner", "n")}
    FROM pg_namespace WHERE nspname NOT LIKE 'pg_%'
    UNION
    SELECT CASE relkind WHEN 'v' THEN 'view ' WHEN 'S' THEN 'sequence ' ELSE 'table ' END || {NAME.format("relname")}
      || ' of ' || relowner::REGROLE || ': '
      || CASE relkind WHEN 'S' THEN {acl("relacl", "relowner", "s")} ELSE {acl("relacl", "relowner", "r")} END
    FROM pg_class JOIN pg_namespace AS n ON n.oid = relnamespace
    WHERE {THEIRS} AND relkind IN ('r', 'p', 'v', 'm', 'f', 'S') AND {EXTENSIONS.format("pg_class")}
    UNION
    SELECT 'column ' || {NAME.format("relname")} || '.' || attname || ': ' || {acl("attacl", "relowner", "c")}
    FROM pg_attribute JOIN pg_class AS c ON c.oid = attrelid JOIN pg_namespace AS n ON n.oid = relnamespace
    WHERE attacl IS NOT NULL AND {THEIRS}
    UNION
    SELECT 'function ' || p.oid::REGPROCEDURE || ' of ' || proowner::REGROLE
      || CASE WHEN prosecdef THEN ', with its rights' ELSE '' END || COALESCE(', ' || ARRAY_TO_STRING(proconfig, ', '), '')
      || ': ' || {acl("proacl", "proowner", "f")}
    FROM pg_proc AS p JOIN pg_namespace AS n ON n.oid = pronamespace WHERE {THEIRS} AND {EXTENSIONS.format("pg_proc").replace("pg_proc.oid", "p.oid")}
    UNION
    SELECT 'catalog function ' || p.oid::REGPROCEDURE || ': ' || {acl("proacl", "proowner", "f")}
    FROM pg_proc AS p LEFT JOIN pg_init_privs AS i ON i.objoid = p.oid AND i.classoid = 'pg_proc'::REGCLASS
    WHERE pronamespace = 'pg_catalog'::REGNAMESPACE AND proacl IS DISTINCT FROM initprivs
    UNION
    SELECT 'catalog table ' || c.oid::REGCLASS || ': ' || {acl("relacl", "relowner", "r")}
    FROM pg_class AS c LEFT JOIN pg_init_privs AS i ON i.objoid = c.oid AND i.classoid = 'pg_class'::REGCLASS AND i.objsubid = 0
    WHERE relnamespace = 'pg_catalog'::REGNAMESPACE AND relacl IS DISTINCT FROM initprivs
    UNION
    SELECT 'language ' || lanname || ': ' || {acl("lanacl", "lanowner", "l")} FROM pg_language WHERE lanpltrusted
    UNION
    SELECT 'extension ' || extname || ' of ' || extowner::REGROLE || ' in ' || extnamespace::REGNAMESPACE FROM pg_extension
    UNION
    SELECT 'default for what ' || defaclrole::REGROLE || ' makes' || COALESCE(' in ' || nspname, '') || ', '
      || CASE defaclobjtype WHEN 'r' THEN 'tables' WHEN 'f' THEN 'functions' WHEN 'S' THEN 'sequences' WHEN 'T' THEN 'types' ELSE 'schemas' END
      || ': ' || {acl("defaclacl", "defaclrole", "r")}
    FROM pg_default_acl LEFT JOIN pg_namespace AS n ON n.oid = defaclnamespace
"""


def rights(home: Home) -> str:
    """Every role, attribute, membership, setting and right of the server, a line each."""
    with closing(home.connect()) as session:
        lines = [f"{line}" for (line,) in sorted(run(session, OF_SERVER))]
    for database in bootstrap.DATABASES:
        with closing(home.connect("postgres", database)) as session:
            lines += ["", f"-- in database {database}", *(f"{line}" for (line,) in sorted(run(session, IN_DATABASE)))]
    return "\n".join(lines) + "\n"


def changed(now: str) -> str:
    before, after = REVIEWED.read_text().splitlines(), now.splitlines()
    lines = difflib.unified_diff(before, after, "reviewed", "this server", n=0, lineterm="")
    return "\n".join(line for line in lines if not line.startswith("@@"))


def test_every_right_was_reviewed(warehouse: Warehouse) -> None:
    now = rights(warehouse.home)
    if os.environ.get("RENEW"):
        REVIEWED.write_text(now)
    difference = changed(now)
    assert not difference, (
        f"{difference}\n\nRights are not those in {REVIEWED.relative_to(ROOT)}. If each line above is meant, write them there "
        "and commit the file:\n  RENEW=1 .venv/bin/python -m pytest tests/python/test_rights.py -k every_right"
    )


def test_a_right_that_nobody_reviewed_is_found(warehouse: Warehouse, admin: connection) -> None:
    """Of each kind one: were a kind not in the list, its change would go unseen."""
    changes = {
        "role": ("ALTER ROLE agent CREATEDB", "ALTER ROLE agent NOCREATEDB"),
        "member": ("GRANT pg_read_all_data TO agent", "REVOKE pg_read_all_data FROM agent"),
        "setting": (
            "ALTER ROLE agent IN DATABASE warehouse SET row_security = off",
            "ALTER ROLE agent IN DATABASE warehouse RESET ALL",
        ),
        "database": (
            "GRANT TEMPORARY ON DATABASE warehouse TO agent",
            "REVOKE TEMPORARY ON DATABASE warehouse FROM agent",
        ),
        "parameter": (
            "GRANT SET ON PARAMETER temp_file_limit TO agent",
            "REVOKE SET ON PARAMETER temp_file_limit FROM agent",
        ),
        "schema": ("GRANT USAGE ON SCHEMA staging TO agent", "REVOKE USAGE ON SCHEMA staging FROM agent"),
        "table": ("GRANT SELECT ON landing.orders TO agent", "REVOKE SELECT ON landing.orders FROM agent"),
        "view": ("GRANT UPDATE ON marts.daily_revenue TO agent", "REVOKE UPDATE ON marts.daily_revenue FROM agent"),
        "column": (
            "GRANT SELECT (email) ON landing.customers TO agent",
            "REVOKE SELECT (email) ON landing.customers FROM agent",
        ),
        "sequence": (
            "GRANT USAGE ON SEQUENCE landing.files_file_id_seq TO agent",
            "REVOKE USAGE ON SEQUENCE landing.files_file_id_seq FROM agent",
        ),
        "function": (
            "GRANT EXECUTE ON FUNCTION ops.reap_sessions() TO agent",
            "REVOKE EXECUTE ON FUNCTION ops.reap_sessions() FROM agent",
        ),
        "catalog function": (
            "GRANT EXECUTE ON FUNCTION pg_read_file(text) TO agent",
            "REVOKE EXECUTE ON FUNCTION pg_read_file(text) FROM agent",
        ),
        "catalog table": ("GRANT SELECT ON pg_authid TO agent", "REVOKE SELECT ON pg_authid FROM agent"),
        "language": ("GRANT USAGE ON LANGUAGE plpgsql TO PUBLIC", "REVOKE USAGE ON LANGUAGE plpgsql FROM PUBLIC"),
        "extension": ("CREATE EXTENSION dblink SCHEMA public", "DROP EXTENSION dblink"),
        "default": (
            "ALTER DEFAULT PRIVILEGES FOR ROLE sqlmesh_user GRANT SELECT ON TABLES TO agent",
            "ALTER DEFAULT PRIVILEGES FOR ROLE sqlmesh_user REVOKE SELECT ON TABLES FROM agent",
        ),
    }
    before = rights(warehouse.home)
    for kind, (change, back) in changes.items():
        run(admin, change)
        try:
            found = set(rights(warehouse.home).splitlines()) - set(before.splitlines())
            assert [line for line in found if line.startswith(f"{kind} ")], (kind, found)
        finally:
            run(admin, back)
    assert rights(warehouse.home) == before


# ---- servers that are there already -----------------------------------------------------------------------------


def test_a_server_of_an_older_version_becomes_the_same(warehouse: Warehouse, admin: connection) -> None:
    """Before there was an owner, agents, people with personal data and monitoring; everything was the administrator's."""
    before = rights(warehouse.home)
    run(
        admin,
        """
        ALTER DATABASE warehouse OWNER TO postgres;
        REASSIGN OWNED BY warehouse_owner TO postgres;
        DROP VIEW ops.readers, ops.session_limits CASCADE;
        DROP FUNCTION ops.reap_sessions();
        DROP OWNED BY warehouse_owner, analysts, analyst_pii, agents, agent, monitor;
        DROP ROLE warehouse_owner, analysts, analyst_pii, agents, agent, monitor;
        GRANT CONNECT ON DATABASE warehouse TO analyst;
        ALTER DEFAULT PRIVILEGES IN SCHEMA meta GRANT SELECT ON TABLES TO analyst;
        GRANT SELECT ON ALL TABLES IN SCHEMA meta TO analyst;
        GRANT USAGE ON SCHEMA meta TO analyst;
        GRANT USAGE ON SCHEMA marts, ml TO analyst;
        GRANT SELECT ON ALL TABLES IN SCHEMA marts, ml TO analyst;
        ALTER DEFAULT PRIVILEGES FOR ROLE sqlmesh_user IN SCHEMA marts, ml GRANT SELECT ON TABLES TO analyst;
        ALTER ROLE analyst RESET ALL;
        ALTER ROLE analyst CONNECTION LIMIT -1;
        ALTER ROLE loader CREATEDB;
        GRANT CONNECT, TEMPORARY ON DATABASE postgres TO PUBLIC;
        GRANT USAGE ON SCHEMA public TO PUBLIC;
        GRANT USAGE ON LANGUAGE plpgsql TO PUBLIC;
        GRANT EXECUTE ON FUNCTION pg_advisory_lock(bigint) TO PUBLIC;
        GRANT EXECUTE ON FUNCTION lo_create(oid) TO loader, sqlmesh_user, postgres;
        ALTER DEFAULT PRIVILEGES IN SCHEMA landing GRANT SELECT, INSERT ON TABLES TO loader;
        ALTER DEFAULT PRIVILEGES FOR ROLE sqlmesh_user GRANT EXECUTE ON FUNCTIONS TO PUBLIC;
        """,
    )
    passfile = warehouse.home.path / "pgpass"
    known = [line for line in passfile.read_text().splitlines() if not {"agent", "monitor"} & set(line.split(":"))]
    passfile.write_text("".join(f"{line}\n" for line in known))
    with pytest.raises(WarehouseError, match="set up by an older version") as told:
        sessions.reap()
    assert told.value.code == Exit.MISMATCH and "make init" in told.value.hint
    bootstrap.apply()
    assert rights(warehouse.home) == before
    for login in LOGINS:
        connect(login).close()


def test_a_powerful_role_of_the_same_name_is_not_taken(warehouse: Warehouse, admin: connection) -> None:
    run(admin, "ALTER ROLE agent BYPASSRLS")
    try:
        with pytest.raises(WarehouseError, match="role agent exists already and is more powerful"):
            bootstrap.apply()
    finally:
        run(admin, "ALTER ROLE agent NOBYPASSRLS")


# ---- attempts ---------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def sessions_of(warehouse: Warehouse, admin: connection) -> Iterator[dict[str, connection]]:
    """A session of each login, those of people included, without the settings that a session may lift."""
    for name, group in PEOPLE.items():
        run(admin, f"CREATE ROLE {name} LOGIN PASSWORD '{SECRET}' IN ROLE {group}")
    physical = run(
        admin,
        "SELECT format('%I.%I', schemaname, tablename) FROM pg_tables WHERE schemaname = 'analytics_marts' LIMIT 1",
    )
    run(
        admin,
        f"""
        SET ROLE sqlmesh_user;
        CREATE SCHEMA trial;
        CREATE VIEW trial.physical AS TABLE {physical[0][0]};
        CREATE TABLE trial.draft (n INT);
        CREATE TABLE marts.trial (n INT);
        CREATE TABLE marts_pii.trial (email TEXT);
        CREATE FUNCTION marts.trial() RETURNS INT LANGUAGE sql AS 'SELECT 1';
        RESET ROLE;
        CREATE TABLE meta.trial (n INT);
        """,
    )
    bootstrap.apply()  # gives people the limits of their kind, and meta.trial its owner and readers
    opened = {}
    for login in [*LOGINS, *PEOPLE]:
        password = warehouse.home.passwords().get(login, SECRET)
        opened[login] = psycopg2.connect(
            host="127.0.0.1", port=warehouse.home.port, user=login, password=password,
            dbname=LOGINS.get(login, "warehouse"), sslrootcert=str(warehouse.home.path / "server.crt"),
        )  # fmt: skip
        opened[login].autocommit = True
        run(
            opened[login],
            "SET default_transaction_read_only = off; SET statement_timeout = '20s'; SET lock_timeout = '2s'",
        )
    yield opened
    for session in opened.values():
        session.close()
    run(
        admin,
        "DROP SCHEMA trial CASCADE; DROP TABLE marts.trial, meta.trial, marts_pii.trial; DROP FUNCTION marts.trial()",
    )
    for name in PEOPLE:
        run(admin, f"DROP ROLE {name}")


READERS = "analyst agent mary paula robot"
WRITERS = "loader sqlmesh_user"
OWN = "sqlmesh_state_user test_user"  # each is alone in its database, and its owner

# What is tried, and who may; all others must be refused for want of a right. Of the two that have a database of their own
# only what is the server's is tried: the second list.
ATTEMPTS = {
    # read
    "SELECT FROM marts.daily_revenue": f"{READERS} sqlmesh_user",
    "SELECT FROM marts.fct_orders": f"{READERS} sqlmesh_user",
    "SELECT FROM ml.customer_segments": f"{READERS} sqlmesh_user",
    "SELECT FROM marts.trial": f"{READERS} sqlmesh_user",
    "SELECT FROM meta.trial": f"{READERS} sqlmesh_user",
    "SELECT FROM meta.models": f"{READERS} sqlmesh_user",
    "DELETE FROM meta.models": "sqlmesh_user",
    "UPDATE meta.models SET owner = 'mine'": "",
    "TABLE marts_pii.trial": "paula sqlmesh_user",
    "SELECT FROM raw.customers": "sqlmesh_user",
    "SELECT FROM staging.customers": "sqlmesh_user",
    "SELECT FROM staging.orders": "sqlmesh_user",
    "SELECT FROM seeds.countries": "sqlmesh_user",
    "SELECT FROM trial.physical": "sqlmesh_user",
    "SELECT FROM trial.draft": "sqlmesh_user",
    "SELECT FROM landing.customers": WRITERS,
    "SELECT FROM landing.orders": WRITERS,
    "SELECT FROM landing.rejects": WRITERS,
    "SELECT FROM landing.files": WRITERS,
    "SELECT FROM ops.session_limits": "monitor",
    "SELECT FROM ops.readers": "monitor",
    "SELECT FROM public.pg_stat_statements": "monitor",
    # write
    "INSERT INTO landing.orders SELECT * FROM landing.orders WHERE FALSE": "loader",
    "COPY landing.orders FROM '/dev/null'": "",
    "UPDATE landing.orders SET status = 'placed'": "",
    "DELETE FROM landing.orders": "",
    "DELETE FROM landing.batches": "",
    "TRUNCATE landing.orders": "",
    "SELECT NEXTVAL('landing.files_file_id_seq')": "",
    "INSERT INTO marts.trial VALUES (1)": "sqlmesh_user",
    "UPDATE marts.trial SET n = 0": "sqlmesh_user",
    "DELETE FROM marts.daily_revenue": "sqlmesh_user",
    "DELETE FROM marts_pii.trial": "sqlmesh_user",
    "TRUNCATE marts.trial": "sqlmesh_user",
    "SELECT FROM marts.trial FOR UPDATE": "sqlmesh_user",
    "MERGE INTO marts.trial USING (SELECT 1 AS n) AS s ON FALSE WHEN NOT MATCHED THEN INSERT VALUES (1)": "sqlmesh_user",
    # make, change and drop
    "CREATE TABLE public.mine (n INT)": "",
    "CREATE TABLE landing.mine (n INT)": "",
    "CREATE TABLE ops.mine (n INT)": "",
    "CREATE TABLE marts.mine (n INT)": "sqlmesh_user",
    "CREATE VIEW ml.mine AS SELECT 1": "sqlmesh_user",
    "CREATE FUNCTION marts.mine() RETURNS INT LANGUAGE sql AS 'SELECT 1'": "sqlmesh_user",
    "CREATE TYPE marts.mine AS (n INT)": "sqlmesh_user",
    "CREATE SCHEMA mine": "sqlmesh_user",
    "CREATE TRIGGER mine BEFORE INSERT ON landing.orders EXECUTE FUNCTION landing.hold_publish_lock()": "",
    "CREATE INDEX ON landing.orders (status)": "",
    "ALTER TABLE landing.orders ADD COLUMN mine INT": "",
    "ALTER TABLE landing.orders DISABLE TRIGGER ALL": "",
    "ALTER TABLE landing.orders OWNER TO CURRENT_USER": "",
    "COMMENT ON TABLE landing.orders IS 'mine'": "",
    "COMMENT ON VIEW marts.daily_revenue IS 'mine'": "sqlmesh_user",
    "DROP TABLE landing.orders": "",
    "DROP SCHEMA landing CASCADE": "",
    "DROP SCHEMA ops CASCADE": "",
    "DROP VIEW ops.session_limits CASCADE": "",
    "DROP FUNCTION ops.release_run_lock()": "",
    "CREATE OR REPLACE VIEW ops.session_limits AS SELECT 1": "",
    "CREATE OR REPLACE FUNCTION ops.release_run_lock() RETURNS VOID LANGUAGE sql AS ''": "",
    "DROP VIEW marts.daily_revenue CASCADE": "sqlmesh_user",
    "ALTER DATABASE warehouse SET work_mem = '1GB'": "",
    "DROP DATABASE sqlmesh_state": "",
    # temporary things
    "CREATE TEMPORARY TABLE mine (n INT)": WRITERS,
    "CREATE TEMPORARY VIEW mine AS SELECT 1": WRITERS,
    "CREATE FUNCTION pg_temp.mine() RETURNS INT LANGUAGE sql AS 'SELECT 1'": WRITERS,
    "SELECT 1 AS n INTO TEMPORARY mine": WRITERS,
    # functions and code
    "SELECT marts.trial()": "sqlmesh_user",
    "SELECT ops.lock_holder(1)": WRITERS,
    "SELECT ops.acquire_run_lock(now())": "sqlmesh_user",
    "SELECT ops.release_run_lock()": "sqlmesh_user",
    "SELECT ops.reap_sessions()": "sqlmesh_user",
    "SELECT landing.analyze()": "loader",
    "SELECT landing.hold_publish_lock()": "",
    "DO 'BEGIN END'": "",
    "CREATE FUNCTION marts.mine() RETURNS INT LANGUAGE plpgsql AS 'BEGIN RETURN 1; END'": "",
    "CREATE FUNCTION marts.mine() RETURNS INT LANGUAGE c AS 'mine'": "",
    "CREATE FUNCTION marts.mine() RETURNS INT LANGUAGE internal AS 'mine'": "",
    # locks
    "SELECT pg_advisory_lock(7274, 1)": WRITERS,
    "SELECT pg_advisory_xact_lock(1)": WRITERS,
    "SELECT pg_advisory_lock_shared(7274, 2)": WRITERS,
    "SELECT pg_try_advisory_lock(1)": WRITERS,
    "SELECT pg_try_advisory_xact_lock_shared(7274, 3)": WRITERS,
    "SELECT pg_advisory_unlock_all()": WRITERS,
    "LOCK TABLE marts.daily_revenue IN ACCESS EXCLUSIVE MODE": "sqlmesh_user",
    "LOCK TABLE marts.daily_revenue IN SHARE MODE": "sqlmesh_user",
    "LOCK TABLE landing.orders IN SHARE MODE": "",
    # large objects, the log of changes, snapshots
    "SELECT lo_create(0)": "",
    "SELECT lo_from_bytea(0, 'x')": "",
    "SELECT lo_put(1, 0, 'x')": "",
    "SELECT pg_logical_emit_message(TRUE, 'x', 'x')": "",
    "SELECT pg_export_snapshot()": "",
    # give away
    "REASSIGN OWNED BY sqlmesh_user TO CURRENT_USER": "sqlmesh_user",
    "ALTER DEFAULT PRIVILEGES FOR ROLE sqlmesh_user GRANT ALL ON TABLES TO PUBLIC": "sqlmesh_user",
    "GRANT analyst_pii TO agent": "",
    "REVOKE analysts FROM analyst_pii": "",
    "GRANT USAGE ON SCHEMA staging TO PUBLIC": "sqlmesh_user",
    "SET ROLE analyst_pii": "paula",
    "SET ROLE analysts": "analyst mary paula",
    "SET ROLE analyst": "analyst",
    "SET ROLE agent": "agent",
    "ALTER ROLE analyst PASSWORD 'mine'": "analyst",
    "ALTER ROLE analyst SET statement_timeout = 0": "analyst",
    "GRANT analysts TO agent": "",
}  # fmt: skip

# What belongs to the server, or to nobody but an administrator.
ATTEMPTS_AT_THE_SERVER = {
    "SET ROLE postgres": "",
    "SET ROLE warehouse_owner": "",
    "SET ROLE sqlmesh_user": "sqlmesh_user",
    "SET ROLE loader": "loader",
    "SET SESSION AUTHORIZATION postgres": "",
    "CREATE ROLE mine": "",
    "ALTER ROLE agent CONNECTION LIMIT 100": "",
    "ALTER ROLE agent SUPERUSER": "",
    "ALTER ROLE postgres PASSWORD 'mine'": "",
    "ALTER ROLE ALL SET work_mem = '1GB'": "",
    "GRANT pg_read_all_data TO CURRENT_USER": "",
    "CREATE DATABASE mine": "",
    "CREATE TABLESPACE mine LOCATION '/tmp/mine'": "",
    "ALTER SYSTEM SET work_mem = '1GB'": "",
    "SELECT pg_reload_conf()": "",
    "CHECKPOINT": "",
    "SELECT pg_switch_wal()": "",
    "SELECT pg_create_restore_point('mine')": "",
    "SELECT pg_backup_start('mine')": "",
    "SELECT pg_create_physical_replication_slot('mine')": "",
    "SELECT pg_rotate_logfile()": "",
    "SELECT pg_promote()": "",
    "SELECT pg_stat_reset()": "",
    "SELECT pg_terminate_backend({pid})": "",
    "SELECT pg_cancel_backend({pid})": "",
    "SELECT rolpassword FROM pg_authid": "",
    "SELECT passwd FROM pg_shadow": "",
    "SELECT FROM pg_hba_file_rules": "",
    "SELECT FROM pg_file_settings": "",
    "SELECT FROM pg_config": "",
    "SELECT FROM pg_statistic": "",
    "SELECT FROM pg_largeobject": "",
    "SELECT subconninfo FROM pg_subscription": "",
    "SELECT pg_read_file('postgresql.conf')": "",
    "SELECT pg_read_binary_file('global/pg_control')": "",
    "SELECT pg_ls_dir('.')": "",
    "SELECT pg_stat_file('postgresql.conf')": "",
    "SELECT pg_ls_tmpdir()": "monitor",
    "SELECT pg_ls_waldir()": "monitor",
    "SELECT lo_import('/etc/passwd')": "",
    "SELECT lo_export(1, '/tmp/mine')": "",
    "COPY (SELECT 1) TO PROGRAM 'true'": "",
    "COPY (SELECT 1) TO '/tmp/mine'": "",
    "LOAD 'mine'": "",
    "CREATE EXTENSION dblink": "",
    "CREATE EXTENSION postgres_fdw": "",
    "CREATE EXTENSION file_fdw": "",
    "CREATE FOREIGN DATA WRAPPER mine": "",
    "CREATE LANGUAGE mine HANDLER mine": "",
    "CREATE FUNCTION public.mine() RETURNS INT LANGUAGE c AS 'mine'": "",
    "CREATE FUNCTION public.mine() RETURNS INT LANGUAGE internal AS 'mine'": "",
    "CREATE EVENT TRIGGER mine ON ddl_command_start EXECUTE FUNCTION mine()": "",
    "CREATE SUBSCRIPTION mine CONNECTION 'mine' PUBLICATION mine": "",
    "SET session_replication_role = replica": "",
    "SET log_statement = 'none'": "",
    "SET temp_file_limit = -1": "",
    "SET session_preload_libraries = 'mine'": "",
    "SET lc_messages = 'C'": "",
}
ALONE = (
    "CREATE DATABASE",
    "DROP DATABASE",
    "CREATE TABLESPACE",
    "ALTER SYSTEM",
    "CREATE SUBSCRIPTION",
)  # in no transaction


def attempt(session: connection, statement: str) -> str:
    """'done', and undone here; 'refused' for want of a right; else what went wrong."""
    try:
        if not statement.startswith(ALONE):
            run(session, "BEGIN")
        run(session, statement)
        if "advisory" in statement or "acquire" in statement:
            run(session, "SELECT pg_advisory_unlock_all()")
        return "done"
    except errors.InsufficientPrivilege:
        return "refused"
    except psycopg2.Error as error:
        return f"{type(error).__name__}: {error}".strip()
    finally:
        run(session, "ROLLBACK")


def test_each_login_may_do_what_it_must_and_nothing_else(sessions_of: dict[str, connection], admin: connection) -> None:
    """More than a thousand attempts: unexpected successes 0, unexpected refusals 0."""
    wrong, tried = [], 0
    for login, session in sessions_of.items():
        attempts = ATTEMPTS_AT_THE_SERVER if login in OWN.split() else ATTEMPTS | ATTEMPTS_AT_THE_SERVER
        for statement, allowed in attempts.items():
            tried += 1
            found = attempt(session, statement.format(pid=admin.info.backend_pid))
            if found != ("done" if login in allowed.split() else "refused"):
                wrong.append(f"{login}: {statement}: {found}")
    assert not wrong, "\n".join(wrong)
    assert tried > 1000


HIDDEN = {
    "what others do": "SELECT query FROM pg_stat_activity WHERE usename <> current_user AND query NOT IN ('', '<insufficient privilege>')",
    "values in the statistics of tables": "SELECT 1 FROM pg_stats WHERE schemaname LIKE 'analytics_%' OR schemaname = 'landing'",
    "where the server keeps its files": "SELECT 1 FROM pg_settings WHERE name = 'data_directory'",
    "password of a subscription or server": "SELECT umoptions FROM pg_user_mappings",
    "functions with their owner's rights": """
        SELECT oid::REGPROCEDURE FROM pg_proc
        WHERE prosecdef AND (HAS_FUNCTION_PRIVILEGE(oid, 'EXECUTE') OR NOT COALESCE(proconfig::TEXT LIKE '%search_path=%', FALSE))
    """,
    "extensions that reach out": "SELECT extname FROM pg_extension WHERE extname NOT IN ('plpgsql', 'pg_stat_statements')",
    "tables that everyone writes": """
        SELECT oid::REGCLASS FROM pg_class
        WHERE relkind IN ('r', 'v', 'p') AND relnamespace <> 'pg_catalog'::REGNAMESPACE
          AND HAS_TABLE_PRIVILEGE(oid, 'INSERT, UPDATE, DELETE, TRUNCATE, REFERENCES, TRIGGER')
          AND relnamespace::REGNAMESPACE::TEXT NOT IN ('information_schema')
    """,
}


def test_what_the_catalog_hides_from_readers(sessions_of: dict[str, connection], admin: connection) -> None:
    run(admin, "ANALYZE")
    for what in ("values in the statistics of tables", "where the server keeps its files", "what others do"):
        assert run(admin, HIDDEN[what]), what  # there is something to hide
    for login in READERS.split():
        assert [what for what, query in HIDDEN.items() if run(sessions_of[login], query)] == [], login


def test_a_reader_has_nothing_to_give(sessions_of: dict[str, connection], admin: connection) -> None:
    for login in READERS.split():
        run(sessions_of[login], "GRANT SELECT ON marts.daily_revenue TO PUBLIC")  # PostgreSQL only warns
    assert run(admin, "SELECT HAS_TABLE_PRIVILEGE('public', 'marts.daily_revenue', 'SELECT')") == [(False,)]


@pytest.mark.parametrize("login", [*LOGINS, *PEOPLE])
def test_each_login_has_one_database(sessions_of: dict[str, connection], admin: connection, login: str) -> None:
    databases = "SELECT STRING_AGG(datname, ' ') FROM pg_database WHERE datallowconn AND HAS_DATABASE_PRIVILEGE('{}', oid, 'CONNECT')"
    assert run(admin, databases.format(login)) == [(LOGINS.get(login, "warehouse"),)]


@contextmanager
def as_person(warehouse: Warehouse, name: str) -> Iterator[connection]:
    session = psycopg2.connect(
        host="127.0.0.1", port=warehouse.home.port, user=name, password=SECRET, dbname="warehouse",
        sslrootcert=str(warehouse.home.path / "server.crt"),
    )  # fmt: skip
    session.autocommit = True
    try:
        yield session
    finally:
        session.close()


def test_people_start_with_the_limits_of_their_kind(sessions_of: dict[str, connection], warehouse: Warehouse) -> None:
    names = (
        "search_path", "timezone", "default_transaction_read_only", "statement_timeout", "idle_in_transaction_session_timeout",
        "transaction_timeout", "lock_timeout", "temp_file_limit", "client_connection_check_interval",
    )  # fmt: skip
    shown = "SELECT " + ", ".join(f"CURRENT_SETTING('{name}')" for name in names)
    of_kind = {
        "analyst": ("marts, ml, meta", "UTC", "on", "5min", "10min", "1h", "30s", "10GB", "2s"),
        "agent": ("marts, ml, meta", "UTC", "on", "30s", "30s", "2min", "5s", "1GB", "2s"),
    }
    for login, expected in of_kind.items():
        with closing(warehouse.home.connect(login)) as session:
            assert run(session, shown) == [expected]
    for name, kind in (("mary", "analyst"), ("paula", "analyst"), ("robot", "agent")):
        with as_person(warehouse, name) as session:
            assert run(session, shown) == [of_kind[kind]], name
    with closing(warehouse.home.connect("sqlmesh_user")) as session:
        assert run(session, shown)[0][6] == "10s"
        assert run(session, "SHOW max_parallel_workers_per_gather") == [("0",)]
        assert run(session, "SHOW random_page_cost") == [("2",)]


def test_an_agent_has_few_sessions(sessions_of: dict[str, connection], warehouse: Warehouse) -> None:
    opened = [warehouse.home.connect("agent") for _ in range(4)]  # and one is open
    try:
        with pytest.raises(psycopg2.OperationalError, match="too many connections for role"):
            warehouse.home.connect("agent")
    finally:
        for session in opened:
            session.close()


def test_an_md5_password_opens_nothing(sessions_of: dict[str, connection], warehouse: Warehouse) -> None:
    run(
        sessions_of["mary"],
        f"SET password_encryption = 'md5'; ALTER ROLE mary PASSWORD '{SECRET}'; RESET password_encryption",
    )
    with pytest.raises(psycopg2.OperationalError, match="password authentication failed"), as_person(warehouse, "mary"):
        pass
    run(sessions_of["mary"], f"ALTER ROLE mary PASSWORD '{SECRET}'")
    with as_person(warehouse, "mary"):
        pass


def test_init_mends_what_a_reader_can_break(sessions_of: dict[str, connection], warehouse: Warehouse) -> None:
    """A login may change its own defaults and password: nobody can forbid it on PostgreSQL."""
    before = rights(warehouse.home)
    run(sessions_of["analyst"], "ALTER ROLE analyst SET statement_timeout = 0; ALTER ROLE analyst SET work_mem = '1GB'")
    run(sessions_of["analyst"], "ALTER ROLE analyst PASSWORD 'mine'")
    run(sessions_of["mary"], "ALTER ROLE mary SET statement_timeout = 0; DROP OWNED BY analysts")
    run(sessions_of["robot"], "SET ROLE agents; ALTER ROLE agents SET statement_timeout = 0; RESET ROLE")
    assert rights(warehouse.home) != before
    assert attempt(sessions_of["analyst"], "SELECT FROM marts.daily_revenue") == "done"
    bootstrap.apply()
    assert rights(warehouse.home) == before
    with closing(connect("analyst")) as session:
        run(session, "SELECT FROM daily_revenue")


# ---- the reaper -------------------------------------------------------------------------------------------------


@pytest.fixture
def short_limits(admin: connection) -> Iterator[None]:
    """Limits of a second or two, so that tests need not wait for minutes."""
    (definition,) = run(admin, "SELECT pg_get_viewdef('ops.session_limits')")[0]
    short = (
        str(definition)
        .replace("'00:05:00'", "'00:00:01'")
        .replace("'00:10:00'", "'00:00:01'")
        .replace("'01:00:00'", "'00:00:03'")
    )
    assert short.count("'00:00:01'") == 2
    run(admin, f"CREATE OR REPLACE VIEW ops.session_limits AS {short}")
    yield
    run(admin, f"CREATE OR REPLACE VIEW ops.session_limits AS {definition}")


def test_sessions_over_their_limits_are_ended(
    sessions_of: dict[str, connection], warehouse: Warehouse, short_limits: None, capsys: pytest.CaptureFixture[str]
) -> None:
    """Whatever they have set; those within their limits, those at work for the warehouse and administrators are not."""
    ended: list[str] = []
    lift = "SET statement_timeout = 0; SET idle_in_transaction_session_timeout = 0; SET transaction_timeout = 0"

    def sleep(session: connection, name: str) -> None:
        try:
            run(session, f"{lift}; SELECT pg_sleep(20)")
        except errors.QueryCanceled:
            pass
        except psycopg2.OperationalError:
            ended.append(name)

    with (
        closing(connect("analyst")) as long,
        closing(warehouse.home.connect("analyst")) as calm,
        closing(connect("sqlmesh_user")) as worker,
        closing(warehouse.home.connect("postgres", "warehouse")) as root,
        closing(warehouse.home.connect("agent")) as agent,
        as_person(warehouse, "mary") as mary,
        as_person(warehouse, "paula") as paula,
    ):
        run(mary, "SET default_transaction_read_only = off")
        run(mary, "ALTER ROLE mary SET idle_in_transaction_session_timeout = 0")
        run(mary, f"{lift}; BEGIN; SELECT FROM marts.daily_revenue")
        run(paula, f"{lift}; BEGIN")
        run(agent, f"{lift}; BEGIN")  # its own limit is 30 s
        sleeping = [("analyst", long), ("worker", worker), ("root", root)]
        threads = [threading.Thread(target=sleep, args=(session, name)) for name, session in sleeping]
        for thread in threads:
            thread.start()
        run(calm, "SELECT 1")
        for _ in range(8):  # paula keeps hers awake
            time.sleep(0.2)
            run(paula, "SELECT FROM marts.daily_revenue")
        sessions.reap()
        said = capsys.readouterr().out
        assert "ended a session of analyst (pid " in said and "a statement ran longer than 00:00:01" in said
        assert "ended a session of mary (pid " in said and "it was idle in a transaction longer than 00:00:01" in said
        assert len(said.splitlines()) == 2
        threads[0].join(timeout=10)
        with pytest.raises(psycopg2.OperationalError):
            run(mary, "SELECT 1")
        for _ in range(10):
            time.sleep(0.2)
            run(paula, "SELECT FROM marts.daily_revenue")
        sessions.reap()
        said = capsys.readouterr().out
        assert "ended a session of paula (pid " in said and "its transaction lasted longer than 00:00:03" in said
        assert len(said.splitlines()) == 1
        run(calm, "SELECT 1")
        run(agent, "SELECT 1")
        assert ended == ["analyst"]
        worker.cancel()
        root.cancel()
        for thread in threads:
            thread.join()
    assert ended == ["analyst"]
    sessions.reap()
    assert capsys.readouterr().out == ""


# ---- promotions, new models, environments -----------------------------------------------------------------------


def model(columns: str) -> str:
    return f"MODEL (name marts.newcomer, kind FULL); SELECT {columns} FROM marts.fct_orders"


def test_grants_survive_promotions_new_models_and_environments(
    sessions_of: dict[str, connection], warehouse: Warehouse
) -> None:
    from sqlmesh.core.dialect import parse
    from sqlmesh.core.model import load_sql_based_model

    def plan(environment: str, columns: str) -> None:
        project = pipeline.context()
        schemas = project.config.physical_schema_mapping
        project.upsert_model(
            load_sql_based_model(
                parse(model(columns)), dialect="postgres", default_catalog="warehouse", physical_schema_mapping=schemas
            )
        )
        project.plan(environment, skip_tests=True, skip_linter=True, no_prompts=True, auto_apply=True)

    def readers(query: str) -> dict[str, str]:
        return {login: attempt(sessions_of[login], query) for login in READERS.split()}

    everyone, nobody = dict.fromkeys(READERS.split(), "done"), dict.fromkeys(READERS.split(), "refused")
    before = rights(warehouse.home)

    plan("dev_mary", "order_id, customer_id")
    assert readers("SELECT FROM marts__dev_mary.newcomer") == nobody
    with closing(connect("sqlmesh_user")) as engineer, engineer:
        run(
            engineer,
            "GRANT USAGE ON SCHEMA marts__dev_mary TO analysts; GRANT SELECT ON marts__dev_mary.newcomer TO analysts",
        )
    assert readers("SELECT FROM marts__dev_mary.newcomer") == everyone | {"agent": "refused", "robot": "refused"}

    plan("prod", "order_id, customer_id")
    assert readers("SELECT order_id, customer_id FROM marts.newcomer") == everyone
    plan("prod", "order_id")  # fewer columns: the view is dropped and made anew
    assert readers("SELECT order_id FROM marts.newcomer") == everyone

    pipeline.context().invalidate_environment("dev_mary", sync=True)
    new = set(rights(warehouse.home).splitlines()) - set(before.splitlines())
    assert new == {"view marts.newcomer of sqlmesh_user: agents SELECT; analysts SELECT"}


# ---- secrets ----------------------------------------------------------------------------------------------------


def test_no_password_is_shown_by_any_command(warehouse: Warehouse, admin: connection, tmp_path: Path) -> None:
    """Neither the right ones, nor wrong ones, nor one that a shell holds for another server, also with --debug."""
    home, wrong, foreign = warehouse.home, "wrong-canary-4711", "foreign-canary-4712"
    seen: dict[str, str] = {}
    done = threading.Event()

    def watch() -> None:
        while not done.wait(0.25):
            for process in Path("/proc").glob("[0-9]*"):
                for file in ("cmdline", "environ"):
                    with suppress(OSError):
                        text = (process / file).read_bytes().decode(errors="replace")
                        # Our own command got it from the shell; what it starts must not have it.
                        if file == "cmdline" or (process / "comm").read_text().strip() in ("psql", "postgres"):
                            seen[f"{file} of {process.name}: {text[:60]}"] = text

    passfile = tmp_path / "pgpass"
    passfile.write_text(f"*:*:*:*:{wrong}\n")
    passfile.chmod(0o600)
    mistaken = {"WAREHOUSE_HOST": "127.0.0.1", "WAREHOUSE_PORT": str(home.port), "PGPASSFILE": str(passfile)}
    batch = tmp_path / "drop" / "first"
    batch.mkdir(parents=True)
    (batch / "products.csv").write_text("product_id,updated_at\nP1,2026-03-01\n")
    scripts, sqlmesh = [sys.executable, "-m", "scripts"], [str(Path(sys.executable).with_name("sqlmesh")), "--debug"]
    watcher = threading.Thread(target=watch)
    watcher.start()
    try:
        for code, extra, command in (
            (0, {}, [*scripts, "refresh", str(tmp_path / "drop")]),
            (0, {}, [*scripts, "psql", "-c", "SELECT pg_sleep(0.8)"]),
            (0, {}, [*sqlmesh, "environments"]),
            (Exit.SERVICE_DOWN, mistaken, [*scripts, "init"]),
            (2, mistaken, [*scripts, "psql", "-c", "SELECT 1"]),
            (1, mistaken, [*sqlmesh, "environments"]),
        ):
            ran = subprocess.run(
                command,
                cwd=ROOT,
                env=home.environment(PGPASSWORD=foreign, **extra),
                text=True,
                capture_output=True,
                check=False,
            )
            assert ran.returncode == code, ran.stdout + ran.stderr
            seen[f"{' '.join(command[-3:])} {extra and 'with a wrong password'}"] = ran.stdout + ran.stderr
    finally:
        done.set()
        watcher.join()
    files = [
        *(ROOT / "logs").rglob("*"),
        *(ROOT / ".cache").rglob("*"),
        *home.path.glob("*"),
        *(home.data / "log").glob("*"),
    ]
    seen |= {
        str(file): file.read_bytes().decode(errors="replace")
        for file in files
        if file.is_file() and file.name not in ("pgpass", "pii.key")
    }
    tables = run(
        admin,
        "SELECT format('%I.%I', schemaname, tablename) FROM pg_tables WHERE schemaname IN ('ops', 'meta', 'landing')",
    )
    for (name,) in [*tables, ("pg_stat_activity",), ("public.pg_stat_statements",), ("pg_settings",)]:
        seen[f"table {name}"] = str(run(admin, f"TABLE {name}"))
    assert {"server.log", "settings.env"} <= {Path(name).name for name in seen}
    secrets = {"wrong": wrong, "foreign": foreign} | home.passwords()
    assert [(what, where) for what, secret in secrets.items() for where, text in seen.items() if secret in text] == []
    assert "password authentication failed" in seen[str(home.path / "server.log")]
