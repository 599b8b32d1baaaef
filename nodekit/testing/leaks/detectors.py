"""Detectors of harm to the process: a blocked event loop, and leaked tasks, descriptors or threads.

Each is an async context manager that raises `AssertionError` when it is left, and says what it found and where. An
error of its body takes precedence. They run on asyncio and trio::

    async with no_leaked_tasks(), no_leaked_descriptors(), unblocked_loop():
        async with MyStore() as store:
            await store.add(jobs)
"""

import os
import sysconfig
import threading
from collections.abc import AsyncGenerator, Callable, Mapping
from contextlib import asynccontextmanager
from types import CodeType
from typing import Any, TypeVar

import anyio

from nodekit.testing.leaks.descriptors import descriptors, name_of
from nodekit.testing.leaks.loop_watch import TICK_SECONDS, TICKS, Watcher

__all__ = ["no_leaked_descriptors", "no_leaked_tasks", "no_leaked_threads", "no_leaks", "unblocked_loop"]

GRACE_SECONDS = 2.0
"""Time in which tasks, descriptors and threads that are ending may still end."""
_LOOK_AGAIN_SECONDS = 0.01
_OF_THE_LOOP = ("AnyIO worker thread", "asyncio_")
"""Threads that an event loop keeps for later use, and ends together with itself."""
_LIBRARIES = tuple(sysconfig.get_path(name) for name in ("stdlib", "purelib", "platlib"))

K = TypeVar("K")


@asynccontextmanager
async def unblocked_loop(*, ticks: int = TICKS, tick_seconds: float = TICK_SECONDS) -> AsyncGenerator[None, None]:
    """Fail if the event loop makes no turn for `ticks` consecutive checks by another thread.

    Checks on a busy machine, where the checking thread is late as well, do not count. The error has the stack of the
    event loop's thread at that time. Code that blocks the whole interpreter, as some extension modules do, is not
    detected.
    """
    watcher = Watcher(ticks, tick_seconds)
    with watcher:
        yield
    if watcher.stack is not None:
        raise AssertionError(
            f"the event loop did not go round for {ticks * tick_seconds:g} s: it was blocked here (innermost last; "
            f"call what blocks by `anyio.to_thread.run_sync`)\n{watcher.stack}"
        )


@asynccontextmanager
async def no_leaked_tasks(*, grace_seconds: float = GRACE_SECONDS) -> AsyncGenerator[None, None]:
    """Fail if tasks that were started inside still run after the grace."""
    before = set(_tasks())
    yield
    left = await _left(lambda: {id: task for id, task in _tasks().items() if id not in before}, grace_seconds)
    _complain("tasks were left running (await them, or start them in a task group that is left)", left)


@asynccontextmanager
async def no_leaked_descriptors(*, grace_seconds: float = GRACE_SECONDS) -> AsyncGenerator[None, None]:
    """Fail if file descriptors that were opened inside are still open after the grace.

    It reads ``/proc/self/fd`` or ``/dev/fd``. If the system has neither, it finds nothing.
    """
    before = descriptors()
    yield
    left = await _left(lambda: {fd: name_of(fd) for fd in descriptors() - before}, grace_seconds)
    _complain("file descriptors were left open", {fd: f"{fd.number}: {name}" for fd, name in left.items()})


@asynccontextmanager
async def no_leaked_threads(*, grace_seconds: float = GRACE_SECONDS) -> AsyncGenerator[None, None]:
    """Fail if threads that were started inside still run after the grace.

    Threads that may be killed with the process (daemons), and threads that an event loop keeps for later, do not count.
    """
    before = set(_threads())
    yield
    left = await _left(lambda: {t: name for t, name in _threads().items() if t not in before}, grace_seconds)
    _complain("threads were left running (end and join them)", left)


@asynccontextmanager
async def no_leaks(*, grace_seconds: float = GRACE_SECONDS) -> AsyncGenerator[None, None]:
    """Fail on leaked tasks, descriptors or threads."""
    async with (
        no_leaked_tasks(grace_seconds=grace_seconds),
        no_leaked_descriptors(grace_seconds=grace_seconds),
        no_leaked_threads(grace_seconds=grace_seconds),
    ):
        yield


async def _left(look: Callable[[], Mapping[K, str]], grace_seconds: float) -> Mapping[K, str]:
    """Return everything that is still there after the grace. Looks at least twice."""
    looks = max(1, round(grace_seconds / _LOOK_AGAIN_SECONDS))
    for _ in range(looks):
        if not (left := look()):
            return left
        await anyio.sleep(_LOOK_AGAIN_SECONDS)
    return look()


def _complain(text: str, left: Mapping[Any, str]) -> None:
    if left:
        raise AssertionError("\n  ".join([f"{len(left)} {text}:", *sorted(left.values())]))


def _tasks() -> Mapping[int, str]:
    own = anyio.get_current_task().id
    tasks = [task for task in anyio.get_running_tasks() if task.id != own and not _runs_tests(task.coro)]
    return {task.id: f"{task.name}, {_place(task.coro)}" for task in tasks}


def _runs_tests(coroutine: Any) -> bool:
    """Return True if the coroutine is the one in which anyio's plugin for pytest runs fixtures."""
    return getattr(coroutine, "__qualname__", "").startswith("TestRunner.")


def _place(coroutine: Any) -> str:
    """Describe the line at which a coroutine waits: the innermost one outside of libraries, if there is one."""
    places: list[tuple[bool, str]] = []
    while (frame := getattr(coroutine, "cr_frame", None)) is not None:
        code: CodeType = coroutine.cr_code
        library = code.co_filename.startswith(_LIBRARIES)
        places.append((not library, f"in {code.co_qualname} ({os.path.relpath(code.co_filename)}:{frame.f_lineno})"))
        coroutine = getattr(coroutine, "cr_await", None)
    own = [place for is_own, place in places if is_own]
    return (own or [place for _, place in places] or [repr(coroutine)])[-1]


def _threads() -> Mapping[threading.Thread, str]:
    alive = [t for t in threading.enumerate() if not t.daemon and not t.name.startswith(_OF_THE_LOOP)]
    return {thread: f"{thread.name} ({getattr(thread, '_target', None) or type(thread).__name__})" for thread in alive}
