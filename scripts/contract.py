"""The landing contract as data, and the SQL that checks a file against it.

config/postgres/landing.sql creates the same tables; tests/python/test_contract.py holds the two together.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Literal

EARLIEST = "1900-01-01"
"""No timestamp lies before this day: what does is a typing error or a placeholder."""

WITHHELD = "(withheld)"
"""What stands in landing.rejects and in messages instead of a value that may be personal data."""

LONGEST = 1 << 20
"""Longest record of a CSV file, and longest text in a parquet file, in characters."""


@dataclass(frozen=True)
class Column:
    """A column: its PostgreSQL type, and what a value must keep to.

    `key` columns are required even of deleted rows. `allowed` values are compared in lower case without outer blanks,
    and landed so. A code of so many `letters` is landed in upper case. Bounds are SQL: a number or another column.
    `personal` data stay in staging, and out of what is recorded and told.
    """

    name: str
    type: Literal["text", "integer", "numeric(18,4)", "timestamp with time zone"] = "text"
    required: bool = False
    key: bool = False
    allowed: tuple[str, ...] = ()
    letters: int = 0
    above: str | None = None
    at_least: str | None = None
    at_most: str | None = None
    personal: bool = False


@dataclass(frozen=True)
class Table:
    """A landing table. `clock` is the column whose greatest value is the newest version of a key.

    `customer` is the column that names a customer, where there is one; if others are named there too, `kind` is the
    column that says `customer` then.
    """

    name: str
    columns: tuple[Column, ...]
    clock: str = "updated_at"
    customer: str | None = "customer_id"
    kind: str | None = None

    @property
    def names(self) -> list[str]:
        """Names of the contract's columns, in order, without `_deleted`."""
        return [column.name for column in self.columns]

    @property
    def version(self) -> list[str]:
        """The columns that name one version of one record: its key and its clock."""
        return [column.name for column in self.columns if column.key] + [self.clock]

    @property
    def names_customer(self) -> str:
        """SQL: whether a row names a customer."""
        return f"lower(trim({self.kind})) = 'customer'" if self.kind else "TRUE"

    @property
    def personal(self) -> list[str]:
        """The columns that hold personal data."""
        return [column.name for column in self.columns if column.personal]


def _key(name: str, type_: Literal["text", "integer"] = "text") -> Column:
    return Column(name, type_, required=True, key=True)


def _number(name: str) -> Column:
    return Column(name, "numeric(18,4)")


def _time(name: str, required: bool = True) -> Column:
    return Column(name, "timestamp with time zone", required)


TABLES = {
    table.name: table
    for table in (
        Table(
            "customers",
            (
                _key("customer_id"),
                Column("email", personal=True),
                Column("full_name", personal=True),
                Column("country_code", letters=2),
                _time("created_at", required=False),
                _time("updated_at"),
            ),
        ),
        Table(
            "products",
            (
                _key("product_id"),
                Column("product_name"),
                Column("category"),
                Column("brand"),
                _number("list_price"),
                _number("unit_cost"),
                _time("updated_at"),
            ),
            customer=None,
        ),
        Table(
            "orders",
            (
                _key("order_id"),
                Column("customer_id"),
                Column("status", required=True, allowed=("placed", "shipped", "delivered", "cancelled")),
                Column("currency", required=True, letters=3),
                _number("shipping_amount"),
                _time("ordered_at"),
                _time("updated_at"),
            ),
        ),
        Table(
            "order_items",
            (
                _key("order_id"),
                _key("line_number", "integer"),
                Column("product_id", required=True),
                Column("quantity", "numeric(18,4)", required=True, above="0"),
                Column("gross_amount", "numeric(18,4)", required=True, at_least="0"),
                Column("discount_amount", "numeric(18,4)", at_least="0", at_most="gross_amount"),
                _number("tax_amount"),
                _time("updated_at"),
            ),
            customer=None,
        ),
        Table(
            "refunds",
            (
                _key("refund_id"),
                Column("order_id"),
                Column("line_number", "integer"),
                Column("customer_id"),
                Column("product_id"),
                _number("quantity"),
                Column("amount", "numeric(18,4)", required=True, at_least="0"),
                Column("reason"),
                _time("refunded_at"),
                _time("updated_at"),
            ),
        ),
        Table(
            "tickets",
            (
                _key("ticket_id"),
                Column("customer_id"),
                Column("order_id"),
                Column("channel"),
                Column("priority"),
                Column("category"),
                Column("status", required=True, allowed=("open", "pending", "solved", "closed")),
                _time("created_at"),
                _time("updated_at"),
            ),
        ),
        # An event has no updated_at: when it occurred is its version clock too.
        Table(
            "ticket_events",
            (
                _key("event_id"),
                Column("ticket_id", required=True),
                Column(
                    "event_type",
                    required=True,
                    allowed=(
                        "created",
                        "assigned",
                        "agent_reply",
                        "customer_reply",
                        "open",
                        "pending",
                        "solved",
                        "reopened",
                        "closed",
                    ),
                ),
                Column("actor_type"),
                Column("actor_id"),
                _time("occurred_at"),
            ),
            clock="occurred_at",
            customer="actor_id",
            kind="actor_type",
        ),
    )
}

