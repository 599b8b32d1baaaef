"""Waiters: the store wakes them at changes of their jobs; each listens as long as it waits, and not longer."""

import asyncio
from collections.abc import AsyncIterator, Collection, Iterator
from contextlib import AsyncExitStack, asynccontextmanager
from typing import Self

import anyio
import pytest
from components import functions, make_node, request, settle_down

from nodekit import Change, NodekitError, TooManyRequests
from nodekit.model.identity import works_for
from nodekit.node.waiters import PAUSE_SECONDS, Waiter, Waiters
from nodekit.testing import VirtualClock
from nodekit_memory import MemoryStore

pytestmark = pytest.mark.anyio


class Changes:
    """The changes of a store, given by the test; an exception among them is raised to the listener."""

    def __init__(self) -> None:
        self.listened = self.listening = 0
        self.asked: list[Collection[str]] = []
        self.error: Exception | None = None
        """Exception that is raised when listening begins."""
        self._sender, self._receiver = anyio.create_memory_object_stream[Change | Exception | None](100)

    @asynccontextmanager
    async def __call__(self, ids: Collection[str]) -> AsyncIterator[AsyncIterator[Change | None]]:
        self.listened += 1
        self.asked.append(ids)
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
        change = await self._receiver.receive()
        if isinstance(change, Exception):
            raise change
        return change

    async def report(self, *changes: str | Exception | None) -> None:
        for change in changes:
            self._sender.send_nowait(Change(change) if isinstance(change, str) else change)
        await settle_down()

    def close(self) -> None:
        self._sender.close()
        self._receiver.close()


class Given:
    """An iterator that gives one change, or fails."""

    def __init__(self, change: Change | Exception) -> None:
        self._change = change

    def __aiter__(self) -> Self:
        return self

    async def __anext__(self) -> Change | None:
        if isinstance(self._change, Exception):
            raise self._change
        return self._change


@pytest.fixture
def changes() -> Iterator[Changes]:
    changes = Changes()
    yield changes
    changes.close()


@pytest.fixture
def waiters(changes: Changes) -> Waiters:
    waiters = Waiters(changes, 10)
    waiters.open = True
    return waiters


async def changed(waiter: Waiter) -> str | None:
    with anyio.fail_after(5):
        change = await waiter.changed()
        return change and change.id


async def test_a_waiter_listens_to_its_jobs_as_long_as_it_is_entered(changes: Changes, waiters: Waiters) -> None:
    for time in (1, 2):
        assert changes.listening == 0
        async with waiters.on(["a", "b"]) as waiter:
            assert (changes.listened, changes.listening) == (time, 1)
            await changes.report("a", None, "b")
            assert [await changed(waiter) for _ in range(3)] == ["a", None, "b"]
    assert changes.asked == [["a", "b"]] * 2
    assert waiters.present == {}


async def test_a_waiter_that_waits_is_woken(changes: Changes, waiters: Waiters) -> None:
    seen: list[str | None] = []
    async with waiters.on(["a"]) as waiter, anyio.create_task_group() as tasks:

        async def wait() -> None:
            seen.append(await changed(waiter))

        tasks.start_soon(wait)
        await settle_down()
        assert seen == []
        await changes.report("a")
        assert seen == ["a"]


async def test_giving_up_a_wait_loses_no_change(changes: Changes, waiters: Waiters) -> None:
    async with waiters.on(["a"]) as waiter:
        with anyio.move_on_after(0.01) as scope:
            await waiter.changed()
        assert scope.cancelled_caught
        await changes.report("a")
        assert await changed(waiter) == "a"


async def test_after_a_fault_of_the_store_a_waiter_looks_and_listens_again_after_a_pause(
    clock: VirtualClock, changes: Changes, waiters: Waiters
) -> None:
    seen: list[str | None] = []
    async with waiters.on(["a"]) as waiter, anyio.create_task_group() as tasks:

        async def wait() -> None:
            while True:
                seen.append(await changed(waiter))

        tasks.start_soon(wait)
        changes.error = OSError("gone")
        await changes.report(OSError("gone"))
        assert (seen, changes.listened) == ([None], 1)  # it looks at once
        for number in (2, 3):
            await clock.advance(PAUSE_SECONDS + 0.1)
            assert (changes.listened, changes.listening, len(seen)) == (number, 0, number)
        changes.error = None
        await clock.advance(PAUSE_SECONDS + 0.1)
        assert changes.listening == 1
        assert set(seen) == {None}
        await changes.report("a")
        assert seen[-1] == "a"
        tasks.cancel_scope.cancel()
    assert changes.listening == 0


@pytest.mark.parametrize("error", [OSError("gone"), StopAsyncIteration()], ids=["fails", "ends"])
async def test_changes_that_fail_at_once_each_time_are_asked_for_once_a_second(
    clock: VirtualClock, changes: Changes, waiters: Waiters, error: Exception
) -> None:
    async with waiters.on(["a"]) as waiter:
        for number in range(1, 4):
            await changes.report(error)
            assert await changed(waiter) is None
            assert changes.listened == number
            async with anyio.create_task_group() as tasks:
                tasks.start_soon(changed, waiter)
                await settle_down()
                assert changes.listened == number
                await clock.advance(PAUSE_SECONDS + 0.1)


