"""Whether the contenders have the same rows in every table: no figure is worth anything otherwise."""

from collections.abc import Sequence
from typing import NamedTuple, Protocol

from psycopg2.extensions import connection

from bench.derive import Mart
from scripts.errors import Exit, WarehouseError


class Rows(NamedTuple):
    """How many rows, and the sum of their hashes: equal for equal rows, in whatever order."""

    number: int
    checksum: int


class Named(Protocol):
    """A contender, as far as it is needed here."""

    name: str

    def table(self, name: str) -> str: ...


def rows_of(admin: connection, mart: Mart, relation: str) -> Rows:
    """What a table holds, its columns cast to the model's types: 1.5 and 1.5000 are one number."""
    columns = ", ".join(f'CAST("{name}" AS {dtype.sql("postgres")})' for name, dtype in mart.types.items())
    with admin.cursor() as cursor:
        cursor.execute(
            f"SELECT COUNT(*), COALESCE(SUM(hashtextextended(ROW({columns})::TEXT, 0)), 0)::TEXT FROM {relation}"
        )
        count, checksum = cursor.fetchone() or (0, "0")
    return Rows(count, int(checksum))


def require_equal(admin: connection, marts: list[Mart], contenders: Sequence[Named], when: str) -> None:
    """Raises WarehouseError naming each table in which two contenders differ after `when`, or that all have empty."""
    differing = []
    for mart in marts:
        if mart.kind in ("full", "incremental"):
            found = {contender.name: rows_of(admin, mart, contender.table(mart.name)) for contender in contenders}
            if len(set(found.values())) > 1 or not any(rows.number for rows in found.values()):
                counts = ", ".join(f"{name} {rows.number:,} rows" for name, rows in found.items())
                differing.append(f"{mart.name} ({counts})")
    if differing:
        raise WarehouseError(
            f"after {when} the contenders differ, or have nothing, in: {'; '.join(differing)}",
            "no figure is reported: correct bench/ or the model first",
            Exit.DATA_QUALITY,
        )
