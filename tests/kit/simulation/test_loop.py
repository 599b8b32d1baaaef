"""The loop of a simulation: its time leaps, a seed chooses who goes on, and nothing reaches outside."""

import asyncio
import socket
import subprocess
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Coroutine
from random import Random
from threading import Event, Thread
from typing import Any, TypeVar

import anyio
import anyio.to_thread
import pytest
from components import PATIENCE_SECONDS

from nodekit.testing.simulation import SimulatedLoop, SimulationFailed
from nodekit.testing.simulation.loop import Process, this_process

T = TypeVar("T")

YEAR_SECONDS = 365 * 86400


def run(main: Callable[[], Coroutine[Any, Any, T]], *, seed: int = 1, **options: Any) -> T:
    """Run a function in a loop of its own."""
    loop = SimulatedLoop(Random(seed), **options)
    try:
        result: T = loop.run_until_complete(main())
    finally:
        loop.close()
    assert loop.errors == []
    return result


def the_loop() -> SimulatedLoop:
    loop = asyncio.get_running_loop()
    assert isinstance(loop, SimulatedLoop)
    return loop


# -- time -----------------------------------------------------------------------------------------


def test_time_leaps_over_what_nobody_uses() -> None:
    async def main() -> float:
        await anyio.sleep(YEAR_SECONDS)
        return the_loop().now

    assert run(main) == YEAR_SECONDS


def test_timers_are_due_in_the_order_of_their_times() -> None:
    async def main() -> list[tuple[float, float]]:
        woken: list[tuple[float, float]] = []

        async def sleep(seconds: float) -> None:
            await anyio.sleep(seconds)
            woken.append((seconds, the_loop().now))

        async with anyio.create_task_group() as tasks:
            for seconds in (3.0, 1.0, 0.5, 2.0):
                tasks.start_soon(sleep, seconds)
        return woken

    assert run(main) == [(seconds, seconds) for seconds in (0.5, 1.0, 2.0, 3.0)]


def test_a_time_limit_ends_what_takes_longer_and_nothing_else() -> None:
    async def main() -> list[bool]:
        ended: list[bool] = []
        for seconds in (0.9, 1.1):
            with anyio.move_on_after(1.0) as limit:
                await anyio.sleep(seconds)
            ended.append(limit.cancelled_caught)
        return ended

    assert run(main) == [False, True]


def test_a_timer_that_was_cancelled_is_not_waited_for() -> None:
    async def main() -> float:
        the_loop().call_later(YEAR_SECONDS, print).cancel()
        await anyio.sleep(1)
        return the_loop().now

    assert run(main) == 1


def test_each_turn_of_a_task_takes_the_given_time() -> None:
    async def main() -> tuple[int, float]:
        for _ in range(100):
            await asyncio.sleep(0)
        return the_loop().steps, the_loop().now

    steps, now = run(main, step_seconds=0.001)
    assert steps == 101
    assert now == pytest.approx(0.101)


def test_a_process_has_a_steady_clock_of_its_own() -> None:
    async def main() -> tuple[float, float]:
        async def sleep() -> float:
            began_at = asyncio.get_running_loop().time()
            await anyio.sleep(2)
            assert asyncio.get_running_loop().time() == began_at + 2
            return began_at

        return await the_loop().start(Process("late", 5000.0), sleep()), the_loop().now

    assert run(main) == (5000.0, 2.0)


# -- order ----------------------------------------------------------------------------------------


def order_of_ten(seed: int) -> list[int]:
    async def main() -> list[int]:
        order: list[int] = []

        async def note(number: int) -> None:
            order.append(number)

        async with anyio.create_task_group() as tasks:
            for number in range(10):
                tasks.start_soon(note, number)
        return order

    return run(main, seed=seed)


def test_tasks_that_are_ready_go_on_in_an_order_that_the_seed_chooses() -> None:
    orders = [order_of_ten(seed) for seed in range(20)]
    assert orders == [order_of_ten(seed) for seed in range(20)]
    assert len({tuple(order) for order in orders}) == 20
    assert all(sorted(order) == list(range(10)) for order in orders)


def test_each_ready_task_may_be_the_first() -> None:
    assert {order_of_ten(seed)[0] for seed in range(100)} == set(range(10))


def test_callbacks_keep_their_order() -> None:
    async def main() -> list[int]:
        order: list[int] = []
        for number in range(10):
            the_loop().call_soon(order.append, number)
        await anyio.sleep(1)
        return order

    assert run(main) == list(range(10))


# -- processes ------------------------------------------------------------------------------------


def test_what_a_process_starts_belongs_to_it() -> None:
    async def main() -> list[str]:
        names: list[str] = []

        async def inner() -> None:
            names.append(this_process().name)

        async def outer() -> None:
            async with anyio.create_task_group() as tasks:
                tasks.start_soon(inner)
            the_loop().call_later(1, lambda: names.append(this_process().name))
            await anyio.sleep(2)

        await the_loop().start(Process("one", 0.0), outer())
        return [*names, this_process().name]

    assert run(main) == ["one", "one", "world"]


def test_nothing_of_a_stopped_process_runs_until_it_is_resumed() -> None:
    async def main() -> tuple[list[str], list[str]]:
        process, ticks = Process("one", 0.0), list[str]()

        async def tick() -> None:
            for _ in range(3):
                await anyio.sleep(1)
                ticks.append(f"{the_loop().now:g}")

        task = the_loop().start(process, tick())
        await anyio.sleep(1.5)
        process.stopped = True
        await anyio.sleep(10)
        before = list(ticks)
        the_loop().resume(process)
        await task
        return before, ticks

    assert run(main) == (["1"], ["1", "11.5", "12.5"])


