"""What others have built on the marts: it outlives a change of columns, and what breaks is named before and refused."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import psycopg2
import pytest
from psycopg2 import errors
from sqlglot import exp
from sqlmesh import Context
from sqlmesh.core.config import Config, GatewayConfig, ModelDefaultsConfig
from sqlmesh.core.console import TerminalConsole, set_console
from typer.testing import CliRunner

from scripts import bootstrap, guard, pipeline
from scripts.__main__ import app
from scripts.adapter import WarehouseAdapter, WarehouseConnection
from scripts.errors import Exit
from scripts.settings import connect, settings
from tests.python.conftest import Home, forget_caches

pytestmark = pytest.mark.slow

PEOPLE = ("g_alice", "g_bob", "g_carol")

MART = "SELECT 7 AS id, 19.99::DECIMAL(18, 4) AS net_sales, 'x'::TEXT AS note"
WIDER = "SELECT 7::BIGINT AS id, 3 AS extra, 19.99::DECIMAL(24, 4) AS net_sales, 'x'::TEXT AS note"
NARROWER = "SELECT 7 AS id, 'x'::TEXT AS note"
OTHER = "SELECT 7 AS id, 5 AS units"
OTHER_MOVED = "SELECT 5 AS units, 7 AS id"

BUILT = {
    "g_alice": [
        "CREATE VIEW g_alice.sales WITH (security_barrier=true) AS SELECT id, net_sales * 2 AS twice FROM guarded.mart",
        "COMMENT ON VIEW g_alice.sales IS 'It''s mine'",
        "COMMENT ON COLUMN g_alice.sales.twice IS 'Twice'",
        "GRANT SELECT ON g_alice.sales TO g_bob WITH GRANT OPTION",
        "GRANT SELECT (id) ON g_alice.sales TO g_carol",
        'CREATE MATERIALIZED VIEW g_alice."To tals" AS SELECT id, note FROM guarded.mart',
        'CREATE UNIQUE INDEX totals_id ON g_alice."To tals" (id) WHERE id > 0',
        'GRANT SELECT ON g_alice."To tals" TO g_carol',
        "CREATE VIEW g_alice.ids AS SELECT id FROM guarded.mart",
    ],
    "g_bob": [
        "CREATE VIEW g_bob.chain AS SELECT id, twice FROM g_alice.sales",
        "CREATE VIEW g_bob.both_marts AS SELECT * FROM g_bob.chain JOIN guarded.other USING (id)",
        "GRANT SELECT ON g_bob.both_marts TO PUBLIC",
    ],
}
NAMES = ["g_alice.sales", 'g_alice."To tals"', "g_alice.ids", "g_bob.chain", "g_bob.both_marts", "guarded.mart"]


class Shop:
    """A SQLMesh project of two models, deployed, and people who have built on them."""

    def __init__(self, root: Path, server: Home) -> None:
        self.root, self.admin = root, server.connect("postgres", "warehouse")
        (root / "models").mkdir()

    def ask(self, query: str) -> list[tuple[Any, ...]]:
        with self.admin.cursor() as cursor:
            cursor.execute(query)
            return cursor.fetchall()

    def run(self, *statements: str, role: str = "postgres") -> None:
        with self.admin.cursor() as cursor:
            cursor.execute(f"SET ROLE {role}")
            try:
                for statement in statements:
                    cursor.execute(statement)
            finally:
                cursor.execute("RESET ROLE")

    def write(self, **models: str) -> None:
        for file in (self.root / "models").iterdir():
            file.unlink()
        for name, query in models.items():
            (self.root / "models" / f"{name}.sql").write_text(f"MODEL (name guarded.{name}, kind FULL);\n{query}\n")

    def plan(self, environment: str = "prod") -> str:
        """Apply the project; returns what SQLMesh warned of."""
        host, port = settings().address
        where: Any = {"host": host, "port": port, "password": "", "sslmode": "require"}
        gateway = GatewayConfig(
            connection=WarehouseConnection(user="sqlmesh_user", database="warehouse", concurrent_tasks=2, **where),
            state_connection=WarehouseConnection(user="sqlmesh_state_user", database="sqlmesh_state", **where),
            state_schema="guarded",
        )
        warnings: list[str] = []
        console = TerminalConsole()
        console.log_warning = lambda text, *_: warnings.append(text)  # type: ignore[method-assign]
        set_console(console)
        config = Config(gateways={"": gateway}, model_defaults=ModelDefaultsConfig(dialect="postgres"))
        context = Context(paths=[str(self.root)], config=config)
        try:
            context.plan(environment, auto_apply=True, no_prompts=True, skip_tests=True)
        finally:
            context.close()
        return "\n".join(warnings)

    def state(self, names: list[str]) -> list[Any]:
        """Everything about relations that must not change, in the order of their names."""
        return [
            self.ask(
                "SELECT relkind, relispopulated, pg_get_userbyid(relowner), reloptions, obj_description(oid, 'pg_class'),"
                " (SELECT array_agg(x::TEXT ORDER BY x::TEXT) FROM aclexplode(relacl) AS x),"
                f" CASE WHEN relnamespace <> 'guarded'::REGNAMESPACE THEN (SELECT array_agg(ROW(attname, attacl,"
                " col_description(attrelid, attnum))::TEXT ORDER BY attnum) FROM pg_attribute"
                " WHERE attrelid = c.oid AND attnum > 0) END,"
                " (SELECT array_agg(pg_get_indexdef(indexrelid)) FROM pg_index WHERE indrelid = c.oid)"
                f" FROM pg_class AS c WHERE oid = TO_REGCLASS('{name}')"
            )
            for name in names
        ]

    def is_there(self, name: str) -> bool:
        return self.ask(f"SELECT TO_REGCLASS('{name}') IS NOT NULL") == [(True,)]


@pytest.fixture(scope="module")
def deployed(server: Home, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Shop]:
    made = Shop(tmp_path_factory.mktemp("guarded"), server)
    guard.register()
    for name in PEOPLE:
        made.run(f"CREATE ROLE {name} IN ROLE analyst", f"CREATE SCHEMA {name} AUTHORIZATION {name}",
                 f"GRANT USAGE ON SCHEMA {name} TO analyst")  # fmt: skip
    made.run("CREATE SCHEMA guarded AUTHORIZATION sqlmesh_user", "GRANT USAGE ON SCHEMA guarded TO analyst")
    made.run(
        "ALTER DEFAULT PRIVILEGES FOR ROLE sqlmesh_user IN SCHEMA guarded GRANT SELECT ON TABLES TO analyst",
    )
    made.write(mart=MART, other=OTHER)
    made.plan()
    yield made
    schemas = made.ask("SELECT nspname FROM pg_namespace WHERE nspname ~ '^(guarded|sqlmesh__guarded|g_)'")
    made.run(*(f"DROP SCHEMA {schema} CASCADE" for (schema,) in schemas), "DELETE FROM view_keeper.dropped")
    made.run(*(f"DROP ROLE {name}" for name in PEOPLE))
    made.admin.close()


@pytest.fixture
def shop(deployed: Shop) -> Iterator[Shop]:
    """Prod as it was at first, with what people have built on it, whom the guard may act for."""
    people = ", ".join(PEOPLE)
    for schema in PEOPLE:
        deployed.run(f"DROP SCHEMA {schema} CASCADE", f"CREATE SCHEMA {schema} AUTHORIZATION {schema}",
                     f"GRANT USAGE ON SCHEMA {schema} TO analyst")  # fmt: skip
    deployed.write(mart=MART, other=OTHER)
    deployed.plan()
    for role, statements in BUILT.items():
        deployed.run(*statements, role=role)
    deployed.run(f"REVOKE ALL ON guarded.mart FROM {people}", "GRANT SELECT ON guarded.mart TO analyst")
    deployed.run(f"GRANT {people} TO view_keeper", "DELETE FROM view_keeper.dropped")
    yield deployed
    deployed.run("RESET ROLE")


@pytest.fixture
def allowed(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.setenv("WAREHOUSE_BREAK_DEPENDENTS", "1")
    forget_caches()
    yield
    monkeypatch.undo()
    forget_caches()


@pytest.fixture
def adapter(shop: Shop) -> Iterator[WarehouseAdapter]:
    host, port = settings().address
    made = WarehouseConnection(
        host=host, port=port, user="sqlmesh_user", password="", database="warehouse", sslmode="require"
    ).create_engine_adapter()
    assert isinstance(made, WarehouseAdapter)
    yield made
    made.close()


def test_a_change_that_breaks_nothing_keeps_everything(shop: Shop) -> None:
    """Columns in the middle, wider types, another order; of two marts at once, by two threads, with a view on both."""
    shop.run("REVOKE SELECT ON guarded.mart FROM analyst", "GRANT SELECT ON guarded.mart TO g_alice, g_bob, g_carol")
    shop.run("GRANT SELECT ON g_alice.sales TO g_carol", role="g_bob")
    before = shop.state(NAMES)
    shop.write(mart=WIDER, other=OTHER_MOVED)
    assert shop.plan() == ""
    after = shop.state(NAMES)
    # A right that somebody passed on comes from the owner now.
    roles = dict(shop.ask("SELECT rolname, oid::TEXT FROM pg_roles WHERE rolname LIKE 'g\\_%'"))
    by_bob, by_alice = (f"({roles[giver]},{roles['g_carol']},SELECT,f)" for giver in ("g_bob", "g_alice"))
    assert by_bob in before[0][0][5]
    before[0][0] = (*before[0][0][:5], sorted(x.replace(by_bob, by_alice) for x in before[0][0][5]), *before[0][0][6:])
    assert after == before
    assert shop.ask("SELECT * FROM g_bob.both_marts") == shop.ask("SELECT 7::BIGINT, 39.98, 5")
    assert shop.ask("SELECT pg_typeof(id)::TEXT FROM g_bob.chain") == [("bigint",)]
    assert shop.ask('SELECT * FROM g_alice."To tals"') == [(7, "x")]
    shop.run("SELECT * FROM g_bob.both_marts", "SELECT twice FROM g_alice.sales", role="g_carol")
    assert shop.ask("SELECT * FROM view_keeper.dropped") == []


def test_a_change_that_breaks_something_is_refused_with_names(shop: Shop) -> None:
    before, plans = shop.state(NAMES), shop.ask("SELECT COUNT(*) FROM pg_class WHERE relname LIKE 'guarded\\_\\_%'")
    shop.write(mart=NARROWER, other=OTHER)
    with pytest.raises(guard.PlanRefused) as refusal:
        shop.plan()
    text = str(refusal.value)
    assert "guarded.mart: net_sales is gone" in text
    assert 'view g_alice.sales of g_alice: column "net_sales" does not exist' in text
    assert 'view g_bob.chain of g_bob: relation "g_alice.sales" does not exist' in text
    assert "g_bob.both_marts" in text
    assert "To tals" not in text and "ids" not in text
    assert refusal.value.code == Exit.MISMATCH
    assert shop.state(NAMES) == before
    # Nothing was built for the change, either.
    assert shop.ask("SELECT COUNT(*) FROM pg_class WHERE relname LIKE 'guarded\\_\\_%'") == plans


def test_a_change_that_may_break_says_what_and_keeps_its_definition(shop: Shop, allowed: None) -> None:
    shop.write(mart=NARROWER, other=OTHER)
    sales = shop.state(["g_alice.sales"])
    warnings = shop.plan()
    assert 'view g_alice.sales of g_alice: column "net_sales" does not exist' in warnings
    assert "view_keeper.dropped" in warnings
    assert [shop.is_there(name) for name in NAMES] == [False, True, True, False, False, True]
    assert shop.ask("SELECT object FROM view_keeper.dropped ORDER BY level") == [
        ("view g_alice.sales",), ("view g_bob.chain",), ("view g_bob.both_marts",),
    ]  # fmt: skip
    # Its owner gets it back, with all that belonged to it, when the column is there again.
    shop.write(mart=MART, other=OTHER)
    shop.plan()
    (definition,) = shop.ask("SELECT definition FROM view_keeper.dropped WHERE object = 'view g_alice.sales'")[0]
    shop.run(*definition, role="g_alice")
    assert shop.state(["g_alice.sales"]) == sales


def test_a_model_that_is_removed_is_a_change_that_breaks(shop: Shop, monkeypatch: pytest.MonkeyPatch) -> None:
    shop.write(mart=MART)
    with pytest.raises(guard.PlanRefused, match="guarded.other: it is removed\n +view g_bob.both_marts of g_bob"):
        shop.plan()
    assert shop.is_there("g_bob.both_marts")
    monkeypatch.setenv("WAREHOUSE_BREAK_DEPENDENTS", "true")
    forget_caches()
    assert "g_bob.both_marts" in shop.plan()
    monkeypatch.undo()
    forget_caches()
    assert not shop.is_there("guarded.other") and not shop.is_there("g_bob.both_marts")
    assert shop.is_there("g_bob.chain")


def test_environments_of_engineers_are_free(shop: Shop) -> None:
    before = shop.state(NAMES)
    for query in (NARROWER, MART, NARROWER):
        shop.write(mart=query, other=OTHER)
        assert shop.plan("dev") == ""
    assert shop.state(NAMES) == before


def test_people_who_came_after_the_set_up_are_told_of(shop: Shop) -> None:
    shop.run("REVOKE g_alice FROM view_keeper")
    shop.write(mart=WIDER, other=OTHER)
    with pytest.raises(guard.PlanRefused, match="view g_alice.ids of g_alice: view_keeper may not act for g_alice"):
        shop.plan()
    bootstrap.apply()  # what `make init` does
    assert shop.plan() == ""


def replace(adapter: WarehouseAdapter, query: str) -> None:
    adapter.create_view("guarded.mart", exp.maybe_parse(query, dialect="postgres"))


def test_what_came_after_the_check_is_not_dropped_either(shop: Shop, adapter: WarehouseAdapter) -> None:
    before = shop.state(NAMES)
    with pytest.raises(guard.PlanRefused, match='g_alice.sales of g_alice: column "net_sales" does not exist'):
        replace(adapter, NARROWER)
    with pytest.raises(guard.PlanRefused, match="guarded.mart: it is removed"):
        adapter.drop_view("guarded.mart", cascade=False)
    assert shop.state(NAMES) == before


def test_a_death_on_the_way_leaves_all_as_it_was(shop: Shop, adapter: WarehouseAdapter) -> None:
    before = shop.state(NAMES)

    def die() -> None:
        with adapter.transaction():
            replace(adapter, WIDER)
            shop.ask("SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE usename = 'sqlmesh_user'")
            adapter.execute("SELECT 1")

    with pytest.raises(psycopg2.Error):
        die()
    assert shop.state(NAMES) == before
    assert shop.ask("SELECT * FROM view_keeper.dropped") == []


@pytest.mark.parametrize(
    ("statement", "name"),
    [
        ("CREATE FUNCTION g_alice.top() RETURNS INT BEGIN ATOMIC SELECT MAX(id) FROM guarded.mart; END", "top()"),
        ("CREATE FUNCTION g_alice.f(guarded.mart) RETURNS INT LANGUAGE SQL AS 'SELECT 1'", "f(guarded.mart)"),
        ("CREATE TABLE g_alice.rows (n INT, kept guarded.mart)", "table column g_alice.rows.kept"),
        ("CREATE RULE noted AS ON INSERT TO g_alice.log DO ALSO UPDATE g_alice.log SET n = 1 FROM guarded.mart", "noted"),
        ("CREATE POLICY few ON g_alice.log USING (n IN (SELECT id FROM guarded.mart))", "policy few on g_alice.log"),
        ("CREATE STATISTICS g_alice.stats ON id, note FROM g_alice.\"To tals\"", "statistics object g_alice.stats"),
        ("CREATE RULE shut AS ON INSERT TO g_alice.ids DO INSTEAD NOTHING", "shut"),
    ],
)  # fmt: skip
def test_what_is_no_view_is_named(shop: Shop, adapter: WarehouseAdapter, statement: str, name: str) -> None:
    shop.run("CREATE TABLE g_alice.log (n INT)", statement, role="g_alice")
    with pytest.raises(guard.PlanRefused) as refusal:
        replace(adapter, WIDER)
    (line,) = [
        line for line in str(refusal.value).splitlines() if "only views and their indexes are made again" in line
    ]
    assert name in line


@pytest.mark.parametrize(
    "value", ["'(7)'::g_alice.pair", "'{7}'::g_alice.odd[]", "ROW(7)::g_alice.pair", "CAST(7 AS g_alice.odd)"]
)
def test_a_definition_runs_no_code_of_its_owner(shop: Shop, adapter: WarehouseAdapter, value: str) -> None:
    """To read the constant of a view is to run the check of a domain, with the rights of whoever reads it."""
    shop.run(
        "CREATE TABLE g_alice.ran (by NAME)",
        "GRANT INSERT ON g_alice.ran TO PUBLIC",
        "GRANT USAGE ON SCHEMA g_alice TO PUBLIC",
        "CREATE FUNCTION g_alice.check(n INT) RETURNS BOOLEAN LANGUAGE SQL AS "
        "'INSERT INTO g_alice.ran VALUES (current_user) RETURNING TRUE'",
        "CREATE DOMAIN g_alice.odd AS INT CHECK (g_alice.check(VALUE))",
        "CREATE TYPE g_alice.pair AS (n g_alice.odd)",
        f"CREATE VIEW g_alice.trap AS SELECT id, {value} AS v FROM guarded.mart",
        role="g_alice",
    )
    with pytest.raises(guard.PlanRefused, match="g_alice.trap of g_alice: it has values of a type that somebody"):
        replace(adapter, WIDER)
    with pytest.MonkeyPatch.context() as patch:  # kept even if the rest of the transaction goes through
        patch.setenv("WAREHOUSE_BREAK_DEPENDENTS", "1")
        forget_caches()
        replace(adapter, WIDER)
        replace(adapter, MART)
    forget_caches()
    assert shop.ask("SELECT by FROM g_alice.ran WHERE by <> 'g_alice'") == []
    assert not shop.is_there("g_alice.trap") and shop.is_there("g_alice.ids")


def test_the_keeper_does_nothing_else_for_anybody(shop: Shop) -> None:
    (definition,) = shop.ask("SELECT view_keeper.definition('g_alice.ids')")[0]
    with connect("sqlmesh_user") as session, session.cursor() as cursor:
        for forbidden in (
            "INSERT INTO view_keeper.dropped (dropped_with, level, object) VALUES ('guarded.mart', 1, 'view x')",
            "UPDATE view_keeper.dropped SET definition = '{DROP TABLE landing.orders}'",
            "SET ROLE view_keeper",
            definition[0],
        ):
            with pytest.raises(errors.InsufficientPrivilege):
                cursor.execute(forbidden)
            session.rollback()
        cursor.execute("SELECT view_keeper.keep('guarded.mart')")
        session.commit()
        with pytest.raises(errors.NoDataFound):  # of another transaction
            cursor.execute("SELECT view_keeper.make_again('guarded.mart', 'view g_bob.chain')")
    with connect("analyst") as session, session.cursor() as cursor, pytest.raises(errors.InsufficientPrivilege):
        cursor.execute("SELECT view_keeper.keep('marts.daily_revenue')")
    may = shop.ask(
        "SELECT relname FROM pg_class JOIN pg_namespace ON pg_namespace.oid = relnamespace"
        " WHERE nspname IN ('landing', 'ops', 'sqlmesh__guarded')"
        " AND has_schema_privilege('view_keeper', nspname, 'USAGE') AND has_table_privilege('view_keeper', pg_class.oid, 'SELECT')"
    )
    assert may == []


def test_analysts_cannot_build_on_physical_tables(shop: Shop) -> None:
    (table,) = shop.ask("SELECT oid::REGCLASS::TEXT FROM pg_class WHERE relname LIKE 'guarded\\_\\_mart%'")[0]
    with pytest.raises(errors.InsufficientPrivilege):
        shop.run(f"CREATE VIEW g_alice.below AS SELECT * FROM {table}", role="g_alice")


def test_readers_who_do_not_let_go_stop_the_trial(shop: Shop, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(guard, "PATIENCE", "200ms")
    shop.write(mart=WIDER, other=OTHER)
    with connect("analyst") as reader, reader.cursor() as cursor:
        cursor.execute("SELECT * FROM guarded.mart")
        with pytest.raises(guard.PlanRefused, match="in use") as refusal:
            shop.plan()
        reader.rollback()
    assert refusal.value.code == Exit.TRANSIENT


def test_a_materialized_view_that_cannot_be_filled_is_told(shop: Shop) -> None:
    shop.run(
        "CREATE MATERIALIZED VIEW g_alice.shares AS SELECT 1 / (8 - id) AS share FROM guarded.mart", role="g_alice"
    )
    shop.write(mart=WIDER.replace("7::BIGINT", "8::BIGINT"), other=OTHER)
    assert "materialized view g_alice.shares is made again, and empty until its owner refreshes it" in shop.plan()
    assert shop.ask("SELECT relispopulated FROM pg_class WHERE oid = 'g_alice.shares'::REGCLASS") == [(False,)]


def test_the_commands_say_the_refusal_as_it_is(monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(guard.PlanRefused, match="^what\n  hint$"), pipeline._sqlmesh("the plan was not applied"):
        raise guard.PlanRefused("what", "hint", Exit.MISMATCH)
    allowed: list[bool] = []
    monkeypatch.setattr(pipeline, "deploy", lambda: allowed.append(settings().warehouse_break_dependents))
    monkeypatch.setenv("WAREHOUSE_BREAK_DEPENDENTS", "")
    for options in ([], ["--break-dependents"]):
        forget_caches()
        assert CliRunner().invoke(app, ["deploy", *options]).exit_code == 0
    forget_caches()
    assert allowed == [False, True]
