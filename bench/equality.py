"""Whether the contenders have the same rows and indexes in every table: no figure is worth anything otherwise."""

from collections.abc import Sequence
from typing import NamedTuple, Protocol

from psycopg2.extensions import connection

from bench.derive import Index, Mart
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


def indexes_of(admin: connection, relation: str) -> set[Index]:
    """The indexes of a table, or of the table that a view shows."""
    with admin.cursor() as cursor:
        cursor.execute(
            """
            SELECT
              (
                SELECT ARRAY_AGG(attname::TEXT ORDER BY position)
                FROM UNNEST(indkey::INT[]) WITH ORDINALITY AS keys (number, position)
                JOIN pg_attribute ON attrelid = indrelid AND attnum = number
              ),
              indisunique
            FROM pg_index
            WHERE indrelid = %(relation)s::REGCLASS OR indrelid IN (
              SELECT refobjid
              FROM pg_depend
              JOIN pg_rewrite ON pg_rewrite.oid = objid
              WHERE ev_class = %(relation)s::REGCLASS AND refclassid = 'pg_class'::REGCLASS
            )
            """,
            {"relation": relation},
        )
        return {Index(tuple(columns), unique) for columns, unique in cursor.fetchall()}


def require_equal(admin: connection, marts: list[Mart], contenders: Sequence[Named], when: str) -> None:
    """Raises WarehouseError naming each table in which two contenders differ after `when`, or if every one is empty.

    Where only the indexes differ, it names them, too.
    """
    differing = []
    total = 0
    for mart in marts:
        if mart.kind in ("full", "incremental"):
            found = {contender.name: rows_of(admin, mart, contender.table(mart.name)) for contender in contenders}
            total += sum(rows.number for rows in found.values())
            if len(set(found.values())) > 1:
                counts = ", ".join(f"{name} {rows.number:,} rows" for name, rows in found.items())
                differing.append(f"{mart.name} ({counts})")
            for contender in contenders:
                if indexes_of(admin, contender.table(mart.name)) != set(mart.indexes):
                    differing.append(f"{mart.name} (the indexes of {contender.name} are not those of the model)")
    if not total:
        raise WarehouseError(f"after {when} every table is empty", "there is nothing to compare", Exit.DATA_QUALITY)
    if differing:
        raise WarehouseError(
            f"after {when} the contenders differ in: {'; '.join(differing)}",
            "no figure is reported: correct bench/ or the model first",
            Exit.DATA_QUALITY,
        )