PERSONAL = tuple(column.name for table in TABLES.values() for column in table.columns if column.personal)
"""Personal data; tests/python/test_project.py sees to it that what models derive from them is called after them."""


def is_personal(name: str) -> bool:
    """Whether a column holds personal data or what was derived from them, by its name (email, email_domain)."""
    return any(personal in name.lower() for personal in PERSONAL)


# Forms of values, as regular expressions that must match the whole value. Outer blanks (spaces) are let pass.
_INTEGER = r" *[+-]?\d+(?:\.0*)? *"
_DECIMAL = r" *[+-]?\d+(?:\.\d{1,4}0*)? *"
_NUMBER = r" *[+-]?\d+(?:\.\d+)? *"
_DAY, _MINUTE = r"\d{4}-\d{2}-\d{2}", r"(?:[01]\d|2[0-3]):[0-5]\d"
_SECOND = r":[0-5]\d(?:\.\d{1,6}0*)?"
_OFFSET = r"[+-](?:0\d|1[0-5])(?::?[0-5]\d)?"
_TIMESTAMP = f" *{_DAY}(?:[T ]{_MINUTE}(?:{_SECOND})?(?:Z|{_OFFSET})?)? *"
_PLAIN_TIMESTAMP = f"{_DAY}[T ]{_MINUTE}{_SECOND}Z?"  # DuckDB casts it as it is, and faster to TIMESTAMP
_WITHOUT_SECONDS = r"^(.{10}[T ]\d\d:\d\d)(Z|[+-].*)?$"
_BLANK = r"(?:\s|\\[tnr])*"
_TELLS_NOBODY = r"(?:[0-9 .,:+/-]|[0-9][TZ])*"  # dates and numbers, right or wrong
_TRUE, _FALSE = ("true", "t", "1", "yes"), ("false", "f", "0", "no")


def stage_columns(table: Table) -> dict[str, str]:
    """The stage table's columns and their PostgreSQL types."""
    types: dict[str, str] = {column.name: column.type for column in table.columns}
    rejects = dict.fromkeys(("reject_column", "reject_value", "reject_reason"), "text")
    return types | {"_deleted": "boolean DEFAULT FALSE", "_row_number": "bigint"} | rejects


def checking_sql(table: Table, source: str, present: dict[str, str], now: datetime) -> tuple[str, list[str]]:
    """DuckDB SQL that types and checks every record of a file in one pass, and the names of the columns it returns.

    `source` is a FROM item with the columns `line`, `fault` (why the record as a whole is wrong, else NULL) and the
    values as texts in the escapes of PostgreSQL's COPY; `present` maps the columns it has to expressions over it.
    What it returns are the stage's columns without those that the file lacks: to check and to copy nothing costs, too.
    A record that breaks the contract comes back with its first column at fault in `reject_column`, or none if the
    record as a whole is wrong, and the reason. `now` is the time of the load, in UTC.
    """
    every = [column for column in (*table.columns, Column("_deleted")) if column.name in present]
    texts = ", ".join(f'{present[column.name]} AS "{column.name}"' for column in every)
    values = ", ".join(f'{_value(column)} AS "{column.name}"' for column in every)
    raws = ", ".join(f'"{column.name}" AS "raw_{column.name}"' for column in every)

    limit = now + timedelta(days=1)
    faults: list[tuple[str, str, str]] = [("", "fault IS NOT NULL", "")]
    for column in every:
        for condition, reason in _faults(column, limit):
            # a deleted row needs only its key and its clock
            if "_deleted" in present and column.name not in (*table.version, "_deleted"):
                condition = f"{condition} AND NOT coalesce(_deleted, FALSE)"
            faults.append((column.name, condition, reason))

    code = " ".join(f"WHEN {condition} THEN {number}" for number, (_, condition, _) in enumerate(faults))
    rest = list(enumerate(faults))[1:]
    column_name = " ".join(f"WHEN {number} THEN {_text(name)}" for number, (name, _, _) in rest)
    value = " ".join(f'WHEN {number} THEN "raw_{name}"' for number, (name, _, _) in rest)
    reason = " ".join(f"WHEN {number} THEN {_text(why)}" for number, (_, _, why) in rest)
    excerpt = f"left(CASE code WHEN 0 THEN excerpt {value} END, 200)"
    whole = rf"regexp_replace({excerpt}, '^((?:[^\\]|\\.)*)\\$', '\1')"  # the cut may leave half an escape
    # A row that lacks a value puts an address into any column, and other tables' files get it by mistake.
    tells_nobody = f"regexp_full_match({whole}, '{_TELLS_NOBODY}')" if table.personal else f"NOT contains({whole}, '@')"
    returned = [name for name in stage_columns(table) if name in present or name not in (*table.names, "_deleted")]
    names = ", ".join(f'"{name}"' for name in returned if name in present)
    query = f"""
        WITH texts AS (SELECT line, fault, excerpt, {texts} FROM {source}),
        typed AS (SELECT line, fault, excerpt, {values}, {raws} FROM texts),
        checked AS (SELECT *, CASE {code} END AS code FROM typed)
        SELECT
          {names}, line,
          CASE WHEN code IS NOT NULL THEN CASE code {column_name} END END,
          CASE WHEN {excerpt} IS NOT NULL THEN CASE WHEN {tells_nobody} THEN {whole} ELSE '{WITHHELD}' END END,
          CASE WHEN code IS NOT NULL THEN CASE code WHEN 0 THEN fault {reason} END END
        FROM checked
    """
    return query, returned


