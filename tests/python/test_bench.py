"""The benchmark compares like with like: every model, the same rows, the same indexes. Without dbt itself."""

import json
import re
from collections.abc import Iterator
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path

import pytest
from psycopg2.extensions import connection
from sqlglot import exp

from bench import contenders, parts, report
from bench.derive import KEPT, Index, Mart, derive
from bench.equality import require_equal
from scripts import pipeline
from scripts.errors import WarehouseError
from scripts.settings import ROOT
from tests.python.conftest import Home

FILES = [path.relative_to(ROOT / "models") for path in (ROOT / "models").rglob("*.*") if path.suffix in (".sql", ".py")]
MODELS = {f"{file.parts[0]}.{file.stem}" for file in FILES}
SEEDS = {name for name in MODELS if name.startswith("seeds.")}


@pytest.fixture(scope="module")
def admin(server: Home) -> Iterator[connection]:
    with closing(server.connect(database="warehouse")) as session:
        yield session


@pytest.fixture(scope="module")
def marts(admin: connection) -> Iterator[list[Mart]]:
    """The derivation, with the seeds in the test's server."""
    pipeline.deployed.cache_clear()
    context = pipeline.context()
    contenders.prepare(admin, context)
    yield derive(context)
    context.close()
    pipeline.deployed.cache_clear()
    with admin.cursor() as cursor:
        cursor.execute(f"DROP OWNED BY {contenders.LOGIN} CASCADE; DROP ROLE {contenders.LOGIN}")


