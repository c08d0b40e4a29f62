"""How fast the loader is beside a bare COPY of the same rows into the same table: `python -m scripts.bench [DROP]`.

It works on a server of its own, which it makes for the occasion and deletes. DROP holds an order_items file; without
it, the sample's is taken. Both sides start with empty tables and a checkpoint, and take turns.
"""

import os
import shutil
import statistics
import sys
import tempfile
import time
from collections.abc import Callable
from contextlib import closing
from pathlib import Path

from scripts import bootstrap, server
from scripts.load import load
from scripts.sample import write_sample
from scripts.settings import connect, settings

ROUNDS = 5


def main(drop: Path | None) -> None:
    """Measure, and print a table: seconds of each round, medians, ratio."""
    home = Path(tempfile.mkdtemp(prefix="warehouse-bench-", dir="/var/tmp"))
    home.chmod(0o711)  # the server may run under another account
    os.environ |= {"WAREHOUSE_HOME": str(home / "home"), "WAREHOUSE_HOST": "", "SQLMESH_DOTENV_PATH": os.devnull}
    settings.cache_clear()
    try:
        if drop is None:
            write_sample(home / "sample")
            drop = home / "drop"
            drop.mkdir()
            (home / "sample" / "order_items.csv").rename(drop / "order_items.csv")
        server.up()
        bootstrap.apply()
        _compare(drop, home / "rows.csv")
    finally:
        server.down()
        shutil.rmtree(home, ignore_errors=True)


def _compare(drop: Path, rows: Path) -> None:
    with closing(connect(settings().admin, "warehouse")) as admin, closing(connect("loader")) as loader:
        admin.autocommit = loader.autocommit = True

        def timed(work: Callable[[], object]) -> float:
            with admin.cursor() as cur:
                cur.execute("TRUNCATE landing.order_items, landing.files, landing.rejects, landing.batches")
                cur.execute("CHECKPOINT")
            started = time.perf_counter()
            work()
            return time.perf_counter() - started

        def copy(direction: str, mode: str) -> None:
            with rows.open(mode) as file, loader.cursor() as cur:
                cur.copy_expert(f"COPY landing.order_items {direction} (FORMAT csv)", file, 1 << 20)

        timed(lambda: load(drop))  # warms up, and makes the rows to copy
        copy("TO STDOUT", "w")
        print(f"{sum(1 for _ in rows.open()):,} rows\nround   COPY s   load s")
        copies, loads = [], []
        for number in range(1, ROUNDS + 1):
            copies.append(timed(lambda: copy("FROM STDIN", "r")))
            loads.append(timed(lambda: load(drop)))
            print(f"{number:5} {copies[-1]:8.2f} {loads[-1]:8.2f}")
        bare, ours = statistics.median(copies), statistics.median(loads)
        print(f"median{bare:8.2f} {ours:8.2f}\nthe loader has {bare / ours:.2f} of the speed of a bare COPY")


if __name__ == "__main__":
    main(Path(sys.argv[1]) if len(sys.argv) > 1 else None)
