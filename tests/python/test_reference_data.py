"""The seeds that come from packages: whole, sorted, and as SQLMesh reads them."""

import csv
from pathlib import Path

import pytest
from sqlmesh.core.model.seed import CsvSettings, Seed

from scripts.reference_data import CURRENCIES, HOLIDAY_COUNTRIES, HOLIDAY_YEARS, SEEDS


def rows(name: str) -> list[list[str]]:
    with (SEEDS / f"{name}.csv").open(newline="") as file:
        return list(csv.reader(file))[1:]


@pytest.mark.parametrize(
    ("name", "key"), [("exchange_rates", 1), ("countries", 1), ("holidays", 2), ("sla_targets", 1)]
)
def test_each_key_is_there_once(name: str, key: int) -> None:
    keys = [tuple(row[:key]) for row in rows(name)]
    assert keys
    assert len(set(keys)) == len(keys)
    assert name == "sla_targets" or keys == sorted(keys)


def test_what_people_would_look_up_is_there() -> None:
    assert ["NA", "Namibia"] in rows("countries")
    assert len(rows("countries")) > 240
    days = {(country, day): name for country, day, name in rows("holidays")}
    assert days["US", "2026-07-03"] == "Independence Day (observed)"
    assert days["DE", "2030-10-03"] == "German Unity Day"
    assert {country for country, _ in days} == set(HOLIDAY_COUNTRIES)
    assert {day[:4] for _, day in days} == {str(year) for year in HOLIDAY_YEARS}
    assert ["2016-01-04", "1.0898"] in [row[:2] for row in rows("exchange_rates")]  # as the ECB published it
    assert {len(row) for row in rows("exchange_rates")} == {1 + len(CURRENCIES)}


def test_namibia_is_no_null() -> None:
    """pandas takes NA for a missing value, unless the model says otherwise."""
    model = (Path(__file__).parents[2] / "models/seeds/countries.sql").read_text()
    assert "keep_default_na = FALSE" in model
    reader = Seed(content=(SEEDS / "countries.csv").read_text()).reader(settings=CsvSettings(keep_default_na=False))
    codes = next(reader.read())["country_code"]
    assert "NA" in set(codes)
    assert not codes.isna().any()
