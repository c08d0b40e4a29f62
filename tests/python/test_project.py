"""The project as SQLMesh sees it: format, lint, contract, and every YAML unit test as a case of its own."""

import difflib
import io
from collections.abc import Iterator

import pytest
from sqlglot import exp
from sqlmesh import Context
from sqlmesh.core.model.common import ParsableSql
from sqlmesh.utils.yaml import load

from scripts import catalog, pipeline
from scripts.contract import PERSONAL, is_personal
from scripts.settings import ROOT
from tests.python.conftest import Home

UNIT_TESTS = [
    (path.relative_to(ROOT).as_posix(), name)
    for path in sorted((ROOT / "tests").rglob("test_*.yaml"))
    for name in load(path, render_jinja=False)
]


@pytest.fixture(scope="module")
def project(server: Home) -> Iterator[Context]:
    """The project, loaded once."""
    pipeline.deployed.cache_clear()
    yield pipeline.context()
    pipeline.context().close()
    pipeline.deployed.cache_clear()


@pytest.fixture(scope="module")
def rows(project: Context) -> catalog.Rows:
    """The rows of schema meta, of the models as they are."""
    return catalog.collect(project.models.values())


@pytest.mark.parametrize(("path", "name"), UNIT_TESTS, ids=[name for _, name in UNIT_TESTS])
def test_unit(project: Context, path: str, name: str) -> None:
    report = io.StringIO()
    result = project.test(tests=[f"{ROOT / path}::{name}"], stream=report)
    assert result.testsRun == 1
    assert result.wasSuccessful(), report.getvalue() + "".join(text for _, text in result.failures + result.errors)


def test_files_are_named_after_their_models() -> None:
    for path, name in UNIT_TESTS:
        model = path.rsplit("/", 1)[1].removesuffix(".yaml")
        assert name.startswith(f"{model}__"), f"{path}: {name}"


def test_sql_is_formatted(project: Context) -> None:
    assert project.format(check=True), "run `make format`"


def test_lint_finds_nothing(project: Context) -> None:
    assert not project.lint_models(raise_on_error=True)


def derived(queries: list[exp.Expr]) -> set[str]:
    """Names of the columns that hold personal data, or anything that queries make of them, however often renamed."""
    names = set(PERSONAL)
    while True:
        aliases = [alias for query in queries for alias in query.find_all(exp.Alias)]
        found = {a.alias for a in aliases if any(c.name in names for c in a.this.find_all(exp.Column))} - names
        if not found:
            return names
        names |= found


def test_what_is_personal_is_called_so(project: Context) -> None:
    """Failing rows are recorded and mailed without the columns that contract.is_personal knows by their names."""
    planted: list[exp.Expr] = [
        exp.maybe_parse(text) for text in ("SELECT LOWER(email) AS contact", "SELECT contact || 1 AS c2")
    ]
    assert derived(planted) == {"email", "full_name", "contact", "c2"}
    queries: list[exp.Expr] = [model.query for model in project.models.values() if model.is_sql]  # type: ignore[union-attr]
    queries += [audit.query for audit in project._audits.values()]
    assert len(queries) > 60
    assert {name for name in derived(queries) if not is_personal(name)} == set()


def test_what_is_made_of_the_models_is_up_to_date(rows: catalog.Rows) -> None:
    for name, text in catalog.files(rows).items():
        lines = difflib.unified_diff((ROOT / name).read_text().splitlines(), text.splitlines(), name, "models", n=1)
        difference = "\n".join(lines)
        assert not difference, f"{name} is not what the models say; run `make contracts`\n{difference}"


def test_the_changelog_tells_what_breaks_the_contract(rows: catalog.Rows) -> None:
    """Since the last commit; the files are up to date only if it was told before, too."""
    catalog.refuse_untold(catalog.files(rows)[catalog.CONTRACT])


def test_the_contract_notices_a_change_of_a_model(project: Context, rows: catalog.Rows) -> None:
    """A column lost, one retyped, one explained otherwise."""
    models, key = dict(project.models), '"warehouse"."marts"."monthly_revenue"'
    query = models[key].render_query_or_raise().copy()
    kept = [column for column in query.selects if column.alias_or_name != "refunds"]
    retyped = [exp.cast(one.unalias(), "DOUBLE").as_("tax") if one.alias_or_name == "tax" else one for one in kept]
    models[key] = models[key].copy(
        update={
            "query_": ParsableSql(sql=query.select(*retyped, append=False).sql("postgres")),
            "column_descriptions_": {**(models[key].column_descriptions or {}), "orders": "Orders that count."},
        }
    )
    before, after = catalog.files(rows), catalog.files(catalog.collect(models.values()))
    old, new = (load(files[catalog.CONTRACT], render_jinja=False) for files in (before, after))
    assert {(one.model, one.column, one.change) for one in catalog.breaks(old, new)} == {
        ("marts.monthly_revenue", "refunds", "removed"),
        ("marts.monthly_revenue", "tax", "retyped from DECIMAL(18, 4) to DOUBLE PRECISION"),
    }
    assert new["marts.monthly_revenue"]["columns"]["orders"]["meaning"] == "Orders that count."
    assert all(text != before[name] for name, text in after.items())


def test_lineage_leads_from_every_table_to_landing(project: Context, rows: catalog.Rows) -> None:
    edges = {(model, source) for model, _, source, _ in rows["lineage"]}
    named = {model.fqn: f"{model.schema_name}.{model.view_name}" for model in project.models.values()}
    read = {(named[model.fqn], named[name]) for model in project.models.values() for name in model.depends_on or ()}
    assert edges == {(model, source) for model, source in read if model != source}
    leads_to_landing = {model for model, source in edges if source.startswith("landing.")}
    for _ in named:
        leads_to_landing |= {model for model, source in edges if source in leads_to_landing}
    assert {row[0] for row in rows["models"]} <= leads_to_landing
    columns = [row[2:] for row in rows["lineage"] if row[:2] == ("marts.daily_revenue", "net_revenue")]
    assert columns == [("marts.fct_orders", "net_sales"), ("marts.fct_refunds", "refunds")]
