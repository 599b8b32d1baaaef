"""Calls that run in a thread with a connection, and the thread that writes: waiting calls share one commit."""

import sqlite3
import sys
from collections import deque
from collections.abc import Awaitable, Callable, Generator, Sequence
from contextlib import suppress
from queue import SimpleQueue
from threading import Thread
from traceback import clear_frames
from typing import TYPE_CHECKING, Any, Generic, TypeAlias, TypeVar, cast

import anyio
import anyio.to_thread
from anyio.lowlevel import current_token

from nodekit import GroupId, StoreFailed
from nodekit_sqlite._damage import cured
from nodekit_sqlite._open_rows import OpenRows
from nodekit_sqlite._rescue import Rescue
from nodekit_sqlite._usage import Usage

if TYPE_CHECKING:
    import asyncio

T = TypeVar("T")

Connect = Callable[[], sqlite3.Connection]
Together = Callable[[sqlite3.Connection, Sequence[Any]], Sequence[Any]]
"""A function that does with many items what it does with one, and returns a result for each."""


class EventWait:
    """A wait for what a thread does, for event loops that have no futures, such as trio's."""

    def __init__(self) -> None:
        self._event = anyio.Event()

    def done(self) -> bool:
        return self._event.is_set()

    def set_result(self, result: None) -> None:
        self._event.set()

    def __await__(self) -> Generator[Any, Any, None]:
        return self._event.wait().__await__()


Wait: TypeAlias = "asyncio.Future[None] | EventWait"


def waits() -> Callable[[], Wait]:
    """Return what makes waits on this event loop. A future of asyncio costs a tenth of an event of anyio."""
    if (module := sys.modules.get("asyncio")) is not None:
        with suppress(RuntimeError):
            make: Callable[[], Wait] = module.get_running_loop().create_future
            return make
    return EventWait


class Call(Generic[T]):
    """A function of the connection, and its result or error."""

    __slots__ = ("abandoned", "done", "error", "function", "group", "long", "result")

    def __init__(
        self,
        function: Callable[[sqlite3.Connection], T],
        done: Wait,
        group: GroupId | None = None,
        *,
        long: bool = False,
    ) -> None:
        self.function, self.done, self.group, self.long = function, done, group, long
        self.abandoned = False
        """True once nobody waits for the result."""
        self.result: T | None = None
        self.error: Exception | None = None

    def run(self, connection: sqlite3.Connection) -> None:
        try:
            self.result, self.error = self.function(connection), None
        except Exception as error:
            _end_statements(error)
            self.error = error

    def answer(self) -> T:
        """Return the result, or raise the error: `StoreFailed` if SQLite failed."""
        if isinstance(self.error, sqlite3.Error):
            raise StoreFailed(f"sqlite: {cured(self.error)}") from self.error
        if self.error is not None:
            raise self.error
        return cast("T", self.result)


class SharedCall(Call[Any]):
    """A call of a function that takes the items of all its calls that wait together."""

    __slots__ = ("item", "together")

    def __init__(self, together: Together, item: object, done: Wait) -> None:
        super().__init__(lambda connection: together(connection, [item])[0], done)
        self.together, self.item = together, item


def _end_statements(error: BaseException | None) -> None:
    """End the statements that an error has cut short.

    The error holds the frames that it came through, and these their cursors. A cursor that is not at its end keeps its
    connection in an old transaction, and all later calls would read what was there then.
    """
    seen = set[int]()
    while error is not None and id(error) not in seen:
        seen.add(id(error))
        clear_frames(error.__traceback__)
        error = error.__cause__ or error.__context__


def any_text(text: bytes) -> str:
    """Return a text as it is in the file, which may be damaged."""
    return text.decode(errors="replace")


class Deliveries:
    """Finished calls on their way to the event loop. One wake-up of the loop delivers all that have finished by then.

    Make it in the event loop that makes the calls.
    """

    def __init__(self) -> None:
        loop = current_token().native_token
        # asyncio's loop and trio's token have the same method under different names
        self._post = cast(
            "Callable[..., object]", getattr(loop, "call_soon_threadsafe", None) or getattr(loop, "run_sync_soon", None)
        )
        self._finished: deque[Call[Any]] = deque()
        self._posted = False

    def put(self, calls: Sequence[Call[Any]]) -> None:
        """Deliver finished calls. A thread calls this."""
        self._finished.extend(calls)
        if calls and not self._posted:
            self._posted = True
            with suppress(RuntimeError):  # the event loop is gone, and so are the callers
                self._post(self._deliver)

    def _deliver(self) -> None:
        self._posted = False  # first: what finishes from now on may need another wake-up
        while self._finished:
            if not (done := self._finished.popleft().done).done():  # its caller may have gone
                done.set_result(None)


async def connected(connect: Connect) -> sqlite3.Connection:
    """Connect in a thread, since this may wait for the disk. Raise `StoreFailed`."""
    try:
        return await anyio.to_thread.run_sync(connect)
    except sqlite3.Error as error:
        raise StoreFailed(f"sqlite: {cured(error)}") from error


