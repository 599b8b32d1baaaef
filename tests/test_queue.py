"""The queue: the schedule on a steady clock."""

import pickle

import anyio
import pytest

from nodekit import Unfinished
from nodekit._queue import Queue
from nodekit.testing import VirtualClock

pytestmark = pytest.mark.anyio


def entry(number: int, **times: float) -> Unfinished:
    return Unfinished(id=f"{number:06}", client="a", priority=3, due="x", **times)


def put(queue: Queue, *entries: Unfinished, delay_seconds: float | None = None) -> None:
    for some in entries:
        queue.know(some.id)
        queue.put(some, delay_seconds=delay_seconds)


async def test_what_is_forgotten_leaves_nothing_behind() -> None:
    queue = Queue()
    for number in range(5000):
        put(queue, entry(number, queue_timeout_seconds=9))
        assert [some.id for some in await queue.take({"x"}, 1)] == [f"{number:06}"]
        queue.forget(f"{number:06}")
    assert len(pickle.dumps(queue._times)) < 1000


async def test_a_job_that_is_put_back_has_waited_all_the_while(clock: VirtualClock) -> None:
    queue, some = Queue(), entry(1, queue_timeout_seconds=10)
    put(queue, some)
    await clock.advance(6)
    await queue.take({"x"}, 1)
    queue.put_back(some)
    await clock.advance(6)
    with anyio.fail_after(60):
        assert await queue.take_expired(1) == [some]


async def test_whoever_waits_for_expiries_is_not_woken_by_each_job_that_comes_and_goes() -> None:
    queue, woken = Queue(), 0

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
            await queue.take({"x"}, 1)
            await anyio.wait_all_tasks_blocked()
            queue.forget(f"{number:06}")
        assert woken == 1  # for the first one: there was nothing to wait for before
        put(queue, entry(99, queue_timeout_seconds=0.01))  # sooner than all before
        await anyio.wait_all_tasks_blocked()
    assert woken == 2
