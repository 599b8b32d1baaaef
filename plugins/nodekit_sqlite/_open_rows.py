"""The rows of unfinished jobs that this process has written, so that no write has to read them before."""

from typing import NamedTuple

from nodekit import JobId

MOST_ROWS = 10_000
"""Number of rows that are remembered; those that were written last."""


class OpenRow(NamedTuple):
    """The row of an unfinished job.

    - `done`: Number of its last record that will not change any more.
    """

    number: int
    status: str
    size: int
    stored: int
    done: int


class OpenRows:
    """Rows as they are in the present transaction. The writing thread alone uses them."""

    def __init__(self, most: int = MOST_ROWS) -> None:
        self._most = most
        self._rows: dict[JobId, OpenRow] = {}

    def get(self, id: JobId) -> OpenRow | None:
        return self._rows.get(id)

    def put(self, id: JobId, row: OpenRow) -> None:
        self._rows.pop(id, None)  # to the end
        self._rows[id] = row
        if len(self._rows) > self._most:
            del self._rows[next(iter(self._rows))]

    def drop(self, id: JobId) -> None:
        """Forget a job that has finished."""
        self._rows.pop(id, None)

    def end(self, *, committed: bool) -> None:
        """End the transaction. If it was rolled back, the file has other rows than these."""
        if not committed:
            self._rows.clear()