def test_turns_are_counted_for_each_process() -> None:
    async def main() -> dict[str, int]:
        async def turns() -> None:
            for _ in range(4):
                await asyncio.sleep(0)

        await the_loop().start(Process("one", 0.0), turns())
        return the_loop().turns

    assert run(main)["one"] == 5


# -- what comes to no end -------------------------------------------------------------------------


@pytest.mark.parametrize("wait", [anyio.sleep_forever, lambda: anyio.Event().wait()], ids=["sleep", "event"])
def test_a_wait_for_something_that_never_comes_is_a_failure(wait: Callable[[], Awaitable[object]]) -> None:
    async def main() -> None:
        await wait()

    with pytest.raises(SimulationFailed, match="stands still: no task is ready, and no timer runs"):
        run(main)


def test_a_task_that_never_rests_is_a_failure() -> None:
    async def main() -> None:
        while True:
            await asyncio.sleep(0)

    with pytest.raises(SimulationFailed, match="more than 1000 turns"):
        run(main, most_steps=1000)


def test_callbacks_that_post_themselves_again_do_not_keep_time_from_passing() -> None:
    async def main() -> float:
        def again() -> None:
            the_loop().call_soon(again)

        again()
        await anyio.sleep(5)
        return the_loop().now

    assert run(main) == 5


def test_a_cancellation_that_is_not_heard_at_once_does_not_keep_time_from_passing() -> None:
    async def main() -> float:
        with anyio.move_on_after(1), anyio.CancelScope(shield=True):
            await anyio.sleep(3)
        return the_loop().now

    assert run(main) == 3


def test_a_simulation_inside_of_a_loop_is_a_failure() -> None:
    async def main() -> None:
        inner = SimulatedLoop(Random(1))
        work = asyncio.sleep(0)
        try:
            inner.run_until_complete(work)
        finally:
            inner.close()
            work.close()

    with pytest.raises(SimulationFailed, match="call it from code that is not async"):
        asyncio.run(main())


def test_an_error_that_nobody_catches_is_noted() -> None:
    def fail() -> None:
        raise ZeroDivisionError("one for nobody")

    async def main() -> None:
        the_loop().call_soon(fail)
        await anyio.sleep(1)

    loop = SimulatedLoop(Random(1))
    loop.run_until_complete(main())
    loop.close()
    assert loop.errors == ["a callback failed: ZeroDivisionError('one for nobody')"]


def test_generators_that_are_left_are_closed() -> None:
    closed: list[bool] = []

    async def numbers() -> AsyncIterator[int]:
        try:
            while True:
                yield 1
        finally:
            await anyio.sleep(0)
            closed.append(True)

    async def main() -> None:
        async for _ in numbers():
            break
        await anyio.sleep(1)

    run(main)
    assert closed == [True]


# -- the world outside ----------------------------------------------------------------------------


async def sleep_really() -> None:
    time.sleep(0)


async def start_a_thread() -> None:
    Thread(target=print).start()


async def use_a_thread_of_anyio() -> None:
    await anyio.to_thread.run_sync(print)


async def use_a_thread_of_asyncio() -> None:
    await asyncio.to_thread(print)


async def connect_by_tcp() -> None:
    await anyio.connect_tcp("127.0.0.1", 1)


async def connect_by_name() -> None:
    await anyio.connect_tcp("localhost", 1)


async def connect_at_a_path() -> None:
    await anyio.connect_unix("/nowhere")


async def listen() -> None:
    await anyio.create_tcp_listener(local_host="127.0.0.1")


async def open_a_socket() -> None:
    socket.socket()


async def start_a_program() -> None:
    await anyio.run_process(["true"])


async def start_a_program_and_wait() -> None:
    subprocess.run(["true"], check=True)


async def receive_signals() -> None:
    with anyio.open_signal_receiver(15):
        pass


REACHES: dict[Callable[[], Awaitable[object]], str] = {
    sleep_really: "cannot wait in real time",
    start_a_thread: "has no threads",
    use_a_thread_of_anyio: "has no threads",
    use_a_thread_of_asyncio: "has no threads",
    connect_by_tcp: "has no sockets; it connects by `Machine.connect`",
    connect_by_name: "has no sockets",
    connect_at_a_path: "has no sockets",
    listen: "has no sockets",
    open_a_socket: "has no sockets",
    start_a_program: "starts no others",
    start_a_program_and_wait: "starts no others",
    receive_signals: "gets no signals",
}


@pytest.mark.parametrize(("reach", "words"), REACHES.items(), ids=[one.__name__ for one in REACHES])
def test_code_that_reaches_outside_ends_the_simulation(reach: Callable[[], Awaitable[object]], words: str) -> None:
    async def stubborn() -> None:
        while True:
            try:
                await reach()
            except Exception:
                await anyio.sleep(1)

    async def main() -> None:
        await the_loop().start(Process("one", 0.0), stubborn())

    with pytest.raises(SimulationFailed, match=f"^one: .*{words}"):
        run(main, most_steps=1000)


def test_other_threads_may_reach_outside_meanwhile() -> None:
    begun, slept = Event(), Event()

    def sleep() -> None:
        begun.wait()
        time.sleep(0)
        slept.set()

    async def main() -> bool:
        begun.set()
        return slept.wait(PATIENCE_SECONDS)

    thread = Thread(target=sleep)
    thread.start()
    assert run(main)
    thread.join()