class Writer:
    """A thread that runs functions on a connection, one at a time, in transactions of up to `group` calls.

    Nothing is acknowledged before `rescue` has seen, after the commit, that the file is still in its place.
    """

    def __init__(self, connect: Connect, usage: Usage, rows: OpenRows, rescue: Rescue, *, group: int) -> None:
        self._connect, self._usage, self._rows = connect, usage, rows
        self._rescue, self._group = rescue, group
        self._calls: SimpleQueue[Call[Any] | None] = SimpleQueue()
        self._thread: Thread | None = None
        self._wait: Callable[[], Wait] = EventWait

    @property
    def started(self) -> bool:
        """True as long as the thread runs."""
        return self._thread is not None

    async def start(self) -> None:
        """Start the thread. Call this in the event loop that will make the calls."""
        deliveries, connection = Deliveries(), await connected(self._connect)
        self._wait = waits()
        self._thread = Thread(target=self._work, args=[connection, deliveries], name="nodekit-sqlite", daemon=True)
        self._thread.start()

    def call(self, function: Callable[[sqlite3.Connection], T]) -> Awaitable[T]:
        """Run a function in the thread. Its changes are committed once the answer is there.

        Raise `StoreFailed` if SQLite fails or the thread does not run.
        """
        return self._made(Call(function, self._wait()))

    def share(self, together: Together, item: object) -> Awaitable[Any]:
        """Run a function in the thread, as `call` does, with this item and those of all calls of it that wait.

        Return the result for this item. The function must be the same object in all calls.
        """
        return self._made(SharedCall(together, item, self._wait()))

    async def _made(self, call: Call[T]) -> T:
        if self._thread is None:
            raise StoreFailed("the store is not open")
        self._calls.put(call)
        await call.done
        return call.answer()

    def look(self) -> None:
        """Have the thread look at the file soon. Nobody waits for it."""
        if self._thread is not None:
            self._calls.put(Call(lambda connection: None, self._wait()))

    async def stop(self) -> None:
        """Finish the calls made so far and end the thread."""
        self.look()  # the last chance to save the jobs of a file that was deleted
        thread, self._thread = self._thread, None
        if thread is not None:
            self._calls.put(None)
            await anyio.to_thread.run_sync(thread.join)

    def _work(self, connection: sqlite3.Connection, deliveries: Deliveries) -> None:
        connection.text_factory = any_text  # a damaged job must not prevent its deletion
        try:
            while calls := self._next():
                self._write(connection, calls)
                deliveries.put(calls)
                del calls  # they may be large, and the wait for the next ones long
        finally:
            connection.close()

    def _next(self) -> Sequence[Call[Any]]:
        calls: list[Call[Any]] = []
        while (call := self._calls.get()) is not None:
            calls.append(call)
            if len(calls) == self._group or self._calls.empty():  # nobody else takes any
                return calls
        if calls:
            self._calls.put(None)  # stop after these
        return calls

    def _write(self, connection: sqlite3.Connection, calls: Sequence[Call[Any]]) -> None:
        """Run all calls in one transaction. If one of them fails, run each in its own, so that it harms no other."""
        if self._rescue.text and self._refused(connection, calls):
            return
        if self._commit(connection, calls) is not None and len(calls) > 1:
            for call in calls:
                self._commit(connection, [call])
        self._refused(connection, calls)

    def _refused(self, connection: sqlite3.Connection, calls: Sequence[Call[Any]]) -> bool:
        """Fail the calls if the file is not in its place: nothing that was written may be acknowledged."""
        text = self._rescue.look(connection)
        if text:
            for call in calls:
                call.error = StoreFailed(text)
        return bool(text)

    def _commit(self, connection: sqlite3.Connection, calls: Sequence[Call[Any]]) -> Exception | None:
        try:
            connection.execute("BEGIN IMMEDIATE")
            _run(connection, calls)
            self._usage.before_commit(connection)
            connection.execute("COMMIT")
            self._end(committed=True)
            return None
        except Exception as error:
            _end_statements(error)
            with suppress(sqlite3.Error):
                connection.execute("ROLLBACK")
            self._end(committed=False)
            for call in calls:
                call.error = error
            return error

    def _end(self, *, committed: bool) -> None:
        self._usage.end(committed=committed)
        self._rows.end(committed=committed)


def _run(connection: sqlite3.Connection, calls: Sequence[Call[Any]]) -> None:
    """Run calls in the present transaction: those of one function together. Raise the first error."""
    shared: dict[Together, list[SharedCall]] = {}
    for call in calls:
        if isinstance(call, SharedCall):
            shared.setdefault(call.together, []).append(call)
    for together, some in shared.items():
        for call, result in zip(some, together(connection, [call.item for call in some]), strict=True):
            call.result, call.error = result, None
    for call in calls:
        if not isinstance(call, SharedCall):
            call.run(connection)
            if call.error is not None:
                raise call.error
