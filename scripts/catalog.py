"""What the marts are, said once in the models, for people, BI tools and agents.

From the headers of the models, SQLMesh's lineage and the worked questions of docs/analysts.md come schema `meta` of the
warehouse, docs/catalog.json (the same rows), docs/llms.txt, and the contract with analysts, contracts/marts.yaml.
"""

import io
import json
import re
import subprocess
from collections.abc import Iterable, Iterator, Sequence
from contextlib import closing
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

from psycopg2.extensions import connection
from psycopg2.extras import execute_values

from scripts.errors import Exit, WarehouseError, plain_name
from scripts.settings import ROOT, connect, settings

if TYPE_CHECKING:
    from sqlmesh.core.environment import Environment
    from sqlmesh.core.model import Model
    from sqlmesh.core.snapshot import Snapshot

PUBLISHED = ("marts", "ml")
"""The schemas that analysts read."""

PAGE = ROOT / "docs" / "analysts.md"
CONTRACT = "contracts/marts.yaml"
CHANGELOG = "CHANGELOG.md"

# Table of schema meta -> its columns; rows are tuples in this order.
TABLES = {
    "models": ("model", "owner", "tags", "grain", "description"),
    "columns": ("model", "position", "column_name", "data_type", "description"),
    "lineage": ("model", "column_name", "source_model", "source_column"),
    "relationships": ("model", "column_name", "parent_model", "parent_column"),
    "example_queries": ("number", "question", "query"),
}

_QUESTION = re.compile(r"^### (\d+)\. (.+)\n\n```sql\n((?:.+\n)+)```\n\n((?:\|.*\n)+)", re.MULTILINE)

_SUMMARY = """\
> Sales, refunds, products, customers and support of a shop, in PostgreSQL: database warehouse, schemas marts and ml,
> read-only for analysts and agents. Schema meta says the same in SQL: meta.columns the meaning, unit and NULL of every
> column, meta.example_queries questions with SQL that answers them, meta.freshness up to when what was loaded is in a
> table, meta.relationships what joins what, meta.lineage what a column is made of."""

Rows = dict[str, list[tuple[Any, ...]]]


@dataclass(frozen=True)
class Question:
    """A worked question of docs/analysts.md. `answer`: header and rows, as printed."""

    number: int
    text: str
    query: str
    answer: list[list[str]]


def questions() -> list[Question]:
    """The worked questions of docs/analysts.md, in order."""
    found = []
    for number, text, query, table in _QUESTION.findall(PAGE.read_text()):
        header, _, *rows = [
            [cell.strip() for cell in line.strip().strip("|").split("|")] for line in table.splitlines()
        ]
        found.append(Question(int(number), text, query.strip(), [header, *rows]))
    return found


def collect(models: Iterable["Model"]) -> Rows:
    """The rows of schema meta, by table, in an order that depends on nothing else."""
    rows: Rows = {name: [] for name in TABLES}
    for model in sorted(models, key=lambda model: model.name):
        if model.kind.is_external:
            continue
        rows["lineage"] += sorted(_lineage(model), key=lambda row: [value or "" for value in row])
        if model.schema_name not in PUBLISHED:
            continue
        name, types, meanings = plain_name(model.fqn), model.columns_to_types_or_raise, model.column_descriptions or {}
        grain = [column.name for grain in model.grains for column in getattr(grain, "expressions", None) or [grain]]
        rows["models"].append((name, model.owner or "", list(model.tags), grain, model.description or ""))
        rows["columns"] += [
            (name, position, column, dtype.sql("postgres"), meanings.get(column, ""))
            for position, (column, dtype) in enumerate(types.items(), 1)
        ]
        rows["relationships"] += [
            (name, arguments["column"].name, plain_name(arguments["parent"].sql()), arguments["key"].name)
            for audit, arguments in model.audits
            if audit == "foreign_key_holds" and plain_name(arguments["parent"].sql()).split(".")[0] in PUBLISHED
        ]
    rows["example_queries"] = [(one.number, one.text, one.query) for one in questions()]
    return rows


def _lineage(model: "Model") -> set[tuple[Any, ...]]:
    """Each column and what it is made of; without columns for a source that lends it none."""
    from sqlglot import exp
    from sqlmesh.core.lineage import lineage

    name = plain_name(model.fqn)
    edges: set[tuple[Any, ...]] = set()
    for column in (model.columns_to_types or {}) if model.is_sql else ():
        root = lineage(exp.to_identifier(column, quoted=True).sql(model.dialect), model, trim_selects=False)
        for node in root.walk():
            table = None if node.downstream else node.expression.find(exp.Table)
            if table is not None:
                edges.add((name, column, f"{table.db}.{table.name}", exp.to_column(node.name).name))
    lenders = {source for _, _, source, _ in edges}
    edges |= {
        (name, None, source, None) for source in {plain_name(source) for source in model.depends_on or ()} - lenders
    }
    return {edge for edge in edges if edge[2] != name}


