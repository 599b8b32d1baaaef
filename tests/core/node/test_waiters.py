"""Waiters: changes of the store wake them; the node listens to changes only while somebody waits."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Self

import anyio
import pytest
from components import settle_down

from nodekit import Change
from nodekit.node.waiters import PAUSE_SECONDS, Waiter, Waiters
from nodekit.testing import VirtualClock

pytestmark = pytest.mark.anyio


class Changes:
    """The changes of a store, given by the test; an exception among them is raised to the listener."""

    def __init__(self) -> None:
        self.listened = self.listening = 0
        self.error: Exception | None = None
        """Exception that is raised when listening begins."""
        self._sender, self._receiver = anyio.create_memory_object_stream[Change | Exception | None](100)

    @asynccontextmanager
    async def __call__(self) -> AsyncIterator[AsyncIterator[Change | None]]:
        self.listened += 1
        if self.error is not None:
            raise self.error
        self.listening += 1
        try:
            yield self
        finally:
            self.listening -= 1

    def __aiter__(self) -> Self:
        return self

    async def __anext__(self) -> Change | None:
        told = await self._receiver.receive()
        if isinstance(told, Exception):
            raise told
        return told

    async def tell(self, *ids: str | Exception | None) -> None:
        for id in ids:
            self._sender.send_nowait(Change(id) if isinstance(id, str) else id)
        await settle_down()

    def close(self) -> None:
        self._sender.close()
        self._receiver.close()


@asynccontextmanager
async def relaying(changes: Changes) -> AsyncIterator[Waiters]:
    waiters = Waiters(changes)
    try:
        async with anyio.create_task_group() as tasks:
            await tasks.start(waiters.run)
            yield waiters
            tasks.cancel_scope.cancel()
    finally:
        changes.close()


async def changed(waiter: Waiter) -> set[str | None]:
    with anyio.fail_after(5):
        return {change and change.id for change in await waiter.changed()}


async def test_a_waiter_is_told_of_its_jobs_and_of_no_others_and_of_each_change_once() -> None:
    changes = Changes()
    async with relaying(changes) as waiters, waiters.on(["a", "b"]) as one, waiters.on(["b"]) as other:
        await changes.tell("c", "a", "b", "a")
        assert await changed(one) == {"a", "b"}
        assert await changed(other) == {"b"}
        with anyio.move_on_after(0.01) as scope:
            await one.changed()
        assert scope.cancelled_caught
        await changes.tell("a")
        assert await changed(one) == {"a"}


async def test_a_change_of_any_job_wakes_everybody() -> None:
    changes = Changes()
    async with relaying(changes) as waiters, waiters.on(["a"]) as one, waiters.on(["b"]) as other:
        await changes.tell(None)
        assert await changed(one) == await changed(other) == {None}


async def test_a_waiter_that_waits_is_woken() -> None:
    changes = Changes()
    seen: list[set[str | None]] = []
    async with relaying(changes) as waiters, waiters.on(["a"]) as waiter, anyio.create_task_group() as tasks:

        async def wait() -> None:
            seen.append(await changed(waiter))

        tasks.start_soon(wait)
        await settle_down()
        assert seen == []
        await changes.tell("a")
        assert seen == [{"a"}]


async def test_the_store_is_listened_to_while_somebody_waits_and_not_for_long_after() -> None:
    changes = Changes()
    async with relaying(changes) as waiters:
        await settle_down()
        assert changes.listened == 0
        for time in (1, 2):
            async with waiters.on(["a"]) as waiter:
                assert (changes.listened, changes.listening) == (time, 1)
                async with waiters.on(["b"]):
                    assert changes.listened == time
                await changes.tell("b")
                assert changes.listening == 1
                await changes.tell("a")
                assert await changed(waiter) == {"a"}
            await changes.tell("c")
            assert (changes.listened, changes.listening) == (time, 0)


async def test_after_a_fault_of_the_store_everybody_looks_again_once(clock: VirtualClock) -> None:
    changes = Changes()
    async with relaying(changes) as waiters, waiters.on(["a"]) as one, waiters.on(["b"]):
        changes.error = OSError("gone")
        await changes.tell(OSError("gone"))
        for number in (2, 3):
            await clock.advance(PAUSE_SECONDS + 0.1)
            assert changes.listened == number
        changes.error = None
        await clock.advance(PAUSE_SECONDS + 0.1)
        assert await changed(one) == {None}
        await changes.tell("a")
        assert await changed(one) == {"a"}
    async with relaying(changes := Changes()) as waiters:
        async with waiters.on(["a"]) as one:
            await changes.tell(OSError("gone"))
            await clock.advance(PAUSE_SECONDS + 0.1)
            assert await changed(one) == {None}
        await changes.tell("a")
        assert changes.listening == 0
        async with waiters.on(["a"]) as one:
            await changes.tell("a")
            assert await changed(one) == {"a"}


async def test_waiting_makes_sense_while_changes_are_relayed_and_the_end_wakes_everybody() -> None:
    changes = Changes()
    waiters = Waiters(changes)
    assert not waiters.open
    async with anyio.create_task_group() as tasks:
        await tasks.start(waiters.run)
        assert waiters.open
        async with waiters.on(["a"]) as waiter:
            tasks.cancel_scope.cancel()
            with anyio.CancelScope(shield=True):
                assert await changed(waiter) == {None}
                assert not waiters.open
    with anyio.fail_after(5):
        async with waiters.on(["a"]) as waiter:  # it does not wait for the listener
            pass
    changes.close()


async def test_whoever_begins_to_wait_while_the_store_is_not_heard_is_let_go_at_the_end() -> None:
    changes = Changes()
    changes.error = OSError("gone")
    entered = anyio.Event()

    async def wait() -> None:
        with anyio.CancelScope(shield=True), anyio.fail_after(5):
            async with waiters.on(["a"]) as waiter:
                assert await waiter.changed() == {None}
                entered.set()

    waiters = Waiters(changes)
    async with anyio.create_task_group() as tasks:
        await tasks.start(waiters.run)
        tasks.start_soon(wait)
        await settle_down()
        assert not entered.is_set()
        tasks.cancel_scope.cancel()
    assert entered.is_set()
    changes.close()
