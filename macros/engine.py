"""Which engine a macro writes for. Models never ask; macros that must, ask here."""

from sqlmesh.core.macros import MacroEvaluator


def require_engine(evaluator: MacroEvaluator, name: str, *known: str) -> str:
    """The gateway's variable `engine`, which must be one that macro `name` knows.

    SQLMesh finds the use of a variable by reading for `evaluator.var`, so the parameter keeps that name.
    """
    engine = evaluator.var("engine")
    if engine not in known:
        raise ValueError(f"@{name}: engine {engine!r} is not known; it knows {', '.join(known)}")
    return str(engine)
