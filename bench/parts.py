"""The parts of the benchmark. Each returns its figures, ready for JSON."""

import random
import re
import shutil
import threading
import time
from collections.abc import Callable, Collection, Iterator, Sequence
from contextlib import closing, contextmanager
from pathlib import Path
from statistics import median as middle
from statistics import quantiles
from typing import Any, TypeVar

import numpy as np
import pandas as pd
from sqlglot import exp
from sqlmesh.core.engine_adapter.postgres import PostgresEngineAdapter

from bench.contenders import Contender, Dbt, Hand, SqlMesh, prepare
from bench.derive import Mart, derive
from bench.equality import require_equal
from bench.measure import Usage, measured, median
from bench.report import Figures
from scripts import bootstrap, pipeline, server
from scripts.adapter import WarehouseAdapter
from scripts.contract import TABLES
from scripts.errors import Exit, WarehouseError
from scripts.generate import generate
from scripts.load import load
from scripts.settings import connect, settings

T = TypeVar("T")

LANDING = ", ".join(f"landing.{table}" for table in (*TABLES, "files", "rejects", "batches"))
QUERIES = Path(__file__).parent / "queries.sql"
CLIENTS = 4
FRAME_ROWS, STOCK_ROWS = 1_000_000, 20_000
GROWTH_YEARS = (2, 20)  # of as many orders a day; corrections reach two years back
GROWN = 12


class Home:
    """A server of its own under `root`, with nothing in it but roles and empty landing tables."""

    def __init__(self, use: Callable[[Path], None], root: Path) -> None:
        self.root = root
        root.mkdir()
        root.chmod(0o711)  # the server may run under another account
        use(root / "home")
        server.up()
        bootstrap.apply()
        self.admin = connect(settings().admin, "warehouse")
        self.admin.autocommit = True
        # Vacuum and statistics are the benchmark's to time: in one's turn they would pay for another's work.
        self.ask("ALTER SYSTEM SET autovacuum = off")
        self.ask("SELECT pg_reload_conf()")

    def close(self) -> None:
        """Stop the server and delete everything."""
        self.admin.close()
        server.down()
        shutil.rmtree(self.root, ignore_errors=True)

    def ask(self, query: str, *values: object) -> list[tuple[Any, ...]]:
        """The rows that a statement of the administrator returns."""
        with self.admin.cursor() as cursor:
            cursor.execute(query, values or None)
            return cursor.fetchall() if cursor.description else []

    def now(self) -> str:
        """The server's clock, as ISO."""
        return str(self.ask("SELECT to_json(clock_timestamp())")[0][0])

    def take(self, drop: Path) -> None:
        """Load a drop folder, and leave the tables as autovacuum would."""
        load_all(drop)
        self.ask(f"VACUUM (ANALYZE) {', '.join(f'landing.{table}' for table in TABLES)}")


def load_all(drop: Path) -> None:
    """Load a drop folder. Raises WarehouseError when nothing is new in it, or a row of it is not good."""
    result = load(drop)
    if result.refused or not any(file.loaded for file in result.files) or any(file.rejected for file in result.files):
        result.print_summary()
        raise WarehouseError(f"{drop.name} was not loaded whole", "see above", Exit.INPUT_REFUSED)


def drops(root: Path, orders: int, days: int, span: int = 730) -> list[Path]:
    """Generated data under `root` as a drop folder for the history, and one for each day after it."""
    generate(root / "data", orders, days=days, span=span, growth=0.0)
    made = []
    for batch in sorted(path for path in (root / "data").iterdir() if path.is_dir()):
        made.append(root / f"drop-{batch.name}")
        made[-1].mkdir()
        batch.rename(made[-1] / batch.name)
    return made


@contextmanager
def home(use: Callable[[Path], None], root: Path) -> Iterator[Home]:
    """A server for the time being."""
    made = Home(use, root)
    try:
        yield made
    finally:
        made.close()


