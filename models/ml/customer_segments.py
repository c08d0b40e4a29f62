"""One row per customer with a counted order: the segment by value of its order days."""

from datetime import datetime
from decimal import ROUND_HALF_UP, Decimal
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
        "One row per customer with a counted order. Answers: which customers are of high, medium or low value? "
        "high_value: average daily revenue above the variable high_value_daily_revenue and more than "
        "high_value_order_days order days; else medium_value: above medium_value_daily_revenue; else low_value. "
        "Excludes guests."
    ),
    columns={
        "customer_id": "TEXT",
        "segment": "TEXT",
        "order_days": "BIGINT",
        "net_revenue": "DECIMAL(18, 4)",
        "average_daily_revenue": "DECIMAL(18, 4)",
    },
    column_descriptions={
        "customer_id": "Customer; joins marts.dim_customers.",
        "segment": "high_value, medium_value or low_value.",
        "order_days": "Local days with a counted order.",
        "net_revenue": "Net sales less refunds (order basis), whole life, in the reporting currency.",
        "average_daily_revenue": "net_revenue divided by order_days.",
    },
    depends_on=["marts.customer_metrics"],
    audits=[("grain_is_unique", {"columns": exp.column("customer_id")})],
    post_statements=["@create_index(customer_id, unique := TRUE)"],
)
def execute(
    context: ExecutionContext, start: datetime, end: datetime, execution_time: datetime, **kwargs: Any
) -> pd.DataFrame:
    """Columns as declared above; one row per customer; empty where nobody has ordered.

    Money crosses as whole ten-thousandths, so that no amount passes through a float.
    """
    metrics = context.resolve_table("marts.customer_metrics")
    customers = context.fetchdf(
        f"""
        SELECT
          customer_id,
          SUM(CASE WHEN orders > 0 THEN 1 ELSE 0 END) AS order_days,
          CAST(SUM(net_revenue) * 10000 AS BIGINT) AS net_revenue_e4
        FROM {metrics}
        GROUP BY customer_id
        HAVING SUM(orders) > 0
        """
    ).astype({"order_days": "int64", "net_revenue_e4": "int64"})
    return segments(
        customers,
        high_revenue=int(context.var("high_value_daily_revenue") or 0),
        high_days=int(context.var("high_value_order_days") or 0),
        medium_revenue=int(context.var("medium_value_daily_revenue") or 0),
    )


def segments(customers: pd.DataFrame, high_revenue: int, high_days: int, medium_revenue: int) -> pd.DataFrame:
    """Segment of each customer (customer_id, order_days, net_revenue_e4), by the rule in the model's description.

    An average above a threshold is a total above threshold times days: whole numbers, compared exactly.
    """
    revenue, days = customers["net_revenue_e4"], customers["order_days"]
    is_high = (revenue > high_revenue * 10_000 * days) & (days > high_days)
    is_medium = revenue > medium_revenue * 10_000 * days
    return pd.DataFrame(
        {
            "customer_id": customers["customer_id"],
            "segment": np.select([is_high, is_medium], ["high_value", "medium_value"], "low_value"),
            "order_days": days,
            "net_revenue": [money(Decimal(e4)) for e4 in revenue],
            "average_daily_revenue": [money(Decimal(e4) / n) for e4, n in zip(revenue, days, strict=True)],
        }
    )


def money(ten_thousandths: Decimal) -> str:
    """An amount as text with four decimals, halves away from zero as PostgreSQL rounds."""
    return str((ten_thousandths / 10_000).quantize(Decimal("0.0001"), ROUND_HALF_UP))
