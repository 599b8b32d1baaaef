"""Statements that write many rows at once.

Python's sqlite3 gives up the interpreter's lock for each statement and waits for it afterwards, while the event loop
works. That costs more than the row itself. So the rows of a group of writes are one statement, or a few of them.
"""

import sqlite3
from collections.abc import Iterator, Sequence
from functools import cached_property
from typing import Any

ROWS = "(rows)"
"""Stands for the rows in a text."""
MOST_ROWS = 64
"""Maximum number of rows of a statement. SQLite keeps a statement prepared for each power of two up to this one."""
LARGE_BYTES = 1 << 16
"""Size from which on a row has a statement of its own: SQLite copies all values of a statement first."""


class RowsStatement:
    """A statement for any number of rows, which stand where its text has `ROWS`."""

    def __init__(self, text: str, columns: int, *, large: int) -> None:
        """Take a text that begins with INSERT or UPDATE. `large` is the place of the column that may be large."""
        self._text, self._columns, self._large = text, columns, large

    @cached_property
    def _texts(self) -> dict[int, str]:
        row = f"({', '.join('?' * self._columns)})"
        return {
            1 << power: self._text.replace(ROWS, ", ".join([row] * (1 << power)))
            for power in range(MOST_ROWS.bit_length())
        }

    def write(self, connection: sqlite3.Connection, rows: Sequence[Sequence[Any]]) -> int:
        """Write the rows. Return the number of rows of the file that changed."""
        return sum(cursor.rowcount for cursor in self._execute(connection, rows))

    def rows(self, connection: sqlite3.Connection, rows: Sequence[Sequence[Any]]) -> list[Any]:
        """Write the rows. Return those that the statement returns."""
        return [row for cursor in self._execute(connection, rows) for row in cursor.fetchall()]

    def _execute(self, connection: sqlite3.Connection, rows: Sequence[Sequence[Any]]) -> Iterator[sqlite3.Cursor]:
        for some in self._pieces(rows):
            yield connection.execute(self._texts[len(some)], [value for row in some for value in row])

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
