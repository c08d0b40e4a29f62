"""SQLMesh's rendering, without three things that a run does not need; first and last were a quarter of its CPU time.

1. What is stored or audited is the query as it is written. Stock SQLMesh qualifies its names, infers types and
   simplifies it anew for every run; plans, lint and unit tests, which need that, still have it.
2. Names are normalized and quoted once. Stock SQLMesh does it again when it puts physical tables in their place.
3. A macro's source is compiled once per process. Stock SQLMesh does it for every query, every audit, and every model's
   signals, even where there are none.
"""

import functools
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import sqlmesh.core.macros as sqlmesh_macros
import sqlmesh.core.model.definition as sqlmesh_definition
from sqlmesh.core.macros import RuntimeStage
from sqlmesh.core.renderer import BaseExpressionRenderer, QueryRenderer

_AS_WRITTEN = {RuntimeStage.CREATING, RuntimeStage.EVALUATING, RuntimeStage.AUDITING}


@contextmanager
def _off(renderer: BaseExpressionRenderer, flag: str) -> Iterator[None]:
    was = getattr(renderer, flag)
    setattr(renderer, flag, False)
    try:
        yield
    finally:
        setattr(renderer, flag, was)


def _render(original: Callable[..., Any]) -> Callable[..., Any]:
    @functools.wraps(original)
    def render(self: QueryRenderer, *args: Any, **kwargs: Any) -> Any:
        if kwargs.get("runtime_stage") not in _AS_WRITTEN:
            return original(self, *args, **kwargs)
        with _off(self, "_optimize_query_flag"):
            return original(self, *args, **kwargs)

    return render


def _resolve_tables(original: Callable[..., Any]) -> Callable[..., Any]:
    @functools.wraps(original)
    def resolve_tables(self: BaseExpressionRenderer, expression: Any, **kwargs: Any) -> Any:
        if kwargs.get("runtime_stage") not in _AS_WRITTEN or "expand" not in kwargs:  # a macro asks without
            return original(self, expression, **kwargs)
        with _off(self, "_normalize_identifiers"):
            return original(self, expression, **kwargs)

    return resolve_tables


def _prepare_env(original: Callable[..., Any]) -> Callable[..., Any]:
    compiled: dict[Any, dict[str, Any]] = {}

    @functools.wraps(original)
    def prepare_env(python_env: dict[str, Any], env: dict[str, Any] | None = None) -> dict[str, Any]:
        env = {} if env is None else env
        key = frozenset((name, part.kind, part.payload) for name, part in python_env.items())
        if key not in compiled:
            compiled[key] = original(python_env, {name: value for name, value in env.items() if name != "self"})
        env |= {name: value for name, value in compiled[key].items() if name not in env}
        values = {name: part for name, part in python_env.items() if part.is_value}
        original(values, env)  # of their own: SQLMesh adds to some of them
        return env

    return prepare_env


def register() -> None:
    """Make SQLMesh render so; without effect the second time."""
    if not hasattr(QueryRenderer.render, "__wrapped__"):
        QueryRenderer.render = _render(QueryRenderer.render)  # type: ignore[method-assign]
        resolve = _resolve_tables(BaseExpressionRenderer._resolve_tables)
        BaseExpressionRenderer._resolve_tables = resolve  # type: ignore[method-assign]
        prepare_env = _prepare_env(sqlmesh_macros.prepare_env)  # type: ignore[attr-defined]
        sqlmesh_macros.prepare_env = sqlmesh_definition.prepare_env = prepare_env  # type: ignore[attr-defined]
