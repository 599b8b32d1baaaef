"""A stand-in for another process: an event loop in a thread of its own, which can be made to stand still."""

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
"""Blocks a store until the event is set. Called in the store's event loop."""


class Elsewhere:
    """A node's place: its store lives there, and the results of calls are awaited here."""

    def __init__(self, portal: BlockingPortal, store: SharedStore, hold: Hold) -> None:
        self.store = store
        self._portal = portal
        self._hold = hold
        self._let_go = threading.Event()
        self._running: list[Future[Any]] = []
        self._entered: list[AbstractContextManager[Any]] = []

    async def start(self, function: Callable[P, Awaitable[T]], *args: P.args, **kwargs: P.kwargs) -> Future[T]:
        """Begin a call there. It is cancelled at the end of the test if it still runs then."""
        begin: Callable[[], Future[T]] = partial(self._portal.start_task_soon, partial(function, *args, **kwargs))
        future = await anyio.to_thread.run_sync(begin)  # a trio portal must not be called in a trio loop
        self._running.append(future)
        return future

    async def call(self, function: Callable[P, Awaitable[T]], *args: P.args, **kwargs: P.kwargs) -> T:
        """Call there, and wait for the answer here."""
        return await awaited(await self.start(function, *args, **kwargs))

    async def enter(self, context: AbstractAsyncContextManager[T]) -> T:
        """Enter a store or a node there. It is left at the end of the test."""
        manager = self._portal.wrap_async_context_manager(context)
        entered = await anyio.to_thread.run_sync(manager.__enter__)
        self._entered.append(manager)
        return entered

    async def stand_still(self) -> None:
        """Stop everything there, and return once it stands still. Others see a dead node until `go_on`."""
        standing: Future[None] = Future()
        self._let_go = let_go = threading.Event()

        async def stand() -> None:
            standing.set_result(None)
            self._hold(self.store, let_go)

        await self.start(stand)
        await awaited(standing)

    def go_on(self) -> None:
        """Let the place run on after `stand_still`."""
        self._let_go.set()

    def close(self) -> None:
        """End all calls, and leave everything that was entered. Called from another thread."""
        self.go_on()
        for future in self._running:
            future.cancel()
        while self._entered:
            self._entered.pop().__exit__(None, None, None)
        self._portal.call(self._portal.stop, True)


@asynccontextmanager
async def elsewhere(store: SharedStore, hold: Hold) -> AsyncIterator[Elsewhere]:
    """Give a place of its own to a store that is not entered yet, on the same kind of event loop as this one."""
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
    """Return the result of a call in another event loop. Cancelling this wait does not cancel the call."""
    done, soon = anyio.Event(), soon_here()
    future.add_done_callback(lambda _: soon(done.set))
    await done.wait()
    return future.result()


def soon_here() -> Callable[[Callable[[], object]], None]:
    """Return a function that schedules a call in the present event loop from any thread. It does nothing once the loop
    is closed."""
    native: Any = anyio.lowlevel.current_token().native_token
    call = native.call_soon_threadsafe if _backend() == "asyncio" else native.run_sync_soon

    def soon(function: Callable[[], object]) -> None:
        with suppress(RuntimeError):  # the loop is closed
            call(function)

    return soon


def _backend() -> str:
    native = anyio.lowlevel.current_token().native_token
    return "asyncio" if hasattr(native, "call_soon_threadsafe") else "trio"
