"""`Tasks`: short tasks that belong to a task group, with what the group's own would promise."""

import contextvars

import anyio
import pytest

from nodekit.concurrency.event import Event
from nodekit.concurrency.scopes import cancel_scope
from nodekit.concurrency.tasks import Tasks

pytestmark = pytest.mark.anyio

number: contextvars.ContextVar[int] = contextvars.ContextVar("number", default=0)


async def test_the_group_waits_for_what_was_started() -> None:
    done: list[int] = []

    async def work(one: int) -> None:
        await anyio.sleep(0)
        done.append(one)

    async with anyio.create_task_group() as group:
        tasks = Tasks(group)
        for one in range(3):
            tasks.start(work, one)
        while len(done) < 3:
            await anyio.sleep(0)
        group.cancel_scope.cancel()
    assert sorted(done) == [0, 1, 2]


async def test_the_end_of_the_group_cancels_them_and_waits_for_what_they_do_in_a_shield() -> None:
    seen: list[str] = []
    waits = anyio.Event()

    async def work() -> None:
        try:
            waits.set()
            await anyio.sleep_forever()
        except BaseException:
            assert anyio.current_effective_deadline() == float("-inf")
            with anyio.CancelScope(shield=True):
                await anyio.sleep(0.01)
            seen.append("given back")
            raise

    async with anyio.create_task_group() as group:
        Tasks(group).start(work)
        await waits.wait()
        group.cancel_scope.cancel()
    assert seen == ["given back"]


async def test_a_cancelled_task_is_cancelled_again_when_it_goes_on_waiting() -> None:
    times = 0

    async def work() -> None:
        nonlocal times
        for _ in range(3):
            try:
                await anyio.sleep_forever()
            except BaseException:
                times += 1
                if times == 3:
                    raise

    async with anyio.create_task_group() as group:
        Tasks(group).start(work)
        await anyio.sleep(0.01)
        group.cancel_scope.cancel()
    assert times == 3


async def test_what_is_started_in_a_cancelled_group_ends_at_its_first_wait() -> None:
    ended: list[bool] = []

    async def work() -> None:
        try:
            await anyio.sleep_forever()
        finally:
            ended.append(True)

    async with anyio.create_task_group() as group:
        tasks = Tasks(group)
        await anyio.sleep(0.01)
        group.cancel_scope.cancel()
        with anyio.CancelScope(shield=True):
            await anyio.sleep(0.01)
        tasks.start(work)
    assert ended == [True]


async def test_a_failure_ends_the_others_and_is_raised_by_the_group() -> None:
    ended: list[bool] = []

    async def other() -> None:
        try:
            await anyio.sleep_forever()
        finally:
            ended.append(True)

    async def fails() -> None:
        await anyio.sleep(0)
        raise ValueError("no")

    async def both() -> None:
        async with anyio.create_task_group() as group:
            tasks = Tasks(group)
            tasks.start(other)
            tasks.start(fails)
            await anyio.sleep_forever()

    with pytest.raises(BaseExceptionGroup) as raised:
        await both()
    assert raised.value.subgroup(ValueError) is not None
    assert ended == [True]


async def test_a_task_has_a_copy_of_the_context_in_which_it_was_started() -> None:
    seen: list[int] = []

    async def work() -> None:
        seen.append(number.get())
        number.set(99)

    async with anyio.create_task_group() as group:
        tasks = Tasks(group)
        for one in (1, 2):
            number.set(one)
            tasks.start(work)
        while len(seen) < 2:
            await anyio.sleep(0)
        assert number.get() == 2
        group.cancel_scope.cancel()
    assert sorted(seen) == [1, 2]


async def test_an_event_wakes_all_who_wait_and_those_who_come_later() -> None:
    event, woken = Event(), 0

    async def wait() -> None:
        nonlocal woken
        await event.wait()
        woken += 1

    async with anyio.create_task_group() as group:
        for _ in range(3):
            group.start_soon(wait)
        await anyio.sleep(0.01)
        assert (woken, event.is_set()) == (0, False)
        event.set()
    await wait()
    assert (woken, event.is_set()) == (4, True)


async def test_one_who_gives_up_keeps_an_event_from_nobody() -> None:
    event = Event()
    with anyio.move_on_after(0.01) as scope:
        await event.wait()
    assert scope.cancelled_caught
    async with anyio.create_task_group() as group:
        group.start_soon(event.wait)
        await anyio.sleep(0.01)
        event.set()


async def test_an_event_that_is_set_together_with_a_cancellation_leaves_nothing_behind() -> None:
    event = Event()

    async def both(scope: anyio.CancelScope) -> None:
        scope.cancel()
        event.set()

    async with anyio.create_task_group() as group:
        with anyio.CancelScope() as scope:
            group.start_soon(both, scope)
            await event.wait()
            await anyio.sleep(0)  # if the event came first
    assert event.is_set()


async def test_a_cancel_scope_is_one_of_anyios() -> None:
    with cancel_scope() as scope:
        scope.cancel()
        await anyio.sleep_forever()
    assert isinstance(scope, anyio.CancelScope)
    assert scope.cancelled_caught
    assert cancel_scope(shield=True).shield
