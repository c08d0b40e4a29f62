"""What SQLMesh must still do for a run to render what it needs and no more (scripts/renderer.py)."""

import inspect
from typing import Any

import pytest
import sqlmesh.core.macros as sqlmesh_macros
from sqlmesh.core.dialect import parse
from sqlmesh.core.macros import MacroEvaluator, RuntimeStage
from sqlmesh.core.model import load_sql_based_model
from sqlmesh.core.renderer import QueryRenderer
from sqlmesh.utils.metaprogramming import Executable, ExecutableKind

from scripts import renderer


def test_the_methods_are_where_they_were() -> None:
    assert "self._optimize_query_flag" in inspect.getsource(inspect.unwrap(QueryRenderer.render))
    assert list(inspect.signature(inspect.unwrap(sqlmesh_macros.prepare_env)).parameters) == ["python_env", "env"]  # type: ignore[attr-defined]
    assert "prepare_env(self.python_env, self.env)" in inspect.getsource(MacroEvaluator.__init__)


@pytest.mark.parametrize("stage", RuntimeStage)
def test_a_run_stores_what_is_written_and_all_else_sees_types(stage: RuntimeStage) -> None:
    model = load_sql_based_model(
        parse("MODEL (name marts.one, dialect postgres); SELECT a + 1 > 2 - 1 AS b FROM (SELECT 1 AS a) AS t")
    )
    made: Any = model
    original = inspect.unwrap(QueryRenderer.render)
    query = renderer._render(original)(made._query_renderer, start="2026-03-01", runtime_stage=stage)
    is_as_written = stage in (RuntimeStage.CREATING, RuntimeStage.EVALUATING, RuntimeStage.AUDITING)
    assert query.sql("postgres") == (
        'SELECT "a" + 1 > 2 - 1 AS "b" FROM (SELECT 1 AS "a") AS "t"'
        if is_as_written
        else 'SELECT "t"."a" > 0 AS "b" FROM (SELECT 1 AS "a") AS "t"'
    )
    later = renderer._render(original)(made._query_renderer, start="2026-03-01")
    assert '"t"."a"' in later.sql("postgres")


def test_macros_are_compiled_once_and_values_are_everybodys_own() -> None:
    calls = []

    def original(python_env: dict[str, Any], env: dict[str, Any] | None = None) -> dict[str, Any]:
        calls.append(sorted(python_env))
        made: dict[str, Any] = inspect.unwrap(sqlmesh_macros.prepare_env)(python_env, env)  # type: ignore[attr-defined]
        return made

    prepare = renderer._prepare_env(original)
    parts = {
        "LIMIT": Executable(payload="[7]", kind=ExecutableKind.VALUE),
        "double": Executable(
            payload="def double():\n    return 2 * LIMIT[0]", kind=ExecutableKind.DEFINITION, name="double"
        ),
    }
    first, second = prepare(parts, {"self": 1}), prepare(dict(parts), {"self": 2})
    assert calls == [["LIMIT", "double"], ["LIMIT"], ["LIMIT"]]
    assert first["double"] is second["double"]
    assert first["double"]() == 14
    assert (first["self"], second["self"]) == (1, 2)
    assert first["LIMIT"] is not second["LIMIT"]
    other = prepare({"LIMIT": Executable(payload="[8]", kind=ExecutableKind.VALUE), "double": parts["double"]})
    assert other["double"]() == 16
