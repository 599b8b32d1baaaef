"""Statements that write many rows at once.

Python's sqlite3 gives up the interpreter's lock for each statement and waits for it afterwards, while the event loop
works. That costs more than the row itself. So the rows of a group of writes are one statement, or a few of them.
"""

import sqlite3
from collections.abc import Collection, Iterator, Sequence
from functools import cached_property
from typing import Any

ROWS = "(rows)"
"""Stands for the rows in a text."""
MOST_ROWS = 64
"""Maximum number of rows of a statement. SQLite keeps a statement prepared for each power of two up to this one."""
LARGE_BYTES = 1 << 16
"""Size from which on a row has a statement of its own: SQLite copies all values of a statement first."""


def blob(body: bytes | memoryview) -> Any:
    """Return bytes for a row, as a `bytearray` if they are few.

    Before sqlite3 takes a value that is no number, `str` or `bytearray`, it looks in vain for an adapter of its type.
    That costs more than a copy, and more than the rest of its work for the value.
    """
    return bytearray(body) if len(body) < LARGE_BYTES else body


class RowsStatement:
    """A statement for any number of rows, which stand where its text has `ROWS`."""

    def __init__(self, text: str, columns: int, *, large: int, nullable: Collection[int] = ()) -> None:
        """Take a text that begins with INSERT or UPDATE.

        `large` is the place of the column that may be large. Those at the places `nullable` may be None, but not 0:
        sqlite3 takes a 0 faster (see `blob`), and the statement makes it a null.
        """
        self._text, self._columns, self._large, self._nullable = text, columns, large, nullable

    @cached_property
    def _texts(self) -> dict[int, str]:
        marks = ("nullif(?, 0)" if place in self._nullable else "?" for place in range(self._columns))
        row = f"({', '.join(marks)})"
        return {
            1 << power: self._text.replace(ROWS, ", ".join([row] * (1 << power)))
            for power in range(MOST_ROWS.bit_length())
        }

    def write(self, connection: sqlite3.Connection, rows: Sequence[Sequence[Any]]) -> int:
        """Write the rows. Return the number of rows of the file that changed."""
        changed = 0
        for cursor in self._execute(connection, rows):
            changed += cursor.rowcount
        return changed

    def rows(self, connection: sqlite3.Connection, rows: Sequence[Sequence[Any]]) -> list[Any]:
        """Write the rows. Return those that the statement returns."""
        return [row for cursor in self._execute(connection, rows) for row in cursor.fetchall()]

    def _execute(self, connection: sqlite3.Connection, rows: Sequence[Sequence[Any]]) -> Iterator[sqlite3.Cursor]:
        for some in self._pieces(rows) if len(rows) > 1 else [rows] if rows else ():
            values = [0 if value is None else value for row in some for value in row]
            yield connection.execute(self._texts[len(some)], values)

    def _pieces(self, rows: Sequence[Sequence[Any]]) -> Iterator[Sequence[Sequence[Any]]]:
        """Yield the rows in pieces, their numbers being powers of two."""
        small = [row for row in rows if len(row[self._large]) < LARGE_BYTES]
        begin = 0
        while begin < len(small):
            number = min(MOST_ROWS, 1 << (len(small) - begin).bit_length() - 1)
            yield small[begin : begin + number]
            begin += number
        if len(small) < len(rows):
            yield from ([row] for row in rows if len(row[self._large]) >= LARGE_BYTES)