async def test_a_subscription_that_cannot_be_ended_spoils_no_wait(waiters: Waiters) -> None:
    class Subscription:
        async def __aenter__(self) -> AsyncIterator[Change | None]:
            return Given(Change("a"))

        async def __aexit__(self, *error: object) -> None:
            raise OSError("gone")

    waiters.subscribe = lambda ids: Subscription()  # type: ignore[assignment, return-value]
    async with waiters.on(["a"]) as waiter:
        assert await changed(waiter) == "a"


async def test_a_store_may_have_tasks_of_its_own_in_a_subscription(clock: VirtualClock, waiters: Waiters) -> None:
    entered = 0

    @asynccontextmanager
    async def subscribe(ids: Collection[str]) -> AsyncIterator[AsyncIterator[Change | None]]:
        nonlocal entered
        entered += 1

        async with anyio.create_task_group() as tasks:
            tasks.start_soon(anyio.sleep_forever)
            yield Given(OSError("gone") if entered == 1 else Change("a"))
            tasks.cancel_scope.cancel()

    waiters.subscribe = subscribe
    seen: list[str | None] = []

    async def wait() -> None:
        async with waiters.on(["a"]) as waiter:
            for _ in range(3):
                change = await waiter.changed()
                seen.append(change and change.id)

    async with anyio.create_task_group() as tasks:
        tasks.start_soon(wait)
        await settle_down()
        await clock.advance(PAUSE_SECONDS + 0.1)
    assert seen == [None, None, "a"]


async def test_a_store_that_fails_at_the_beginning_is_listened_to_later(
    clock: VirtualClock, changes: Changes, waiters: Waiters
) -> None:
    changes.error = OSError("gone")
    async with waiters.on(["a"]) as waiter, anyio.create_task_group() as tasks:
        changes.error = None
        tasks.start_soon(changed, waiter)
        await settle_down()
        await clock.advance(PAUSE_SECONDS + 0.1)
        await changes.report("a")
        assert await changed(waiter) == "a"


@pytest.mark.parametrize("anyio_backend", ["asyncio"])
async def test_a_cancellation_by_asyncio_itself_ends_a_wait(changes: Changes, waiters: Waiters) -> None:
    async def wait() -> None:
        async with waiters.on(["a"]) as waiter:
            await waiter.changed()

    task = asyncio.create_task(wait())  # as servers and `asyncio.timeout` do
    await settle_down()
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert (changes.listening, waiters.present) == (0, {})


async def test_the_end_of_the_node_ends_all_waits(changes: Changes, waiters: Waiters) -> None:
    failures: list[str] = []

    async def wait() -> None:
        async with waiters.on(["a"]) as waiter:
            with pytest.raises(NodekitError, match="the node is not running") as raised:
                await waiter.changed()
            failures.append(str(raised.value))

    async with anyio.create_task_group() as tasks:
        for error in (None, None, OSError("gone")):
            changes.error = error
            tasks.start_soon(wait)
            await settle_down()
        assert failures == []
        waiters.end()
    assert len(failures) == 3
    assert (changes.listening, waiters.present) == (0, {})
    with pytest.raises(NodekitError, match="the node is not running"):
        async with waiters.on(["a"]) as waiter:
            await waiter.changed()


# -- many waiters --------------------------------------------------------------------------------


async def test_the_requests_of_a_group_wait_for_a_limited_number_of_jobs(waiters: Waiters) -> None:
    async with AsyncExitStack() as stack:
        works_for("a group")
        for ids in (["a", "b", "c"], ["a", "b", "c"], ["a", "b", "c", "d"]):
            await stack.enter_async_context(waiters.on(ids))
        with pytest.raises(TooManyRequests, match="wait for 10 jobs; they may wait for 10") as raised:
            await stack.enter_async_context(waiters.on(["e"]))
        assert raised.value.retry_after_seconds == 1
        for group in ("another", None):
            works_for(group)
            await stack.enter_async_context(waiters.on(["a"] * 8))
    works_for("a group")
    async with waiters.on(["a"] * 10):
        pass
    assert waiters.present == {}


async def test_a_wait_that_fails_to_begin_does_not_count(changes: Changes, waiters: Waiters) -> None:
    works_for("a group")
    for _ in range(20):
        with anyio.CancelScope() as scope:
            scope.cancel()
            async with waiters.on(["a"] * 10):
                await anyio.lowlevel.checkpoint()
    async with waiters.on(["a"] * 10):
        pass


async def test_who_waits_for_ends_is_not_woken_by_steps() -> None:
    store = MemoryStore()
    async with make_node(functions(), store=store) as node:
        job = await node.submit(request("echo", "echo", "echo"))
        woken: list[Change | None] = []
        async with node._waiters.on([job.id], finished_only=True) as waiter, node.changes([job.id]) as all_changes:
            with anyio.fail_after(60):
                woken.append(await waiter.changed())
                seen = [await anext(all_changes)]
                while not seen[-1] or not seen[-1].finished:
                    seen.append(await anext(all_changes))
        assert woken == [Change(job.id, finished=True)]
        assert len(seen) >= 1