@pytest.fixture(scope="module")
def written(marts: list[Mart], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder with the SQL of the other contenders: hand/, dbt/."""
    folder = tmp_path_factory.mktemp("bench")
    contenders.Hand(marts, folder)
    contenders.write_dbt_project(marts, folder / "dbt")
    return folder


def test_every_model_is_derived_after_its_parents(marts: list[Mart]) -> None:
    names = [mart.name for mart in marts]
    assert sorted(names) == sorted(MODELS)
    for place, mart in enumerate(marts):
        assert {name for name in mart.parents if not name.startswith("landing.")} <= set(names[:place])


def test_every_model_has_its_key_and_a_unique_index(marts: list[Mart]) -> None:
    for mart in marts:
        if mart.kind in ("full", "incremental"):
            assert any(index.unique for index in mart.indexes), mart.name
            assert {column for index in mart.indexes for column in index.columns} <= set(mart.types), mart.name
        if mart.kind == "incremental":
            assert mart.key in mart.types


def test_a_first_build_is_stored_in_the_order_of_ours(marts: list[Mart]) -> None:
    named = re.compile(r"^  clustered_by (\w+),$", re.MULTILINE)
    ours = {f"{file.parts[0]}.{file.stem}": named.findall((ROOT / "models" / file).read_text()) for file in FILES}
    sorts = {mart.name: mart.full and mart.full.args.get("order") for mart in marts if mart.kind == "incremental"}
    assert {name: [by.name for by in order.expressions] if order else [] for name, order in sorts.items()} == {
        name: ours[name] for name in sorts
    }
    assert any(sorts.values())


def test_rows_that_a_model_takes_as_they_are_are_kept_before_they_are_deleted(marts: list[Mart], written: Path) -> None:
    for mart in marts:
        itself = {f"{table.db}.{table.name}" for table in (mart.full or exp.select()).find_all(exp.Table)}
        assert mart.name not in itself
    assert [mart.name for mart in marts if mart.keeps] == ["marts.product_performance"]
    for path in ("hand/day.sql", "dbt/macros/touch_marts_product_performance.sql"):
        steps = (written / path).read_text()
        assert 0 < steps.index(f"CREATE TEMPORARY TABLE {KEPT} ") < steps.index("DELETE FROM", steps.index(KEPT))
    assert re.search(rf"FROM {KEPT} AS ", (written / "dbt/models/marts_product_performance.sql").read_text())


def test_by_hand_every_model_is_built_and_brought_up_to_date(
    marts: list[Mart], admin: connection, tmp_path: Path
) -> None:
    hand = contenders.Hand(marts, tmp_path)
    hand.reset()
    hand.build("2026-01-01")
    hand.day("2026-01-01", "2026-01-02")
    with admin.cursor() as cursor:
        cursor.execute(
            "SELECT relname FROM pg_class WHERE relnamespace = 'hand'::REGNAMESPACE AND relkind IN ('r', 'v')"
        )
        assert {name for (name,) in cursor.fetchall()} == {contenders.flat(name) for name in MODELS - SEEDS}
    day = (tmp_path / "hand" / "day.sql").read_text()
    for mart in marts:
        assert (f"INSERT INTO {hand.table(mart.name)}" in day) == (mart.kind in ("full", "incremental"))


def test_dbt_has_every_model_and_every_audit(marts: list[Mart], written: Path) -> None:
    project = written / "dbt"
    models = {path.stem for path in (project / "models").glob("*.sql")}
    assert models == {contenders.flat(name) for name in MODELS - SEEDS}
    listed = json.loads((project / "models" / "schema.yml").read_text())
    generic = sum(len(model["data_tests"]) for model in listed["models"])
    singular = len(list((project / "tests").glob("*.sql")))
    assert generic + singular == sum(len(mart.checks) for mart in marts if mart.kind != "seed")
    assert {table["name"] for table in listed["sources"][0]["tables"]} == {name[6:] for name in SEEDS}


def test_nothing_of_sqlmesh_is_left_in_the_sql(written: Path) -> None:
    for path in written.rglob("*.sql"):
        assert not re.search(r'@\w|analytics_|__\d{5}|\b[12]901-|"warehouse"', path.read_text()), path.name


@dataclass
class Side:
    """A contender whose only table is `<name>.numbers`."""

    name: str

    def table(self, name: str) -> str:
        return f"{self.name}.numbers"


@pytest.mark.parametrize(
    ("change", "fault"),
    [
        ("SELECT 1", None),
        ("UPDATE left_side.numbers SET amount = 7.0000 WHERE id = 1", None),
        ("UPDATE left_side.numbers SET amount = 7.0001 WHERE id = 1", "left_side 2 rows, right_side 2 rows"),
        ("UPDATE left_side.numbers SET amount = NULL WHERE id = 1", "left_side 2 rows, right_side 2 rows"),
        ("DELETE FROM left_side.numbers WHERE id = 2", "left_side 1 rows, right_side 2 rows"),
        ("TRUNCATE left_side.numbers, right_side.numbers", "every table is empty"),
        ("DROP INDEX left_side.one", "the indexes of left_side are not those of the model"),
        ("CREATE INDEX ON right_side.numbers (amount)", "the indexes of right_side are not those of the model"),
    ],
)
def test_a_difference_is_noticed(admin: connection, change: str, fault: str | None) -> None:
    types = {"id": exp.DataType.build("BIGINT"), "amount": exp.DataType.build("DECIMAL(18, 4)")}
    mart = Mart("marts.numbers", "full", types, indexes=[Index(("id",), unique=True)])
    with admin.cursor() as cursor:
        try:
            for side, rows in (("left_side", "(1, 7), (2, 19.99)"), ("right_side", "(2, 19.9900), (1, 7.00)")):
                cursor.execute(f"CREATE SCHEMA {side}; CREATE TABLE {side}.numbers (id BIGINT, amount NUMERIC)")
                cursor.execute(
                    f"INSERT INTO {side}.numbers VALUES {rows}; CREATE UNIQUE INDEX one ON {side}.numbers (id)"
                )
            cursor.execute(change)
            sides = [Side("left_side"), Side("right_side")]
            if fault is None:
                require_equal(admin, [mart], sides, "a test")
            else:
                with pytest.raises(WarehouseError, match=rf"after a test .*{fault}"):
                    require_equal(admin, [mart], sides, "a test")
        finally:
            cursor.execute("DROP SCHEMA IF EXISTS left_side, right_side CASCADE")


def test_the_ratios_are_these() -> None:
    names = {
        "load_vs_copy",
        "build_vs_hand_cpu",
        "build_vs_dbt_cpu",
        "day_vs_dbt_build_cpu",
        "day_vs_dbt_run_cpu",
        "growth_buffers",
        "dataframe_vs_copy",
        "audit_share",
        "query_p95_ms",
    }
    assert set(report.ratios({})) == names


def test_parts_are_merged_at_one_scale(tmp_path: Path) -> None:
    path = tmp_path / "bench.json"

    def usage(seconds: float) -> dict[str, float]:
        return {"wall": seconds, "client": seconds, "server": seconds, "buffers": 1, "wal": 1}

    report.save(1, "load", {"copy": usage(7), "load": usage(10)}, path)
    days = {"sqlmesh": usage(1), "hand": usage(1), "dbt_build": usage(4), "dbt_run": usage(2)}
    merged = report.save(1, "day", {"contenders": days}, path)
    assert merged == json.loads(path.read_text())
    assert merged["ratios"]["load_vs_copy"] == 0.7
    assert merged["ratios"]["day_vs_dbt_build_cpu"] == 0.25
    assert merged["ratios"]["day_vs_dbt_run_cpu"] == 0.5
    assert merged["ratios"]["growth_buffers"] is None
    assert report.save(2, "load", {"copy": usage(7), "load": usage(10)}, path)["parts"].keys() == {"load"}


def test_audits_are_told_from_other_statements() -> None:
    assert parts.is_audit('/* SQLMESH_RUN: 1 */ SELECT COUNT(*) FROM (SELECT\n $1 FROM x) AS "audit"')
    assert not parts.is_audit("SELECT COUNT(*) FROM (SELECT 1) AS rows")


def test_the_analysts_ask_twelve_questions() -> None:
    assert len(parts.named_queries()) == 12
    assert all(text.startswith("SELECT") for text in parts.named_queries().values())
