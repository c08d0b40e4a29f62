"""One row per score: the least values that get it, so that customers are scored without looking at all the others."""

from datetime import datetime
from typing import Any

import pandas as pd
from sqlglot import exp
from sqlmesh import ExecutionContext, model

SCORES = 5


@model(
    "ml.score_bounds",
    kind="FULL",
    owner="data_science",
    tags=["ml", "customers"],
    grain="score",
    description=(
        "One row per score from 1 to 5, where anybody has a counted order. Answers: from which value on does a "
        "customer get a score for recency, frequency or money? Excludes guests, and customers without a counted order."
    ),
    columns={"score": "INT", "last_order_date": "DATE", "orders": "BIGINT", "net_revenue": "DECIMAL(18, 4)"},
    column_descriptions={
        "score": "1 to 5, 5 the best fifth.",
        "last_order_date": "First local day of the last counted order that gets this recency_score.",
        "orders": "Least number of counted orders that gets this frequency_score.",
        "net_revenue": "Least net_revenue that gets this monetary_score, in the reporting currency.",
    },
    depends_on=["marts.customer_lifetime"],
    audits=[("grain_is_unique", {"columns": exp.column("score")})],
    post_statements=["@create_index(score, unique := TRUE)"],
)
def execute(
    context: ExecutionContext, start: datetime, end: datetime, execution_time: datetime, **kwargs: Any
) -> pd.DataFrame:
    """Columns as declared above; a row per score, or none where nobody has ordered.

    A score is ceil(5 * cume_dist()). Of n customers in ascending order those below place floor(k * n / 5) + 1 are at
    most k fifths, so the value there is the least with score k + 1. Money crosses as text: no amount is ever a float.
    """
    lifetimes = context.resolve_table("marts.customer_lifetime")

    # one pass over the table, without sorting it; whole numbers stay such beside the NULLs of the other sets
    counted = context.fetchdf(
        f"""
        SELECT last_order_date, orders, whole, COUNT(*) AS customers
        FROM (
            SELECT last_order_date, orders, CAST(FLOOR(net_revenue) AS BIGINT) AS whole
            FROM {lifetimes}
            WHERE orders > 0
        ) AS lifetimes
        GROUP BY GROUPING SETS ((last_order_date), (orders), (whole))
        """
    ).convert_dtypes()
    if counted.empty:
        return pd.DataFrame(columns=["score", "last_order_date", "orders", "net_revenue"])

    def counts(value: str) -> "pd.Series[int]":
        """How many customers have each value, in ascending order."""
        return counted.dropna(subset=[value]).set_index(value)["customers"].astype("int64").sort_index()

    revenues = []
    for whole, place in at_places(counts("whole")):
        found = context.fetchdf(
            f"""
            SELECT CAST(net_revenue AS TEXT) AS net_revenue
            FROM {lifetimes}
            WHERE orders > 0 AND net_revenue >= {whole} AND net_revenue < {whole + 1}
            ORDER BY {lifetimes}.net_revenue
            OFFSET {place - 1}
            LIMIT 1
            """
        )
        revenues.append(found["net_revenue"][0])
    return pd.DataFrame(
        {
            "score": range(1, SCORES + 1),
            "last_order_date": [day for day, _ in at_places(counts("last_order_date"))],
            "orders": [number for number, _ in at_places(counts("orders"))],
            "net_revenue": revenues,
        }
    )


def at_places(counts: "pd.Series[int]") -> list[tuple[Any, int]]:
    """For each score the value where it begins, and the place among the customers with that value, from 1.

    `counts`: customers by value, in ascending order of the values.
    """
    up_to = counts.cumsum()
    firsts = [below * int(up_to.iloc[-1]) // SCORES + 1 for below in range(SCORES)]
    at = [int(up_to.searchsorted(first)) for first in firsts]
    return [(counts.index[i], first - int(up_to.iloc[i] - counts.iloc[i])) for i, first in zip(at, firsts, strict=True)]