# ---- schema meta ------------------------------------------------------------------------------------------------


def publish(environment: "Environment", snapshots: Iterable["Snapshot"]) -> None:
    """Write schema meta anew, for what is deployed in `environment`; readers see the old or the new, never a part."""
    snapshots = list(snapshots)
    rows = collect(snapshot.model for snapshot in snapshots if snapshot.is_model)
    with closing(connect("sqlmesh_user")) as session, session:
        if _is_there(session):
            write(session, rows, _instant(environment.finalized_ts))
            write_freshness(session, snapshots)


def keep_fresh(environment: "Environment", snapshots: Iterable["Snapshot"]) -> None:
    """Write how fresh each table is; and all of schema meta where plain SQLMesh has deployed since it was written."""
    snapshots = list(snapshots)
    with closing(connect("sqlmesh_user")) as session, session, session.cursor() as cursor:
        if not _is_there(session):
            return
        cursor.execute("SELECT MAX(deployed_at) FROM meta.models")
        if cursor.fetchone() == (_instant(environment.finalized_ts),):
            write_freshness(session, snapshots)
            return
    publish(environment, snapshots)


def write(session: connection, rows: Rows, deployed_at: datetime | None) -> None:
    """Replace the rows of schema meta, in the transaction of the caller."""
    with session.cursor() as cursor:
        cursor.execute("LOCK TABLE meta.models IN SHARE ROW EXCLUSIVE MODE")  # one writer at a time; readers go on
        for table, columns in TABLES.items():
            values = rows[table]
            if table == "models":
                columns, values = (*columns, "deployed_at"), [(*value, deployed_at) for value in values]
            _replace(cursor, table, columns, values)


def write_freshness(session: connection, snapshots: Iterable["Snapshot"]) -> None:
    """Replace the rows of meta.freshness, in the transaction of the caller."""
    rows = [
        (plain_name(snapshot.name), _instant(snapshot.intervals[-1][1]))
        for snapshot in snapshots
        if snapshot.is_model and snapshot.intervals and snapshot.model.schema_name in PUBLISHED
    ]
    with session.cursor() as cursor:
        cursor.execute("LOCK TABLE meta.freshness IN SHARE ROW EXCLUSIVE MODE")
        _replace(cursor, "freshness", ("model", "fresh_to"), rows)


def _replace(cursor: Any, table: str, columns: Sequence[str], rows: Sequence[tuple[Any, ...]]) -> None:
    cursor.execute(f"DELETE FROM meta.{table}")
    execute_values(cursor, f"INSERT INTO meta.{table} ({', '.join(columns)}) VALUES %s", rows, page_size=len(rows) or 1)


def _is_there(session: connection) -> bool:
    """False in a warehouse made before this schema (`make init` adds it), and of the second engine."""
    if settings().warehouse_gateway != "postgres":
        return False
    with session.cursor() as cursor:
        cursor.execute("SELECT TO_REGCLASS('meta.freshness') IS NOT NULL")
        return cursor.fetchone() == (True,)


def _instant(milliseconds: int | None) -> datetime | None:
    return None if milliseconds is None else datetime.fromtimestamp(milliseconds / 1000, UTC)


# ---- files ------------------------------------------------------------------------------------------------------


def files(rows: Rows) -> dict[str, str]:
    """The files that are made of the models: path in the project -> text."""
    return {CONTRACT: _contract(rows), "docs/catalog.json": _json(rows), "docs/llms.txt": _llms(rows)}


def _contract(rows: Rows) -> str:
    from sqlmesh.utils.yaml import YAML

    promised: dict[str, dict[str, Any]] = {
        model: {"grain": grain, "meaning": description, "columns": {}}
        for model, _, _, grain, description in rows["models"]
    }
    for model, _, column, dtype, description in rows["columns"]:
        promised[model]["columns"][column] = {"type": dtype, "meaning": description}
    yaml, text = YAML("rt"), io.StringIO()
    yaml.width = 1 << 20
    yaml.dump(promised, text)
    return (
        "# What analysts may rely on: names, types, order and meaning of every column of marts and ml.\n"
        f"# Made by `make contracts`; what breaks it needs a line in {CHANGELOG}.\n{text.getvalue()}"
    )


def _json(rows: Rows) -> str:
    """A record a line, so that a change of one column is a change of one line."""
    tables = []
    for table, columns in TABLES.items():
        records = (json.dumps(dict(zip(columns, row, strict=True)), ensure_ascii=False) for row in rows[table])
        tables.append(f'"{table}": [\n' + ",\n".join(records) + "\n]")
    return "{\n" + ",\n".join(tables) + "\n}\n"


