"""Fixtures and helpers for several stores on the same data: here, and in places that can be made to stand still."""

import threading
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import AbstractAsyncContextManager, AsyncExitStack, asynccontextmanager
from typing import TypeAlias

import anyio
import pytest

from nodekit import Claim, JobId, JobStore, SharedStore
from nodekit.testing.contracts.bounds import within
from nodekit.testing.contracts.shared.other_process import Elsewhere, elsewhere
from nodekit.testing.contracts.stores.base import StoreBase

Open: TypeAlias = Callable[[], SharedStore]

POLL_SECONDS = 0.01
NOTHING: tuple[int, int, dict[str, int]] = (0, 0, {})
"""Counts of a store without unfinished jobs."""


class SharedBase(StoreBase):
    """Base of the suite of shared stores: stores on the same data, here and elsewhere."""

    lease_seconds: float = 0.5
    """Time for which the stores of `open_store` hold a claim without renewing it. A shorter lease makes the tests
    quicker. They then fail on a machine that holds up an event loop for about as long."""

    @pytest.fixture
    def open_store(self) -> Open:
        raise NotImplementedError(
            "define a fixture `open_store`: a function that gives a store, not entered, always on the same data"
        )

    @pytest.fixture
    async def store(self, open_store: Open) -> AsyncIterator[JobStore]:
        async with open_store() as store:
            yield store

    @pytest.fixture
    async def stores(self, open_store: Open) -> AsyncIterator[list[SharedStore]]:
        """Open three stores at once, one for each of three nodes."""
        async with self.opened(open_store, 3) as stores:
            yield stores

    @asynccontextmanager
    async def opened(self, open_store: Open, number: int) -> AsyncIterator[list[SharedStore]]:
        async with AsyncExitStack() as stack:
            stores = [open_store() for _ in range(number)]
            for store in stores:
                await stack.enter_async_context(store)
            yield stores

    # -- other places -----------------------------------------------------------------------------

    def hold(self, store: SharedStore, let_go: threading.Event) -> None:
        """Make a store stand still until `let_go` is set: it renews no claims and gives nothing back.

        It is called in the store's event loop, which runs in a thread of its own, and blocks that loop. For a store
        that works in tasks of the loop, this looks to the others like a machine that lost its power or is paused.
        Override it for a store that renews its claims elsewhere, such as in a thread: stop that as well, and let it go
        on afterwards.
        """
        let_go.wait()

    @asynccontextmanager
    async def another(self, open_store: Open) -> AsyncIterator[Elsewhere]:
        """Open a store in a place of its own that can be made to stand still."""
        async with self.place(open_store()) as there:
            await there.enter(there.store)
            yield there

    def place(self, store: SharedStore) -> AbstractAsyncContextManager[Elsewhere]:
        """Give a place of its own to a store that is not entered yet."""
        return elsewhere(store, self.hold)

    @property
    def few_leases(self) -> float:
        """Time limit for what must happen within a few leases."""
        return self.timeout_seconds + 3 * self.lease_seconds

    async def comes(self, what: str, holds: Callable[[], bool], *, seconds: float | None = None) -> None:
        """Wait until a condition holds: for `seconds`, by default for a few leases."""
        with within(seconds or self.few_leases, what):
            while True:
                if holds():
                    return
                await anyio.sleep(POLL_SECONDS)

    async def eventually(self, ask: Callable[[], Awaitable[object]], expected: object) -> None:
        """Ask a store again and again until the answer is the expected one."""
        answer = await ask()
        with anyio.move_on_after(self.timeout_seconds):
            while answer != expected:
                await anyio.sleep(POLL_SECONDS)
                answer = await ask()
        assert answer == expected, f"not within {self.timeout_seconds:g} s"

    async def failures(self, store: JobStore, ids: Sequence[JobId]) -> list[str | None]:
        """Return the kinds of the jobs' errors."""
        return [job.error.kind if job.error else None for job in await store.get(ids)]


async def is_cancelled(claim: Claim) -> bool:
    """Return True if the claim's scope is cancelled. Called in the place that has the claim."""
    return claim.scope.cancel_called
