"""One row per score: the least values that get it, so that customers are scored without looking at all the others."""

from datetime import datetime
from typing import Any

import pandas as pd
from sqlglot import exp
from sqlmesh import ExecutionContext, model

MEASURES = ("last_order_date", "orders", "net_revenue")
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
    customers = int(context.fetchdf(f"SELECT COUNT(*) AS n FROM {lifetimes} WHERE orders > 0")["n"][0])
    if not customers:
        return pd.DataFrame(columns=["score", *MEASURES])
    places = least_places(customers)
    bounds = pd.DataFrame({"score": range(1, SCORES + 1)})
    for measure in MEASURES:
        # one walk along the index of the measure; the table itself is not read
        found = context.fetchdf(
            f"""
            SELECT place, CAST(value AS TEXT) AS value
            FROM (
              SELECT {measure} AS value, ROW_NUMBER() OVER (ORDER BY {measure}) AS place
              FROM {lifetimes}
              WHERE orders > 0
            ) AS ranked
            WHERE place IN ({", ".join(map(str, places))})
            """
        )
        values = dict(zip(found["place"].astype(int), found["value"], strict=True))
        bounds[measure] = [values[place] for place in places]
    return bounds.astype({"orders": "int64"})


def least_places(customers: int) -> list[int]:
    """Of so many customers in ascending order the places, from 1, of the least with score 1, 2, 3, 4 and 5."""
    return [below * customers // SCORES + 1 for below in range(SCORES)]