def _llms(rows: Rows) -> str:
    page = PAGE.read_text()
    rules = page.split("## What holds everywhere\n")[1].split("\n## ")[0].strip()
    columns: dict[str, list[str]] = {}
    for model, _, column, dtype, _ in rows["columns"]:
        columns.setdefault(model, []).append(f"{column} {dtype}")
    tables = (
        f"- {model} ({', '.join(grain)}): {description} Columns: {'; '.join(columns[model])}."
        for model, _, _, grain, description in rows["models"]
    )
    joins = (f"- {model}.{column} = {parent}.{key}" for model, column, parent, key in rows["relationships"])
    return "\n".join(
        [
            "# A shop's warehouse",
            "",
            _SUMMARY,
            "",
            "## What holds everywhere",
            "",
            rules,
            "",
            "## Tables, and the columns that are unique in them",
            "",
            *tables,
            "",
            "## Joins",
            "",
            *joins,
            "",
            "## More",
            "",
            "- [Worked questions](analysts.md): SQL with its answers, and how to connect",
            "- [catalog.json](catalog.json): all rows of schema meta",
            "- [Decisions](decisions/README.md): what the numbers mean, with examples",
            "",
        ]
    )


# ---- the contract -----------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Break:
    """A change that may break what analysts built: `change` begins with removed, retyped, reordered or regrained."""

    model: str
    column: str
    change: str

    def __str__(self) -> str:
        return f"| {datetime.now(UTC):%Y-%m-%d} | {self.model} | {self.column} | {self.change} | |"


def breaks(promised: dict[str, Any], now: dict[str, Any]) -> Iterator[Break]:
    """What `now` breaks of what was promised. Both are contents of contracts/marts.yaml."""
    for model, old in promised.items():
        new = now.get(model)
        if new is None:
            yield Break(model, "-", "removed")
            continue
        if set(old["grain"]) != set(new["grain"]):
            yield Break(model, "-", f"regrained from {', '.join(old['grain'])} to {', '.join(new['grain'])}")
        for column, said in old["columns"].items():
            if column not in new["columns"]:
                yield Break(model, column, "removed")
            elif said["type"] != new["columns"][column]["type"]:
                yield Break(model, column, f"retyped from {said['type']} to {new['columns'][column]['type']}")
        kept = [column for column in old["columns"] if column in new["columns"]]
        if kept != [column for column in new["columns"] if column in old["columns"]]:
            yield Break(model, "-", "reordered")


def untold(found: Iterable[Break], changelog: str) -> list[Break]:
    """Those without a line of their own in the changelog's table of schema changes; a renaming tells a removal."""
    told = set()
    for line in changelog.splitlines():
        cells = [cell.strip().strip("`") for cell in line.strip().strip("|").split("|")]
        if len(cells) == 5 and re.match(r"\d", cells[0]) and cells[4]:
            told.add((cells[1], cells[2], cells[3].split(" ")[0].replace("renamed", "removed")))
    return [one for one in found if (one.model, one.column, one.change.split(" ")[0]) not in told]


def last_promised() -> dict[str, Any]:
    """The contract as last committed; without git, as it lies here."""
    from sqlmesh.utils.yaml import load

    command = ["git", "-C", str(ROOT), "show", f"HEAD:./{CONTRACT}"]
    try:
        text = subprocess.run(command, text=True, capture_output=True, check=True).stdout
    except (OSError, subprocess.CalledProcessError):
        path = ROOT / CONTRACT
        text = path.read_text() if path.exists() else ""
    return load(text, raise_if_empty=False, render_jinja=False)


def refuse_untold(contract: str) -> None:
    """Raise WarehouseError when the text of a contract breaks the last one, and the changelog does not say so."""
    from sqlmesh.utils.yaml import load

    found = untold(breaks(last_promised(), load(contract, render_jinja=False)), (ROOT / CHANGELOG).read_text())
    if found:
        raise WarehouseError(
            f"{len(found)} change(s) break the contract with analysts, and {CHANGELOG} does not say so",
            "\n  ".join(
                ["undo them, or add to its table, in the last cell what analysts are to do:", *map(str, found)]
            ),
            Exit.DATA_QUALITY,
        )


def write_files(models: Iterable["Model"]) -> list[Path]:
    """Bring the files up to the models; returns those that changed. Raises WarehouseError as `refuse_untold`."""
    made = files(collect(models))
    refuse_untold(made[CONTRACT])
    changed = []
    for name, text in made.items():
        path = ROOT / name
        if not path.exists() or path.read_text() != text:
            path.parent.mkdir(exist_ok=True)
            path.write_text(text)
            changed.append(path)
    return changed
