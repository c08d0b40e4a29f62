"""How fresh is what is loaded, and do the marts have it? The thresholds are in config/freshness.yaml."""

import re
from contextlib import closing
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from functools import cache
from typing import Annotated, Any, Literal

from psycopg2.extensions import connection, cursor
from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, ValidationError, model_validator
from ruamel.yaml import YAML
from ruamel.yaml.error import YAMLError

from scripts.contract import TABLES
from scripts.errors import Exit, WarehouseError, plain_name
from scripts.settings import ROOT, connect

FILE = ROOT / "config" / "freshness.yaml"
DEFAULT = "default"
Level = Literal["warn", "error"]


@dataclass(frozen=True)
class Finding:
    """Something older than its threshold: a landing table or a model, who owns it, and what to do."""

    subject: str
    level: Level
    what: str
    hint: str
    owner: str = "operator"


def _age(text: object) -> timedelta:
    found = re.fullmatch(r"(\d{1,4})([hd])", str(text))
    if not found:
        raise ValueError("not a number of hours or days, such as 26h or 3d")
    return timedelta(hours=int(found[1])) if found[2] == "h" else timedelta(days=int(found[1]))


Age = Annotated[timedelta, BeforeValidator(_age)]


class Limits(BaseModel):
    """Ages from which something is told, and from which it is a failure."""

    model_config = ConfigDict(extra="forbid")
    warn: Age | None = None
    error: Age | None = None

    @model_validator(mode="after")
    def _in_order(self) -> "Limits":
        if self.warn and self.error and self.warn > self.error:
            raise ValueError("warn is longer than error")
        return self

    def strictest_first(self) -> list[tuple[Level, timedelta]]:
        """The thresholds that are set, error before warn."""
        both: list[tuple[Level, timedelta | None]] = [("error", self.error), ("warn", self.warn)]
        return [(level, age) for level, age in both if age is not None]


class Thresholds(BaseModel):
    """What config/freshness.yaml says."""

    model_config = ConfigDict(extra="forbid")
    landing: dict[Literal[tuple(TABLES)], Limits] = Field(default_factory=dict)  # type: ignore[valid-type]
    marts: dict[str, Limits] = Field(default_factory=dict)


@cache
def thresholds() -> Thresholds:
    """The thresholds. Raises WarehouseError (INPUT_REFUSED) that names each one that is wrong."""
    try:
        return Thresholds.model_validate(YAML(typ="safe").load(FILE) or {})
    except (ValidationError, YAMLError, OSError) as error:
        wrong = [str(error)]
        if isinstance(error, ValidationError):
            wrong = [
                f"{'.'.join(map(str, e['loc']))}: {e['msg'].removeprefix('Value error, ')}" for e in error.errors()
            ]
        raise WarehouseError("; ".join(wrong), f"correct {FILE.relative_to(ROOT)}", Exit.INPUT_REFUSED) from None


def check(session: connection | None = None) -> list[Finding]:
    """What is older than its threshold, errors first; asked over `session` of sqlmesh_user, or one of its own.

    Raises WarehouseError when the server does not answer or config/freshness.yaml is wrong.
    """
    if session is None:
        with closing(connect("sqlmesh_user")) as own:
            return check(own)
    limits = thresholds()
    with session.cursor() as cursor:
        found = [_of_landing(cursor, table, limit) for table, limit in limits.landing.items()]
        found += _of_models(session, limits.marts)
    return sorted((finding for finding in found if finding), key=lambda finding: finding.level)


def _of_landing(cursor: cursor, table: str, limit: Limits) -> Finding | None:
    for level, age in limit.strictest_first():
        cursor.execute(f"SELECT EXISTS (SELECT FROM landing.{table} WHERE _loaded_at >= CLOCK_TIMESTAMP() - %s)", [age])
        if not _value(cursor):
            what = f"no row was loaded for more than {_text(age)}"
            return Finding(f"landing.{table}", level, what, "see that its files come, and that they are not refused")
    return None


def first_landed(session: connection, since: datetime) -> datetime | None:
    """When the first row was loaded, at or after a moment; None where none was."""
    oldest = ", ".join(
        f"(SELECT MIN(_loaded_at) FROM landing.{table} WHERE _loaded_at >= %(since)s)" for table in TABLES
    )
    with session.cursor() as cursor:
        cursor.execute(f"SELECT LEAST({oldest})", {"since": since})
        found: datetime | None = _value(cursor)
    return found


def _of_models(session: connection, limits: dict[str, Limits]) -> list[Finding]:
    """Every run looks at every model: what landed after the last of its intervals is not in it."""
    ages: dict[datetime, timedelta] = {}
    found = []
    with session.cursor() as cursor:
        cursor.execute("SELECT CLOCK_TIMESTAMP()")
        now = _value(cursor)
    for model, owner, done_to in _models():
        limit = limits.get(model) or limits.get(DEFAULT) or Limits()
        if done_to not in ages:
            first = first_landed(session, done_to)
            ages[done_to] = now - first if first else timedelta()
        for level, age in limit.strictest_first():
            if ages[done_to] > age:
                what = f"lacks what was loaded {_text(ages[done_to])} ago"
                found.append(Finding(model, level, what, "run `make refresh`; see why the last runs failed", owner))
                break
    return found


def _models() -> list[tuple[str, str, datetime]]:
    """Models of marts and ml in prod: name, owner, and up to when they have what was loaded."""
    from scripts.pipeline import PROD, deployed, snapshots_of

    environment = deployed().state_reader.get_environment(PROD)
    if environment is None:
        return []
    return [
        (
            plain_name(snapshot.name),
            snapshot.model.owner or "operator",
            datetime.fromtimestamp(snapshot.intervals[-1][1] / 1000 if snapshot.intervals else 0, UTC),
        )
        for snapshot in snapshots_of(environment).values()
        if snapshot.is_model and plain_name(snapshot.name).startswith(("marts.", "ml."))
    ]


def _text(age: timedelta) -> str:
    hours = int(age.total_seconds() // 3600)
    return f"{hours} h" if hours < 48 else f"{hours // 24} d"


def _value(cursor: cursor) -> Any:
    row = cursor.fetchone()
    assert row
    return row[0]
