"""The queue: the schedule on a steady clock."""

import pickle
import time

import anyio
import pytest

from nodekit import SystemClock, Unfinished
from nodekit.embedded.fair_schedule import Wanted
from nodekit.embedded.queue import Queue
from nodekit.testing import VirtualClock

pytestmark = pytest.mark.anyio


def entry(number: int, **times: float) -> Unfinished:
    return Unfinished(id=f"{number:06}", group="a", priority=3, due="x", **times)


def put(queue: Queue, *entries: Unfinished, delay_seconds: float | None = None) -> None:
    for some in entries:
        queue.know(some.id)
        queue.put(some, delay_seconds=delay_seconds)


async def test_what_is_forgotten_leaves_nothing_behind() -> None:
    queue = Queue(SystemClock())
    for number in range(5000):
        put(queue, entry(number, queue_timeout_seconds=9))
        assert [some.id for some in await queue.take(Wanted({"x"}), 1)] == [f"{number:06}"]
        queue.forget(f"{number:06}")
    assert len(pickle.dumps(queue._times)) < 1000


def ids(*taken: Unfinished) -> list[str]:
    return [some.id for some in taken]


async def test_a_job_that_was_removed_or_forgotten_does_not_come_any_more() -> None:
    queue, removed, forgotten, stays = Queue(SystemClock()), entry(1), entry(2), entry(3)
    put(queue, removed, forgotten, stays)
    assert all(some.id in queue for some in (removed, forgotten, stays))
    queue.remove(removed.id)
    queue.forget(forgotten.id)
    assert [some.id in queue for some in (removed, forgotten, stays)] == [False, False, True]
    assert await queue.take(Wanted({"x"}), 9) == [stays]
    assert stays.id not in queue
    queue.put_back(removed)  # it is still known
    assert await queue.take(Wanted({"x"}), 9) == [removed]


async def test_whoever_asks_waits_for_a_job_and_gets_no_more_than_it_asked_for() -> None:
    queue, some = Queue(SystemClock()), [entry(number) for number in range(3)]
    taken: list[list[str]] = []

    async def take() -> None:
        taken.append(ids(*await queue.take(Wanted({"x"}), 2)))

    async with anyio.create_task_group() as tasks:
        tasks.start_soon(take)
        await anyio.wait_all_tasks_blocked()
        assert taken == []
        put(queue, *some)
    assert taken == [ids(*some[:2])]
    assert await queue.take(Wanted({"x"}), 2) == [some[2]]


async def test_a_delay_is_not_waiting_and_the_time_in_the_queue_begins_after_it(clock: VirtualClock) -> None:
    queue, some, soon = Queue(SystemClock()), entry(1, queue_timeout_seconds=10), entry(2)
    put(queue, some, delay_seconds=100)
    put(queue, soon, delay_seconds=0.5)
    taken: list[str] = []

    async def take() -> None:
        taken.extend(ids(*await queue.take(Wanted({"x"}), 1)))

    async with anyio.create_task_group() as tasks:
        tasks.start_soon(take)
        await clock.advance(0.6)
        assert taken == [soon.id]
        taken.clear()
        tasks.start_soon(take)
        await clock.advance(98)
        assert taken == []
        await clock.advance(2)
        assert taken == [some.id]
    queue.put_back(some)
    await clock.advance(8)
    with anyio.move_on_after(0.01) as scope:
        await queue.take_expired(1)
    assert scope.cancelled_caught
    await clock.advance(2)
    with anyio.fail_after(5):
        assert await queue.take_expired(1) == [some]


async def test_a_jobs_own_time_counts_from_when_it_was_known_and_the_shorter_one_is_over_first(
    clock: VirtualClock,
) -> None:
    queue = Queue(SystemClock())
    first, second = entry(1, timeout_seconds=60, queue_timeout_seconds=50), entry(2, timeout_seconds=60)
    put(queue, first, second)
    await clock.advance(30)
    assert 30 <= queue.age_seconds(first.id) < 40
    await queue.take(Wanted({"x"}), 2)
    for some in (first, second):
        queue.put(some, delay_seconds=0)
    with anyio.move_on_after(0.01) as scope:
        await queue.take_expired(9)
    assert scope.cancelled_caught
    await clock.advance(31)
    with anyio.fail_after(5):
        assert set(ids(*await queue.take_expired(9))) == {first.id, second.id}


@pytest.mark.parametrize(
    ("ahead", "delay", "left"),
    [(60, 60, 60), (20, 60, 20), (-5, 60, 0), (9999, 60, 60), (60, None, 60)],
    ids=["all", "some", "none", "a clock set back", "unknown"],
)
async def test_what_is_left_of_a_stored_delay_is_never_more_than_all_of_it(
    ahead: float, delay: float | None, left: float, clock: VirtualClock
) -> None:
    queue = Queue(SystemClock())
    put(queue, some := entry(1, not_before=time.time() + ahead, **({} if delay is None else {"delay_seconds": delay})))

    async def comes() -> bool:
        with anyio.move_on_after(0.01):
            return await queue.take(Wanted({"x"}), 1) == [some]
        return False

    if left:
        await clock.advance(left - 5)
        assert not await comes()
        await clock.advance(10)
    assert await comes()


async def test_jobs_without_a_delay_that_is_left_have_waited_since_they_were_put(clock: VirtualClock) -> None:
    queue, now, none = Queue(SystemClock()), entry(1, queue_timeout_seconds=100), entry(2, queue_timeout_seconds=100)
    over = entry(3, queue_timeout_seconds=100, not_before=time.time() - 50, delay_seconds=60)
    put(queue, now, delay_seconds=0)
    put(queue, none, over)
    await clock.advance(101)
    assert [await queue.take_expired(1) for _ in range(3)] == [[now], [none], [over]]


async def test_whoever_waits_rests_though_a_job_was_removed_before_its_time() -> None:
    looks = 0

    def monotonic() -> float:
        nonlocal looks
        looks += 1
        return time.monotonic()

    clock = SystemClock()
    clock.monotonic = monotonic
    queue = Queue(clock)
    put(queue, entry(1, queue_timeout_seconds=0.02), delay_seconds=0.01)
    queue.forget("000001")
    looks = 0
    with anyio.move_on_after(0.1):
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(queue.take, Wanted({"x"}), 1)
            tasks.start_soon(queue.take_expired, 1)
    assert looks < 20


async def test_whoever_waits_for_expiries_is_not_woken_by_each_job_that_comes_and_goes() -> None:
    queue, woken = Queue(SystemClock()), 0

    async def expire() -> None:
        nonlocal woken
        sooner = queue._sooner
        wait = sooner.wait

        async def counted() -> None:
            nonlocal woken
            await wait()
            woken += 1

        queue._sooner = type("Counted", (), {"wait": staticmethod(counted), "set": staticmethod(sooner.set)})()
        await queue.take_expired(1)

    async with anyio.create_task_group() as tasks:
        tasks.start_soon(expire)
        await anyio.wait_all_tasks_blocked()
        for number in range(50):
            put(queue, entry(number, queue_timeout_seconds=1000))
            await queue.take(Wanted({"x"}), 1)
            await anyio.wait_all_tasks_blocked()
            queue.forget(f"{number:06}")
        assert woken == 1  # only for the first one: before, nothing had a time to wait for
        put(queue, entry(99, queue_timeout_seconds=0.01))  # sooner than all before
        await anyio.wait_all_tasks_blocked()
    assert woken == 2
