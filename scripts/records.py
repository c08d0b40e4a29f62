"""CSV files as records numbered by line, by Python's strict parser: it alone says which line is wrong, and goes on.

DuckDB's reader drops surplus fields and broken quotes without a word; PostgreSQL's stops at the first.
"""

import csv
import gzip
import io
import zlib
from collections.abc import Iterator
from contextlib import suppress

from scripts.contract import LONGEST

BLOCK = 1 << 19
"""Bytes that are read, and handed on, at a time."""

_UNMARKED = bytes(set(range(256)) - set(b',"\\\t\r\n'))
"""Bytes that separate nothing, need no parser and no escape."""


class Refused(Exception):
    """A file that cannot be loaded, and why."""


class Records:
    """The records of a CSV file, as blocks of lines `number, fault, value...` in the text format of COPY.

    The number is the line of the file on which the record begins. `header` is read at once. Raises Refused, also
    while the blocks are read.
    """

    def __init__(self, stream: io.BufferedReader | gzip.GzipFile) -> None:
        self._stream = stream
        self._blocks = self._split()
        self._pending: bytes | None = None
        self._text, self._end = io.StringIO(), 0  # the block in the parser
        csv.field_size_limit(LONGEST)
        self._reader = csv.reader(self._lines(), strict=True)
        self._plain_lines = 0  # that passed by the parser
        try:
            self.header = next(self._reader)
        except StopIteration:
            raise Refused("it is empty: not even a header") from None
        except csv.Error as error:
            raise Refused(f"its header cannot be read: {self._fault(error, 1)}") from None

    def __iter__(self) -> Iterator[bytes]:
        while True:
            yield from self._parse()
            if (block := self._take()) is None:
                return
            if (plain := self._plain(block)) is not None:
                yield plain
            else:
                self._pending = block

    def _split(self) -> Iterator[bytes]:
        """Blocks of whole lines."""
        rest = b""
        at_start = True
        while True:
            try:
                chunk = self._stream.read(BLOCK)
            except (EOFError, OSError, zlib.error) as error:
                raise Refused(f"it is damaged or cut short: {error}") from None
            if at_start:
                at_start = False
                if chunk.startswith(b"\x1f\x8b"):
                    raise Refused("it is compressed: name it .csv.gz")
                chunk = chunk.removeprefix(b"\xef\xbb\xbf")
            if not chunk:
                break
            if b"\0" in chunk or chunk.startswith((b"\xff\xfe", b"\xfe\xff")):
                raise Refused("it is not UTF-8 text: it holds NUL bytes, as UTF-16 or a binary file does")
            cut = chunk.rfind(b"\n") + 1
            if cut:
                yield rest + chunk[:cut]
                rest = chunk[cut:]
            elif len(rest) <= LONGEST:
                rest += chunk
            else:
                # Memory stays bounded, and the parser still finds a value over its limit.
                rest = b"x" * (LONGEST + 1)
        if rest:
            yield rest

    def _take(self) -> bytes | None:
        block, self._pending = self._pending, None
        return next(self._blocks, None) if block is None else block

    def _lines(self) -> Iterator[str]:
        """The lines of the block in the parser, then of the next: a record may begin in one and end in another."""
        while (block := self._take()) is not None:
            # Bytes that are no UTF-8 become surrogates, found when the record is encoded.
            text = block.decode("utf-8", "surrogateescape")
            self._text, self._end = io.StringIO(text, newline="\n"), len(text)
            yield from self._text

    def _plain(self, block: bytes) -> bytes | None:
        """The block at once, when it holds nothing that needs a parser: five times as fast. Else None."""
        if b"\r" in block:
            block = block.replace(b"\r\n", b"\n")
        block = block.removesuffix(b"\n") + b"\n"
        marks = block.translate(None, _UNMARKED)
        begin, lines = self._plain_lines + self._reader.line_num + 1, block.count(b"\n")
        if len(block) > LONGEST or marks != (b"," * (len(self.header) - 1) + b"\n") * lines or not _is_utf8(block):
            return None
        self._plain_lines += lines
        numbered = block.replace(b"%", b"%%").replace(b",", b"\t").replace(b"\n", b"\n%d\t\t")
        return (b"%d\t\t" + numbered[: -len(b"%d\t\t")]) % tuple(range(begin, begin + lines))

    def _parse(self) -> Iterator[bytes]:
        """The records up to the end of a block."""
        batch: list[tuple[int, str, list[str]]] = []
        reader, width = self._reader, len(self.header)
        while self._pending is not None or self._text.tell() < self._end:
            line, fault = self._plain_lines + reader.line_num + 1, ""
            try:
                values = next(reader)
            except StopIteration:
                break
            except csv.Error as error:
                fault, values = self._fault(error, line), []
            else:
                if not values:  # an empty line
                    continue
                if len(values) != width:
                    fault = f"{len(values)} values under a header of {width}"
            batch.append((line, fault, _faulty(values, width) if fault else values))
            if len(batch) == 2000:
                yield _encoded(batch, width)
                batch = []
        if batch:
            yield _encoded(batch, width)

    def _fault(self, error: csv.Error, line: int) -> str:
        """What is wrong with the record that begins on the line. Raises Refused when that is a missing quote."""
        what, last = str(error), self._plain_lines + self._reader.line_num
        if "unexpected end" in what:
            raise Refused(f"a quote that opens in the record of line {line} never closes: it is damaged or cut short")
        if "field limit" in what and last > line:
            raise Refused(f"a value in the record of line {line} goes on for more than 1 MiB: a quote is missing")
        ours = next((ours for theirs, ours in _FAULTS.items() if theirs in what), what)
        return ours + (f" (the record goes to line {last})" if last > line else "")


_FAULTS = {
    "expected after": "a quote inside a quoted value",
    "field limit": "longer than 1 MiB",
    "new-line character": "a carriage return without a line feed outside of quotes",
}


def _faulty(values: list[str], width: int) -> list[str]:
    """Values of a record that is wrong as a whole: an excerpt of it, then nothing."""
    return [",".join(values)[:200], *[""] * (width - 1)]


def _is_utf8(block: bytes) -> bool:
    with suppress(UnicodeDecodeError):
        return block.isascii() or bool(block.decode())
    return False


def _escape(value: str) -> str:
    return value.replace("\\", "\\\\").replace("\t", "\\t").replace("\n", "\\n").replace("\r", "\\r")


def _encoded(batch: list[tuple[int, str, list[str]]], width: int) -> bytes:
    text = "".join([f"{line}\t{fault}\t{chr(9).join(values)}\n" for line, fault, values in batch])
    clean = text.count("\t") == len(batch) * (width + 1) and text.count("\n") == len(batch)
    if clean and "\\" not in text and "\r" not in text and len(text) <= LONGEST:
        with suppress(UnicodeEncodeError):
            return text.encode()
    lines = []
    for line, fault, values in batch:
        if sum(map(len, values)) > LONGEST:
            fault, values = "longer than 1 MiB", _faulty(values, width)
        record = "\t".join([str(line), fault, *map(_escape, values)])
        try:
            lines.append(record.encode())
        except UnicodeEncodeError:
            values = [value.encode(errors="replace").decode() for value in _faulty(values, width)]
            record = "\t".join([str(line), fault or "not UTF-8", *map(_escape, values)])
            lines.append(record.encode())
    return b"\n".join(lines) + b"\n"
