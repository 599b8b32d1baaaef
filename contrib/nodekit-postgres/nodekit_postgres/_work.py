"""Calls that wait for a connection."""

from collections.abc import Awaitable, Callable, Mapping
from typing import Any, NamedTuple

import anyio
from psycopg import AsyncCursor

from nodekit_postgres._connecting import Connection


class Statement(NamedTuple):
    """A write of one statement. Its parameters depend on the number of the connection."""

    query: bytes
    given: Callable[[int], Mapping[str, Any]]

    async def execute(self, connection: Connection, number: int) -> AsyncCursor[tuple[Any, ...]]:
        return await connection.execute(self.query, self.given(number), binary=True)


class Work:
    """A call that waits for a connection or is being made."""

    __slots__ = ("again", "call", "done", "dropped", "error", "result", "seconds", "since", "statement")

    def __init__(
        self,
        call: Callable[[Connection, int], Awaitable[Any]],
        seconds: float,
        *,
        again: bool = False,
        statement: Statement | None = None,
    ) -> None:
        self.call, self.seconds = call, seconds
        self.again = again
        """True if it may be made again on another connection."""
        self.statement = statement
        """The statement that the call executes, if it may share a transaction with others."""
        self.since = 0.0
        self.done = anyio.Event()
        self.dropped = False
        self.result: Any = None
        self.error: Exception | None = None

    def end(self, error: Exception | None = None) -> None:
        if not self.done.is_set():
            self.error = error
            self.done.set()