class Bench:
    """The parts that share one server and one history, in the order in which they are asked for."""

    def __init__(
        self, server: Home, orders: int, rounds: int, say: Callable[[str], None], left_out: Collection[str] = ()
    ) -> None:
        self.server, self.rounds, self.say, self.left_out = server, rounds, say, left_out
        say(f"generating {orders:,} orders")
        self.history, *self.days = drops(server.root, orders, rounds)
        self.orders = orders
        self.is_loaded = False
        self.marts: list[Mart] = []
        self.contenders: list[Contender] = []
        self.built_until = ""

    # ---- load -------------------------------------------------------------------------------------------------------

    def load(self) -> Figures:
        """Our load of the history beside COPY of the same rows into the same tables."""
        rows = self.server.root / "rows"
        rows.mkdir()

        def ours() -> None:
            load_all(self.history)

        def copy() -> None:
            with closing(connect("loader")) as session, session, session.cursor() as cursor:
                for table in TABLES:
                    with (rows / table).open("rb") as file:
                        cursor.copy_expert(f"COPY landing.{table} FROM STDIN (FORMAT csv)", file, 1 << 20)

        ours()  # warms up, and makes the rows to copy
        for table in TABLES:
            with (rows / table).open("wb") as file, self.server.admin.cursor() as cursor:
                cursor.copy_expert(f"COPY landing.{table} TO STDOUT (FORMAT csv)", file, 1 << 20)
        count = sum(self.server.ask(f"SELECT COUNT(*) FROM landing.{table}")[0][0] for table in TABLES)
        usages: dict[str, list[Usage]] = {"copy": [], "load": []}
        for number in range(self.rounds):
            for name, work in self._turn([("copy", copy), ("load", ours)], number):
                self.server.ask(f"TRUNCATE {LANDING}")
                usages[name].append(self._timed(f"load {number + 1}/{self.rounds}: {name}", work))
        shutil.rmtree(rows)
        self.server.ask(f"TRUNCATE {LANDING}")
        return {
            "rows": count,
            **{name: median(rounds).as_json() for name, rounds in usages.items()},
            "rounds": {name: [usage.as_json() for usage in rounds] for name, rounds in usages.items()},
        }

    def _timed(self, what: str, work: Callable[[], object]) -> Usage:
        usage = measured(self.server.admin, work)
        self.say(f"{what}: {usage.wall:.1f} s, CPU {usage.cpu:.1f} s")
        return usage

    @staticmethod
    def _turn(items: Sequence[T], number: int) -> list[T]:
        """The items, beginning with another one in each round."""
        number %= len(items)
        return [*items[number:], *items[:number]]

    # ---- build ------------------------------------------------------------------------------------------------------

    def build(self, rounds: int | None = None) -> Figures:
        """The first build of all models by each contender."""
        rounds = rounds or self.rounds
        self._enter()
        usages: dict[str, list[Usage]] = {contender.name: [] for contender in self.contenders}
        shares = []
        for number in range(rounds):
            for contender in self._turn(self.contenders, number):
                contender.reset()
                until = self.built_until = self.server.now()
                self.server.ask("SELECT pg_stat_statements_reset()")
                what = f"build {number + 1}/{rounds}: {contender.name}"
                usages[contender.name].append(self._timed(what, lambda c=contender, u=until: c.build(u)))  # type: ignore[misc]
                if contender.name == SqlMesh.name:
                    shares.append(self._audit_share())
            if not number:
                require_equal(self.server.admin, self.marts, self.contenders, "the first build")
        notes = ["seeds are loaded for the other contenders in advance; SQLMesh's figures hold its own"]
        if rounds < self.rounds:
            notes.append(f"{rounds} round(s) only, because the history is large")
        return {"audit_share": round(middle(shares), 4), "notes": notes, **self._figures(usages)}

    def _enter(self) -> None:
        """Load the history and make the contenders, once."""
        if self.is_loaded:
            return
        self.say("loading the history")
        self.server.take(self.history)
        context = pipeline.context()
        self.marts = derive(context)
        prepare(self.server.admin, context)
        work = self.server.root
        contenders: list[Contender] = [
            SqlMesh(),
            Hand(self.marts, work),
            Dbt("build", self.marts, work),
            Dbt("run", self.marts, work),
        ]
        self.contenders = [contender for contender in contenders if contender.name not in self.left_out]
        context.close()
        self.is_loaded = True

    def _audit_share(self) -> float:
        """The audits' share of the time that the server spent on statements of SQLMesh."""
        rows = self.server.ask(f"SELECT query, total_exec_time {OURS}")
        audits = float(sum(seconds for query, seconds in rows if is_audit(query)))
        return audits / float(sum(seconds for _, seconds in rows))

    @staticmethod
    def _figures(usages: dict[str, list[Usage]]) -> Figures:
        return {
            "contenders": {name: median(rounds).as_json() for name, rounds in usages.items()},
            "rounds": {name: [usage.as_json() for usage in rounds] for name, rounds in usages.items()},
        }

    # ---- day --------------------------------------------------------------------------------------------------------

    def day(self) -> Figures:
        """One day's increment by each contender, a day a round."""
        if not self.built_until:
            self.build(rounds=1)
        self.server.ask("VACUUM (ANALYZE)")
        usages: dict[str, list[Usage]] = {contender.name: [] for contender in self.contenders}
        for number, drop in enumerate(self.days):
            since = self.built_until
            self.server.take(drop)
            until = self.built_until = self.server.now()
            for contender in self._turn(self.contenders, number):
                what = f"day {number + 1}/{len(self.days)}: {contender.name}"
                usages[contender.name].append(
                    self._timed(what, lambda c=contender, s=since, u=until: c.day(s, u))  # type: ignore[misc]
                )
            require_equal(self.server.admin, self.marts, self.contenders, drop.name.replace("drop-", "day "))
        notes = ["dbt gets a pre-hook that deletes the rows of touched keys: delete+insert alone keeps emptied keys"]
        return {"notes": notes, **self._figures(usages)}

    # ---- dataframe --------------------------------------------------------------------------------------------------

    def dataframe(self) -> Figures:
        """A frame of seven columns through our adapter and SQLMesh's own, beside COPY of the same rows."""
        rows = min(FRAME_ROWS, self.orders)
        stock_rows = min(STOCK_ROWS, rows // 10)
        frame, types = frame_of(rows), FRAME_TYPES
        lines = self.server.root / "frame.csv"
        frame.to_csv(lines, index=False, header=False)
        columns = ", ".join(f"{name} {dtype.sql('postgres')}" for name, dtype in types.items())
        table = "bench_frame.rows"

        def through(kind: Any, some: pd.DataFrame) -> None:
            adapter = kind(lambda: connect("sqlmesh_user"))
            adapter.replace_query(table, some, target_columns_to_types=types)
            adapter.close()

        def copy() -> None:
            with closing(connect("sqlmesh_user")) as session, session, session.cursor() as cursor:
                cursor.execute(f"CREATE TABLE {table} ({columns})")
                with lines.open("rb") as file:
                    cursor.copy_expert(f"COPY {table} FROM STDIN (FORMAT csv)", file, 1 << 20)

        def ours() -> None:
            through(WarehouseAdapter, frame)

        def stock() -> None:
            through(PostgresEngineAdapter, frame.head(stock_rows))

        self.server.ask("CREATE SCHEMA IF NOT EXISTS bench_frame AUTHORIZATION sqlmesh_user")
        usages: dict[str, list[Usage]] = {"copy": [], "ours": [], "stock": []}
        for number in range(self.rounds):
            works = self._turn([("copy", copy), ("ours", ours)], number)
            for name, work in [*works, *([] if number else [("stock", stock)])]:
                self.server.ask(f"DROP TABLE IF EXISTS {table}")
                usages[name].append(self._timed(f"dataframe {number + 1}/{self.rounds}: {name}", work))
        self.server.ask("DROP SCHEMA bench_frame CASCADE")
        per_row = usages["stock"][0].wall / stock_rows
        times = per_row * rows / median(usages["ours"]).wall
        return {
            "rows": rows,
            "stock_rows": stock_rows,
            "ours_vs_stock": round(times, 1),
            "notes": [
                f"stock SQLMesh wrote {stock_rows:,} of {rows:,} rows, once; per row ours is {times:,.0f} times as fast"
            ],
            **{name: median(rounds).as_json() for name, rounds in usages.items()},
        }

    # ---- queries ----------------------------------------------------------------------------------------------------

    def queries(self, repeats: int = 20) -> Figures:
        """Analysts' queries, each client in an order of its own, all of them `repeats` times."""
        self._enter()
        if not self.built_until:
            SqlMesh().build("")
        self.server.ask("VACUUM (ANALYZE)")
        customer = self.server.ask("SELECT customer_id FROM marts.customer_lifetime ORDER BY orders DESC, 1 LIMIT 1")[
            0
        ][0]
        values = {"customer_id": customer}
        texts = named_queries()
        times: dict[str, list[float]] = {name: [] for name in texts}

        def client(number: int) -> None:
            order = list(texts) * repeats
            random.Random(number).shuffle(order)  # noqa: S311
            with closing(connect("analyst")) as session:
                session.autocommit = True
                for name in order:
                    with session.cursor() as cursor:
                        started = time.perf_counter()
                        cursor.execute(texts[name], values)
                        cursor.fetchall()
                        times[name].append((time.perf_counter() - started) * 1000)

        threads = [threading.Thread(target=client, args=[number]) for number in range(CLIENTS)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        found = {}
        with closing(connect("analyst")) as session, session.cursor() as cursor:
            for name, text in texts.items():
                cursor.execute(text, values)
                rows = len(cursor.fetchall())
                cursor.execute(f"EXPLAIN (FORMAT JSON) {text}", values)
                nodes = list(_plan_nodes((cursor.fetchone() or [[]])[0][0]["Plan"]))
                found[name] = {
                    "p50_ms": round(middle(times[name]), 2),
                    "p95_ms": round(quantiles(times[name], n=20)[-1], 2),
                    "rows": rows,
                    "indexes": sorted({_unversioned(node["Index Name"]) for node in nodes if "Index Name" in node}),
                    "scanned": sorted(
                        {_unversioned(n["Relation Name"]) for n in nodes if n["Node Type"] == "Seq Scan"}
                    ),
                }
        return {"clients": CLIENTS, "samples": CLIENTS * repeats, "queries": found}


OURS = """
FROM pg_stat_statements
JOIN pg_roles ON pg_roles.oid = userid
JOIN pg_database ON pg_database.oid = dbid
WHERE rolname = 'sqlmesh_user' AND datname = 'warehouse'
"""


COMMENT = re.compile(r"^\s*/\*.*?\*/\s*", re.DOTALL)
"""What SQLMesh writes before every statement: the id of its run."""


def is_audit(query: str) -> bool:
    """Whether a statement is an audit: SQLMesh counts the rows of a subquery of that name."""
    text = COMMENT.sub("", query)
    return bool(re.fullmatch(r'SELECT COUNT\(\*\) FROM \(.*\) AS "?audit"?\s*', text, re.DOTALL | re.IGNORECASE))


def _unversioned(name: str) -> str:
    """A physical table or index by the model's name."""
    return re.sub(r"__\d+(_[0-9a-f]{8})?$", "", name)


def named_queries() -> dict[str, str]:
    """The queries of queries.sql by name."""
    _, *parts = re.split(r"^-- name: (.+)$", QUERIES.read_text(), flags=re.MULTILINE)
    return {name: text.strip().rstrip(";") for name, text in zip(parts[::2], parts[1::2], strict=True)}


def _plan_nodes(plan: dict[str, Any]) -> Iterator[dict[str, Any]]:
    yield plan
    for child in plan.get("Plans", []):
        yield from _plan_nodes(child)


FRAME_TYPES = {
    name: exp.DataType.build(dtype, dialect="postgres")
    for name, dtype in {
        "customer_id": "TEXT",
        "segment": "TEXT",
        "orders": "BIGINT",
        "net_revenue": "DECIMAL(18, 4)",
        "score": "DOUBLE PRECISION",
        "first_order_date": "DATE",
        "scored_at": "TIMESTAMPTZ",
    }.items()
}


def frame_of(rows: int) -> pd.DataFrame:
    """A frame such as a Python model returns."""
    draw = np.random.default_rng(7)
    days = pd.to_datetime("2024-09-01") + pd.to_timedelta(draw.integers(0, 730, rows), unit="D")
    return pd.DataFrame(
        {
            "customer_id": [f"C{number:08}" for number in range(rows)],
            "segment": draw.choice(["high_value", "medium_value", "low_value"], rows),
            "orders": draw.integers(1, 60, rows),
            "net_revenue": [f"{cents // 100}.{cents % 100:02}" for cents in draw.integers(0, 1_000_000, rows)],
            "score": draw.random(rows),
            "first_order_date": days.date,
            "scored_at": days.tz_localize("UTC") + pd.to_timedelta(draw.integers(0, 86_400, rows), unit="s"),
        }
    )


def growth(use: Callable[[Path], None], root: Path, orders: int, say: Callable[[str], None]) -> Figures:
    """What a day's run touches after two years, and after twenty years of as many orders a day."""
    touched: dict[str, dict[str, int]] = {}
    texts: dict[str, str] = {}
    figures: Figures = {}
    for name, years in zip(("small", "large"), GROWTH_YEARS, strict=True):
        history = orders * years // GROWTH_YEARS[1]
        with home(use, root / name) as at:
            say(f"growth: {history:,} orders in {years} years")
            before, day = drops(at.root, history, 1, span=365 * years)
            at.take(before)
            ours = SqlMesh()
            ours.build("")
            at.ask("VACUUM (ANALYZE)")
            at.take(day)
            at.ask("SELECT pg_stat_statements_reset()")
            usage = measured(at.admin, lambda ours=ours: ours.day("", ""))  # type: ignore[misc]
            rows = at.ask(f"SELECT query, SUM(shared_blks_hit + shared_blks_read)::BIGINT {OURS} GROUP BY query")
            touched[name] = {}
            for query, buffers in rows:
                key = statement(query)
                touched[name][key] = touched[name].get(key, 0) + buffers
                texts[key] = COMMENT.sub("", query)
            day_orders = sum(1 for _ in next(day.glob("*/orders.csv")).open()) - 1
            figures[name] = usage.as_json() | {
                "buffers": sum(touched[name].values()),
                "orders": history,
                "day_orders": day_orders,
            }
            say(f"growth: {figures[name]['buffers']:,} buffers for a day of {day_orders:,} versions of orders")
    grown = sorted(touched["large"], key=lambda key: touched["small"].get(key, 0) - touched["large"][key])
    figures["grown"] = [
        {
            "statement": key,
            "small": touched["small"].get(key, 0),
            "large": touched["large"][key],
            "query": texts[key],
        }
        for key in grown[:GROWN]
    ]
    return figures


def statement(query: str) -> str:
    """A statement in a few words that are the same on every server: what it is, of which model, its first words."""
    text = re.sub(r"\s+", " ", COMMENT.sub("", query))
    text = re.sub(r"__temp_\w+", "__temp", text)
    tables = re.findall(r'"analytics_\w+"\."(\w+?)__(?:\d+|temp)\w*"', text)
    kind = "AUDIT" if is_audit(query) else " ".join(text.split(" ")[:2])
    return f"{kind} {tables[0]} ({len(text)} characters)" if tables else text[:120]
