"""A picture of bench.json: `python chart.py bench.json bench.svg`. Runs in the benchmark's own environment."""

import json
import sys
from pathlib import Path

import altair as alt

TITLES = {"build": "First build of all models", "day": "One day's increment"}
NAMES = {
    "sqlmesh": "this project, with audits",
    "hand": "SQL by hand, no checks",
    "dbt_build": "dbt build, with tests",
    "dbt_run": "dbt run, no tests",
}


def draw(result: dict) -> alt.HConcatChart:  # type: ignore[type-arg]
    """CPU seconds of client and server by contender, for the first build and for a day."""
    charts = []
    for part in (part for part in TITLES if part in result["parts"]):
        values = [
            {"contender": NAMES[name], "side": side, "seconds": usage[side]}
            for name, usage in result["parts"][part]["contenders"].items()
            for side in ("client", "server")
        ]
        charts.append(
            alt.Chart(alt.Data(values=values), title=TITLES[part], width=320, height=130)
            .mark_bar()
            .encode(
                x=alt.X("sum(seconds):Q", title="CPU seconds"),
                y=alt.Y("contender:N", title=None, sort=list(NAMES.values()), axis=alt.Axis(labelLimit=220)),
                color=alt.Color("side:N", title=None, scale=alt.Scale(range=["#9db8d9", "#2f5d92"])),
            )
        )
    orders = result["scale"] * 1_000_000
    return alt.hconcat(*charts, title=f"{orders:,.0f} orders, less is better").resolve_scale(x="independent")


if __name__ == "__main__":
    found = json.loads(Path(sys.argv[1]).read_text())
    if {"build", "day"} & found["parts"].keys():
        draw(found).save(sys.argv[2])
