"""What SQLMesh must still do for a run to render what it needs and no more (scripts/renderer.py)."""

import inspect
import os
import subprocess
import sys
from typing import Any

import pytest
import sqlmesh.core.macros as sqlmesh_macros
from sqlglot import exp, parse_one
from sqlmesh.core.dialect import parse
from sqlmesh.core.macros import MacroEvaluator, RuntimeStage
from sqlmesh.core.model import SqlModel, load_sql_based_model
from sqlmesh.core.renderer import BaseExpressionRenderer, QueryRenderer
from sqlmesh.utils.metaprogramming import Executable, ExecutableKind

from scripts import renderer
from scripts.settings import ROOT


def test_the_methods_are_where_they_were() -> None:
    assert "self._optimize_query_flag" in inspect.getsource(inspect.unwrap(QueryRenderer.render))
    resolve = inspect.getsource(inspect.unwrap(BaseExpressionRenderer._resolve_tables))
    assert "with self._normalize_and_quote(expression) as expression" in resolve
    assert "if self._normalize_identifiers" in inspect.getsource(BaseExpressionRenderer._normalize_and_quote)
    assert list(inspect.signature(inspect.unwrap(sqlmesh_macros.prepare_env)).parameters) == ["python_env", "env"]  # type: ignore[attr-defined]
    assert "prepare_env(self.python_env, self.env)" in inspect.getsource(MacroEvaluator.__init__)
    assert "prepare_env(python_env)" in inspect.getsource(SqlModel.render_signal_calls)


def test_a_command_does_not_fork() -> None:
    """SQLMesh reads the setting while it is imported, so that it must stand before."""
    code = "from scripts import pipeline; from sqlmesh.core.constants import MAX_FORK_WORKERS as n; print(n)"
    environment = {name: value for name, value in os.environ.items() if name != "MAX_FORK_WORKERS"}
    command = [sys.executable, "-c", code]
    done = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, check=False)
    assert done.stdout == "1\n", done.stderr


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


@pytest.mark.parametrize("stage", RuntimeStage)
def test_physical_tables_take_the_place_of_names_however_they_are_written(
    stage: RuntimeStage, monkeypatch: pytest.MonkeyPatch
) -> None:
    """In the query, and where a macro asks for it, which has not been normalized."""
    model: Any = load_sql_based_model(
        parse("MODEL (name marts.one, dialect postgres); SELECT Here.A FROM Marts.Other AS Here"),
        default_catalog="db",
    )
    original = inspect.unwrap(BaseExpressionRenderer._resolve_tables)
    monkeypatch.setattr(BaseExpressionRenderer, "_resolve_tables", renderer._resolve_tables(original))
    mapping = {'"db"."marts"."other"': "db.physical.other__1"}
    made = model._query_renderer
    query = made.render(start="2026-03-01", table_mapping=mapping, runtime_stage=stage)
    table = query.find(exp.Table).sql("postgres", comments=False)
    assert table.replace('"', "") == "db.physical.other__1 AS here"
    assert query.selects[0].sql("postgres") == '"here"."a" AS "a"'
    asked = made._resolve_tables(
        parse_one("SELECT 1 FROM Marts.Other", dialect="postgres"), table_mapping=mapping, runtime_stage=stage
    )
    assert asked.find(exp.Table).name == "other__1"


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
