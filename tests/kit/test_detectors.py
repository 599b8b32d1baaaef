"""Detectors find what they look for, report the place, and report nothing else."""

import asyncio
import contextlib
import os
import socket
import threading
import time
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import anyio
import anyio.lowlevel
import anyio.to_thread
import pytest

from nodekit.testing import (
    VirtualClock,
    no_leaked_descriptors,
    no_leaked_tasks,
    no_leaked_threads,
    no_leaks,
    unblocked_loop,
)
from nodekit.testing.leaks.loop_watch import Watcher

pytestmark = pytest.mark.anyio


def hold_up(seconds: float = 1.0) -> None:
    time.sleep(seconds)


def compute(watcher: Watcher) -> None:
    gives_up = time.perf_counter() + 60
    while watcher.stack is None and time.perf_counter() < gives_up:
        pass


async def test_a_blocked_event_loop_is_found_and_shown() -> None:
    with pytest.raises(AssertionError, match=r"did not go round for 0\.4 s(?s:.)*in hold_up\n *time\.sleep"):
        async with unblocked_loop():
            hold_up()


async def test_a_loop_that_is_busy_in_python_is_found() -> None:
    with Watcher(2, 0.5) as watcher:  # on a busy machine, checks at shorter intervals are late
        compute(watcher)
    assert "in compute" in str(watcher.stack)


async def test_a_loop_that_waits_or_is_held_up_briefly_is_not_blocked() -> None:
    async with unblocked_loop():
        await anyio.sleep(0.7)
        for _ in range(10):
            time.sleep(0.05)
            await anyio.lowlevel.checkpoint()
        await anyio.to_thread.run_sync(hold_up)


async def test_time_that_a_test_moves_blocks_nothing() -> None:
    with VirtualClock() as clock:
        async with unblocked_loop():
            await clock.advance(1000)


async def test_a_process_that_stood_still_as_a_whole_is_not_blocked(monkeypatch: pytest.MonkeyPatch) -> None:
    """The watching thread was late as well, as on a busy machine."""
    now = time.perf_counter
    late = iter(range(1_000_000))
    monkeypatch.setattr(time, "perf_counter", lambda: now() + next(late))
    async with unblocked_loop():
        hold_up()


@pytest.mark.parametrize("share", [0.5, 1.0])
async def test_time_in_which_a_loop_gets_no_processor_does_not_count(
    share: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    began = time.perf_counter()
    monkeypatch.setattr(Watcher, "_held_up_seconds", lambda self: share * (time.perf_counter() - began))
    if share == 1.0:
        async with unblocked_loop():
            hold_up()
    else:
        with pytest.raises(AssertionError, match="in hold_up"):
            async with unblocked_loop():
                hold_up(3.0)  # half of the time counts, and ticks that are late on a busy machine do not


def raise_after_a_while() -> None:
    hold_up()
    raise KeyError


async def test_an_error_inside_comes_first() -> None:
    for detector in (unblocked_loop, no_leaks):
        with pytest.raises(KeyError):
            async with detector():
                raise_after_a_while()


async def test_a_watcher_ends_with_its_block() -> None:
    before = threading.active_count()
    async with unblocked_loop():
        assert threading.active_count() == before + 1
    assert threading.active_count() == before


@pytest.fixture
async def spawn() -> AsyncIterator[Callable[[], None]]:
    """Start tasks in a group that goes on."""

    async def forgotten() -> None:
        await anyio.sleep(1000)

    async with anyio.create_task_group() as tasks:
        yield lambda: tasks.start_soon(forgotten, name="pushes metrics")
        tasks.cancel_scope.cancel()


@pytest.mark.parametrize("detector", [no_leaked_tasks, no_leaks])
async def test_a_task_that_is_left_is_named(spawn: Callable[[], None], detector: Any) -> None:
    with pytest.raises(AssertionError, match=r"1 tasks were left(?s:.)*pushes metrics, in .*forgotten \(.*\.py:\d+\)"):
        async with detector(grace_seconds=0.05):
            spawn()


async def test_tasks_that_were_there_or_come_to_their_end_are_not_left(spawn: Callable[[], None]) -> None:
    spawn()
    async with anyio.create_task_group() as tasks:
        async with no_leaked_tasks():
            tasks.start_soon(anyio.sleep, 0.2)


@pytest.mark.parametrize("anyio_backend", ["asyncio"])
async def test_a_task_of_asyncio_that_nobody_awaits_is_found() -> None:
    with pytest.raises(AssertionError, match="refreshing"):
        async with no_leaked_tasks(grace_seconds=0.05):
            task = asyncio.create_task(asyncio.sleep(60), name="refreshing")
    task.cancel()
    with contextlib.suppress(asyncio.CancelledError):
        await task


@asynccontextmanager
async def found(words: str) -> AsyncIterator[list[int]]:
    opened: list[int] = []
    with pytest.raises(AssertionError, match=words):
        async with no_leaked_descriptors(grace_seconds=0.05):
            yield opened
    for fd in opened:
        os.close(fd)


async def test_descriptors_that_are_left_are_named(tmp_path: Path) -> None:
    path = tmp_path / "jobs.sqlite"
    async with found(r"1 file descriptors were left open:\n *\d+: .*jobs\.sqlite"):
        fd = os.open(path, os.O_CREAT)
    os.close(fd)
    with socket.create_server(("127.0.0.1", 0)) as server:
        async with found(rf"a socket at .*{server.getsockname()[1]}"):
            again = server.dup()
        again.close()
    async with found("pipe") as opened:
        opened.extend(os.pipe())


async def test_descriptors_that_were_there_or_are_closed_are_not_left(tmp_path: Path) -> None:
    with (tmp_path / "one").open("w") as before:
        async with no_leaked_descriptors():
            with (tmp_path / "two").open("w"):
                before.write("x")
            os.unlink(tmp_path / "one")


async def test_a_number_that_is_used_again_is_another_descriptor(tmp_path: Path) -> None:
    fd = os.open(tmp_path, os.O_RDONLY)
    async with found(str(fd)):
        os.close(fd)
        assert os.open(__file__, os.O_RDONLY) == fd
    os.close(fd)


async def test_where_the_system_does_not_tell_nothing_is_found(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr("nodekit.testing.leaks.descriptors._FOLDERS", (str(tmp_path / "proc"), str(tmp_path / "dev")))
    async with no_leaked_descriptors():
        fd = os.open(tmp_path, os.O_RDONLY)
    os.close(fd)


@pytest.mark.parametrize("detector", [no_leaked_threads, no_leaks])
async def test_a_thread_that_is_left_is_named(detector: Any) -> None:
    go_on = threading.Event()
    thread = threading.Thread(target=go_on.wait, name="writer")
    with pytest.raises(AssertionError, match=r"1 threads were left running(?s:.)*writer \(.*wait"):
        async with detector(grace_seconds=0.05):
            thread.start()
    go_on.set()
    thread.join()


async def test_threads_of_the_loop_and_daemons_and_those_that_end_are_not_left() -> None:
    go_on = threading.Event()
    async with no_leaked_threads():
        await anyio.to_thread.run_sync(lambda: None)
        threading.Thread(target=go_on.wait, daemon=True).start()
        threading.Thread(target=time.sleep, args=(0.2,)).start()
    go_on.set()
