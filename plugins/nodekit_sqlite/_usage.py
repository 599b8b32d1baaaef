"""The bytes that the file holds for each group of clients. A table has them, so that no start has to count."""

import sqlite3
from collections import Counter
from collections.abc import Collection, Mapping

from nodekit import GroupId
from nodekit_sqlite._many_rows import ROWS, RowsStatement

_UPSERT = "ON CONFLICT (of_group) DO UPDATE SET stored = stored + excluded.stored RETURNING of_group, stored"
_ADD = RowsStatement(f"INSERT INTO usage VALUES {ROWS} {_UPSERT}", columns=2, large=0)  # noqa: S608 - our own texts only
_STORED = "SELECT stored FROM usage WHERE of_group = ?"


class Usage:
    """The totals by group, and their changes in the present transaction.

    The writing thread changes them. Others may read `known` at any time: it has what was committed.
    """

    def __init__(self) -> None:
        self.known: dict[GroupId, int] = {}
        """Totals that this process has read or written; another one may have changed them since."""
        self._changes: Counter[GroupId] = Counter()
        self._new: dict[GroupId, int] = {}

    def add(self, group: GroupId, stored: int) -> None:
        """Count bytes that this transaction writes for a group, or deletes if it is negative."""
        self._changes[group] += stored

    def before_commit(self, connection: sqlite3.Connection) -> None:
        """Write the changes of this transaction."""
        changes = [change for change in self._changes.items() if change[1]]
        for group, stored in _ADD.rows(connection, changes):
            self._new[group] = stored
            if stored <= 0:
                connection.execute("DELETE FROM usage WHERE of_group = ?", (group,))

    def end(self, *, committed: bool) -> None:
        """End the transaction."""
        if committed:
            self.known.update(self._new)
        self._new.clear()
        self._changes.clear()


def read_usage(connection: sqlite3.Connection, groups: Collection[GroupId]) -> Mapping[GroupId, int]:
    """Return the totals of some groups as the file has them."""
    found = {group: connection.execute(_STORED, (group,)).fetchone() for group in groups}
    return {group: row[0] if row else 0 for group, row in found.items()}
