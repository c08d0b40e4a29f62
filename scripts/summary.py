"""What `make run` shows at its end: revenue, the segments, support, how to connect; read as an analyst reads."""

from contextlib import closing
from typing import Any

from rich.console import Console
from rich.table import Table

from scripts.settings import connect, settings

REVENUE = """
SELECT TO_CHAR(month, 'YYYY-MM'), orders, customers, net_sales, refunds, net_revenue
FROM marts.monthly_revenue
ORDER BY month
"""
TOTAL = """
SELECT 'total', SUM(orders)::BIGINT, NULL, SUM(net_sales), SUM(refunds), SUM(net_revenue)
FROM marts.daily_revenue
"""
SEGMENTS = """
SELECT segment, COUNT(*), SUM(order_days)::BIGINT, SUM(net_revenue), SUM(net_revenue) / SUM(order_days)
FROM ml.customer_segments
GROUP BY segment
ORDER BY 5 DESC
"""
SUPPORT = """
SELECT
  TO_CHAR(month, 'YYYY-MM'), tickets_created, first_reply_minutes_p50 / 60, first_reply_minutes_p90 / 60,
  100 * sla_met_rate
FROM marts.support_monthly
WHERE priority = 'all'
ORDER BY month
"""


def show() -> None:
    """Print the summary. Raises WarehouseError when the analyst cannot connect."""
    console = Console()
    currency = settings().reporting_currency
    with closing(connect("analyst")) as session, session.cursor() as cursor:
        revenue = Table(title=f"Revenue by month, {currency} ({settings().reporting_timezone})")
        for name in ("month", "orders", "customers", "net sales", "refunds", "net revenue"):
            revenue.add_column(name, justify="left" if name == "month" else "right")
        cursor.execute(REVENUE)
        months = cursor.fetchall()
        cursor.execute(TOTAL)
        for row in months:
            revenue.add_row(*map(_cell, row))
        revenue.add_section()
        revenue.add_row(*map(_cell, cursor.fetchone() or ()))
        console.print(revenue)

        segments = Table(title="Customers by segment")
        for name in ("segment", "customers", "order days", f"net revenue, {currency}", "average day"):
            segments.add_column(name, justify="left" if name == "segment" else "right")
        cursor.execute(SEGMENTS)
        for row in cursor.fetchall():
            segments.add_row(*map(_cell, row))
        console.print(segments)

        support = Table(title="Support by month (tickets of the sample are generated)")
        for name in ("month", "tickets", "first reply, median hours", "first reply, p90 hours", "in time, %"):
            support.add_column(name, justify="left" if name == "month" else "right")
        cursor.execute(SUPPORT)
        for row in cursor.fetchall():
            support.add_row(*map(_cell, row))
        console.print(support)
    host, port = settings().address
    console.print(
        "\nConnect as an analyst: [bold]make psql[/bold]"
        f"\n  or with any client: host {host}, port {port}, database warehouse, user analyst, sslmode require;"
        f"\n  the password is in {settings().passfile}",
        soft_wrap=True,
        highlight=False,
    )


def _cell(value: Any) -> str:
    """A value for people: thousands apart, money with cents."""
    if value is None:
        return ""
    if isinstance(value, str):
        return value
    return f"{value:,}" if isinstance(value, int) else f"{value:,.2f}"
