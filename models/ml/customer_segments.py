"""One row per customer with a counted order: the segment by value, and RFM scores."""

from datetime import datetime
from typing import Any

import numpy as np
import pandas as pd
from sqlglot import exp
from sqlmesh import ExecutionContext, model


@model(
    "ml.customer_segments",
    kind="FULL",
    owner="data_science",
    tags=["ml", "customers"],
    grain="customer_id",
    description=(
        "One row per customer with a counted order. Answers: which customers are of high, medium or low value, and who "
        "bought recently, often and for much? Scores go from 1 to 5, 5 the best fifth, by cumulative distribution, so "
        "that equal values get equal scores. Excludes guests."
    ),
    columns={
        "customer_id": "TEXT",
        "segment": "TEXT",
        "order_days": "BIGINT",
        "orders": "BIGINT",
        "net_revenue": "DECIMAL(18, 4)",
        "recency_days": "BIGINT",
        "recency_score": "INT",
        "frequency_score": "INT",
        "monetary_score": "INT",
    },
    column_descriptions={
        "customer_id": "Customer; joins marts.dim_customers.",
        "segment": "high_value, medium_value or low_value: that of marts.customer_lifetime.",
        "order_days": "Local days with a counted order.",
        "orders": "Counted orders: what frequency_score scores.",
        "net_revenue": "Net sales less refunds (order basis), in the reporting currency: what monetary_score scores.",
        "recency_days": "Days from the last counted order to the as-of day: the fewer, the better the score.",
        "recency_score": "1 to 5.",
        "frequency_score": "1 to 5.",
        "monetary_score": "1 to 5.",
    },
    depends_on=["marts.customer_lifetime", "marts.dim_dates"],
    audits=[("grain_is_unique", {"columns": exp.column("customer_id")})],
    post_statements=["@create_index(customer_id, unique := TRUE)"],
)
def execute(
    context: ExecutionContext, start: datetime, end: datetime, execution_time: datetime, **kwargs: Any
) -> pd.DataFrame:
    """Columns as declared above; one row per customer; empty where nobody has ordered.

    Money crosses as whole ten-thousandths, so that no amount passes through a float.
    """
    lifetimes = context.resolve_table("marts.customer_lifetime")
    dates = context.resolve_table("marts.dim_dates")
    customers = context.fetchdf(
        f"""
        SELECT
          customer_id,
          segment,
          order_days,
          orders,
          CAST(net_revenue * 10000 AS BIGINT) AS net_revenue_e4,
          (SELECT MAX(date_day) FROM {dates}) - last_order_date AS recency_days
        FROM {lifetimes}
        WHERE orders > 0
        """
    )
    return scored(customers.astype(dict.fromkeys(("order_days", "orders", "net_revenue_e4", "recency_days"), "int64")))


def scored(customers: pd.DataFrame) -> pd.DataFrame:
    """The customers (segment, order_days, orders, net_revenue_e4, recency_days) with their scores."""
    revenue = customers["net_revenue_e4"]
    return pd.DataFrame(
        {
            "customer_id": customers["customer_id"],
            "segment": customers["segment"],
            "order_days": customers["order_days"],
            "orders": customers["orders"],
            "net_revenue": [money(e4) for e4 in revenue],
            "recency_days": customers["recency_days"],
            "recency_score": score(-customers["recency_days"]),
            "frequency_score": score(customers["orders"]),
            "monetary_score": score(revenue),
        }
    )


def score(values: "pd.Series[int]") -> "pd.Series[int]":
    """ceil(5 * cume_dist()) in whole numbers: rows up to and with this value, times 5, by all rows, rounded up."""
    up_to = values.rank(method="max").astype("int64")
    return pd.Series(-(-5 * up_to // np.int64(max(len(values), 1))), index=values.index, dtype="int64")


def money(ten_thousandths: int) -> str:
    """An amount as text with four decimals."""
    whole, rest = divmod(abs(ten_thousandths), 10_000)
    return f"{'-' if ten_thousandths < 0 else ''}{whole}.{rest:04d}"