def _text(value: str) -> str:
    return "'" + value.replace("'", "''") + "'"


def _value(column: Column) -> str:
    """The typed value: NULL when the text is empty or wrong."""
    text = f'"{column.name}"'
    if column.name == "_deleted":
        given = f"lower(trim({text}))"
        return (
            f"CASE WHEN {text} IS NULL OR {given} IN ('', {', '.join(map(_text, _FALSE))}) THEN FALSE "
            f"WHEN {given} IN ({', '.join(map(_text, _TRUE))}) THEN TRUE END"
        )
    if column.type == "integer":
        return f"CASE WHEN regexp_full_match({text}, '{_INTEGER}') THEN TRY_CAST({text} AS INTEGER) END"
    if column.type == "numeric(18,4)":
        return f"CASE WHEN regexp_full_match({text}, '{_DECIMAL}') THEN TRY_CAST({text} AS DECIMAL(18, 4)) END"
    if column.type == "timestamp with time zone":
        # Without seconds or with outer blanks DuckDB does not cast. The session is UTC.
        completed = rf"regexp_replace(trim({text}), '{_WITHOUT_SECONDS}', '\1:00\2')"
        return (
            f"CASE WHEN regexp_full_match({text}, '{_PLAIN_TIMESTAMP}') THEN TRY_CAST({text} AS TIMESTAMP) "
            f"WHEN regexp_full_match({text}, '{_TIMESTAMP}') THEN "
            f"coalesce(TRY_CAST({text} AS TIMESTAMPTZ), TRY_CAST({completed} AS TIMESTAMPTZ))::TIMESTAMP END"
        )
    if column.allowed:
        return f"nullif(lower(trim({text})), '')"
    if column.letters:
        return f"nullif(upper(trim({text})), '')"
    return text


def _faults(column: Column, limit: datetime) -> Iterator[tuple[str, str]]:
    """Conditions under which a value of the column is wrong, and what to call that; the first that holds counts.

    They begin with what is cheap and seldom true: the rest is evaluated only then.
    """
    value, raw = f'"{column.name}"', f'"raw_{column.name}"'
    if column.name == "_deleted":
        yield "_deleted IS NULL", "not true or false"
    # A blank text begins with a blank or an escape: few do, and need the regular expression.
    blank = f"({raw} IS NULL OR (({raw} < '!' OR starts_with({raw}, '\\')) AND regexp_full_match({raw}, '{_BLANK}')))"
    if column.required:
        yield blank if column.type == "text" else f"{value} IS NULL AND {blank}", "missing"
    wrong = f"{value} IS NULL AND NOT {blank}"
    if column.type == "integer":
        yield f"{wrong} AND NOT regexp_full_match({raw}, '{_INTEGER}')", "not a whole number"
        yield wrong, "out of range"
    elif column.type == "numeric(18,4)":
        yield f"{wrong} AND NOT regexp_full_match({raw}, '{_NUMBER}')", "not a number"
        yield f"{wrong} AND NOT regexp_full_match({raw}, '{_DECIMAL}')", "more than 4 decimals"
        yield wrong, "out of range"
    elif column.type == "timestamp with time zone":
        yield f"{wrong} AND NOT regexp_full_match({raw}, '{_TIMESTAMP}')", "not an ISO 8601 timestamp"
        yield wrong, "not a date"
        yield f"{value} < TIMESTAMP '{EARLIEST}'", f"before {EARLIEST}"
        yield f"{value} > TIMESTAMP '{limit:%Y-%m-%d %H:%M:%S}'", "more than a day after the load"
    elif column.allowed:
        yield f"{value} NOT IN ({', '.join(map(_text, column.allowed))})", f"not one of {', '.join(column.allowed)}"
    elif column.letters:  # of the raw text: upper() makes ASCII letters out of others
        yield (
            f"{value} <> '' AND NOT regexp_full_match({raw}, ' *[A-Za-z]{{{column.letters}}} *')",
            f"not {column.letters} letters",
        )
    if column.above is not None:
        yield f"{value} <= {column.above}", f"not more than {column.above}"
    if column.at_least is not None:
        yield f"{value} < {column.at_least}", f"less than {column.at_least}"
    if column.at_most is not None:
        yield f"{value} > {column.at_most}", f"more than {column.at_most}"
