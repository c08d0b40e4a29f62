"""`make bench`: measures, prints, and writes `.warehouse/bench.json` and `.warehouse/bench.svg`."""

import os
import shutil
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Annotated

import typer

from bench import parts, report
from bench.contenders import VENV
from scripts import pipeline, server
from scripts.errors import Exit, WarehouseError
from scripts.settings import ROOT, settings

SHARED = ("load", "build", "day", "dataframe", "queries")
PARTS = (*SHARED, "growth")
OTHERS = ("hand", "dbt_build", "dbt_run")
LARGE = 10
"""From so many million orders on, a first build is measured once."""

app = typer.Typer(add_completion=False, pretty_exceptions_enable=False)


@app.command()
def bench(
    scale: Annotated[float, typer.Option(help="Million orders.")] = 1,
    rounds: Annotated[int, typer.Option(help="How often each contender has its turn.", min=1)] = 5,
    only: Annotated[str, typer.Option("--parts", help="Some of: " + ", ".join(PARTS))] = ",".join(PARTS),
    without: Annotated[str, typer.Option(help="Contenders to leave out, of: " + ", ".join(OTHERS))] = "",
) -> None:
    """Measure the warehouse beside COPY, SQL by hand and dbt, on servers of its own."""
    asked = [part for part in PARTS if part in only.split(",")]
    left_out = {name for name in without.split(",") if name}
    for what, known, unknown in (
        ("part", PARTS, set(only.split(",")) - set(PARTS)),
        ("contender to leave out", OTHERS, left_out - set(OTHERS)),
    ):
        if unknown:
            raise WarehouseError(
                f"no such {what}: {', '.join(sorted(unknown))}", f"choose of {', '.join(known)}", Exit.INPUT_REFUSED
            )
    if {"build", "day"} & set(asked) and not (VENV / "bin" / "dbt").exists():
        raise WarehouseError("dbt is not installed", "run this as `make bench`", Exit.INPUT_REFUSED)
    root = Path(tempfile.mkdtemp(prefix="warehouse-bench-", dir="/var/tmp"))
    root.chmod(0o711)
    orders = round(scale * 1_000_000)
    started = time.monotonic()

    def say(line: str) -> None:
        print(f"{time.monotonic() - started:7.0f} s  {line}", file=sys.stderr, flush=True)

    result = None
    try:
        if shared := [part for part in asked if part in SHARED]:
            with parts.home(_use, root / "shared") as at:
                ours = parts.Bench(at, orders, rounds, say, left_out)
                for part in shared:
                    once = {"rounds": 1} if part == "build" and scale >= LARGE else {}
                    result = report.save(scale, part, getattr(ours, part)(**once))
        if "growth" in asked:
            result = report.save(scale, "growth", parts.growth(_use, root, orders, say))
    finally:
        shutil.rmtree(root, ignore_errors=True)
    assert result
    report.show(result)
    chart = report.RESULT.with_suffix(".svg")
    if (VENV / "bin" / "python").exists():
        subprocess.run([VENV / "bin" / "python", ROOT / "bench" / "chart.py", report.RESULT, chart], check=True)
        print(f"{report.RESULT.relative_to(ROOT)} and {chart.relative_to(ROOT)} are written")


def _use(home: Path) -> None:
    """Point this process, and what it starts, at a server."""
    os.environ |= {
        "WAREHOUSE_HOME": str(home),
        "WAREHOUSE_HOST": "",
        "WAREHOUSE_EMBEDDED": "",
        "WAREHOUSE_GATEWAY": "postgres",
        "SQLMESH_DOTENV_PATH": os.devnull,
        "REPORTING_TIMEZONE": "UTC",
        "REPORTING_CURRENCY": "USD",
    }
    settings.cache_clear()
    server._programs.cache_clear()
    pipeline.deployed.cache_clear()


def main() -> None:
    """Run it. A fault that a person can act on ends with its message and exit code, without a trace."""
    try:
        app()
    except WarehouseError as error:
        print(f"error: {error}", file=sys.stderr)
        sys.exit(error.code)


if __name__ == "__main__":
    main()
