"""`time_limit`: it ends a block in time, and does not count the time in which the process could do nothing."""

import threading
import time

import anyio
import pytest

from nodekit import time_limit

pytestmark = pytest.mark.anyio


async def test_a_block_that_ends_in_time_is_left_alone() -> None:
    with time_limit(60) as scope:
        await anyio.sleep(0)
    assert not scope.cancelled_caught
    await anyio.sleep(0)


@pytest.mark.parametrize("seconds", [0, -1, 0.01])
async def test_a_block_that_takes_longer_is_cancelled(seconds: float) -> None:
    with anyio.fail_after(60):
        with time_limit(seconds) as scope:
            await anyio.sleep_forever()
    assert scope.cancelled_caught


async def test_a_limit_of_several_slices_ends_and_not_before() -> None:
    began = time.monotonic()
    with anyio.fail_after(60):
        with time_limit(1.3) as scope:
            await anyio.sleep_forever()
    assert scope.cancelled_caught
    assert time.monotonic() - began >= 1.25


async def test_no_limit_is_no_limit() -> None:
    with anyio.move_on_after(0.01) as outer:
        with time_limit(float("inf")) as inner:
            await anyio.sleep_forever()
    assert outer.cancelled_caught
    assert not inner.cancelled_caught


@pytest.mark.parametrize("anyio_backend", ["asyncio"])
@pytest.mark.parametrize("seconds", [0.3, 1.2])
async def test_what_came_while_the_loop_stood_still_is_not_too_late(seconds: float) -> None:
    """The answer is there before the loop goes on, and its limit is long over by the clock."""
    answer, token = anyio.Event(), anyio.lowlevel.current_token()

    def come() -> None:
        anyio.from_thread.run_sync(answer.set, token=token)

    with time_limit(seconds) as scope:
        await anyio.sleep(0)
        thread = threading.Thread(target=come)
        thread.start()
        time.sleep(seconds + 1)  # the loop, and with it its timers
        await answer.wait()
    thread.join()
    assert not scope.cancelled_caught


@pytest.mark.parametrize("anyio_backend", ["asyncio"])
async def test_a_limit_ends_although_the_loop_is_late_again_and_again() -> None:
    async def be_late() -> None:
        while True:
            time.sleep(0.15)
            await anyio.sleep(0)

    with anyio.fail_after(60):
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(be_late)
            with time_limit(0.2) as scope:
                await anyio.sleep_forever()
            tasks.cancel_scope.cancel()
    assert scope.cancelled_caught
