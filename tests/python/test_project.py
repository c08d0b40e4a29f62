"""The project as SQLMesh sees it: format, lint, and every YAML unit test as a case of its own."""

import io
from collections.abc import Iterator

import pytest
from sqlmesh import Context
from sqlmesh.utils.yaml import load

from scripts import pipeline
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
