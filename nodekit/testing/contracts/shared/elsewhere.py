"""A place where another process could be: an event loop in a thread of its own, which can be made to stand still."""

import threading
from collections.abc import AsyncIterator, Awaitable, Callable
from concurrent.futures import Future
from contextlib import AbstractAsyncContextManager, AbstractContextManager, asynccontextmanager, suppress
from functools import partial
from typing import Any, ParamSpec, TypeAlias, TypeVar

import anyio
import anyio.lowlevel
from anyio.from_thread import BlockingPortal, start_blocking_portal

from nodekit import SharedStore

P = ParamSpec("P")
T = TypeVar("T")

Hold: TypeAlias = Callable[[SharedStore, threading.Event], None]
"""Holds a store, called in its event loop, until the event is set."""


class Elsewhere:
    """A node's place: its store lives there, and what it is asked for is awaited here."""

    def __init__(self, portal: BlockingPortal, store: SharedStore, hold: Hold) -> None:
        self.store = store
        self._portal = portal
        self._hold = hold
        self._let_go = threading.Event()
        self._running: list[Future[Any]] = []
        self._entered: list[AbstractContextManager[Any]] = []

    async def start(self, function: Callable[P, Awaitable[T]], *args: P.args, **kwargs: P.kwargs) -> Future[T]:
        """Begin a call there; it is cancelled at the end of the test, if it has not come to its own until then."""
        begin: Callable[[], Future[T]] = partial(self._portal.start_task_soon, partial(function, *args, **kwargs))
        future = await anyio.to_thread.run_sync(begin)  # a portal of trio is not to be called in a loop of trio
        self._running.append(future)
        return future

    async def call(self, function: Callable[P, Awaitable[T]], *args: P.args, **kwargs: P.kwargs) -> T:
        """Call there, and wait for the answer here."""
        return await awaited(await self.start(function, *args, **kwargs))

    async def enter(self, part: AbstractAsyncContextManager[T]) -> T:
        """Enter a store or a node there; it is left at the end of the test."""
        manager = self._portal.wrap_async_context_manager(part)
        entered = await anyio.to_thread.run_sync(manager.__enter__)
        self._entered.append(manager)
        return entered

    async def stand_still(self) -> None:
        """Returns once nothing happens there any more; for the others it looks as if it had died, until `go_on`."""
        standing: Future[None] = Future()
        self._let_go = let_go = threading.Event()

        async def stand() -> None:
            standing.set_result(None)
            self._hold(self.store, let_go)

        await self.start(stand)
        await awaited(standing)

    def go_on(self) -> None:
        """It was only paused."""
        self._let_go.set()

    def close(self) -> None:
        """From another thread: end what was begun there, and leave what was entered."""
        self.go_on()
        for future in self._running:
            future.cancel()
        while self._entered:
            self._entered.pop().__exit__(None, None, None)
        self._portal.call(self._portal.stop, True)


@asynccontextmanager
async def elsewhere(store: SharedStore, hold: Hold) -> AsyncIterator[Elsewhere]:
    """A place of its own for a store, which is not entered yet, on the same kind of event loop as this one's."""
    portals = start_blocking_portal(_backend())
    there = Elsewhere(await anyio.to_thread.run_sync(portals.__enter__), store, hold)
    try:
        yield there
    finally:
        with anyio.CancelScope(shield=True):
            try:
                await anyio.to_thread.run_sync(there.close)
            finally:
                await anyio.to_thread.run_sync(portals.__exit__, None, None, None)


async def awaited(future: Future[T]) -> T:
    """What comes of a call in another event loop; it goes on there, also where this is cancelled."""
    done, soon = anyio.Event(), soon_here()
    future.add_done_callback(lambda _: soon(done.set))
    await done.wait()
    return future.result()


def soon_here() -> Callable[[Callable[[], object]], None]:
    """A way to have something called in the event loop that runs now, from any thread; nothing, once it has ended."""
    native: Any = anyio.lowlevel.current_token().native_token
    call = native.call_soon_threadsafe if _backend() == "asyncio" else native.run_sync_soon

    def soon(function: Callable[[], object]) -> None:
        with suppress(RuntimeError):  # the loop is closed
            call(function)

    return soon


def _backend() -> str:
    native = anyio.lowlevel.current_token().native_token
    return "asyncio" if hasattr(native, "call_soon_threadsafe") else "trio"
