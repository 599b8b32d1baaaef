"""What a part must not do to the process that it lives in: block the event loop, leave tasks, descriptors or threads.

Each is an asynchronous context manager that raises `AssertionError` on its way out, and says what and where. An error
of its body comes first. They run on asyncio and trio::

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
"""How long what is on its way out may take."""
_LOOK_AGAIN_SECONDS = 0.01
_OF_THE_LOOP = ("AnyIO worker thread", "asyncio_")
"""Threads that an event loop keeps for later use, and ends with itself."""
_LIBRARIES = tuple(sysconfig.get_path(name) for name in ("stdlib", "purelib", "platlib"))

K = TypeVar("K")


@asynccontextmanager
async def unblocked_loop(*, ticks: int = TICKS, tick_seconds: float = TICK_SECONDS) -> AsyncGenerator[None, None]:
    """The event loop goes round: it may stand still for less than `ticks` looks of another thread, in a row.

    On a busy machine both stand still, which counts for nothing. The error has the stack of the event loop's thread at
    that time. What holds the interpreter itself, as some extension modules do, goes unseen.
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
    """Tasks that were started inside have ended, or do so within the grace."""
    before = set(_tasks())
    yield
    left = await _left(lambda: {id: task for id, task in _tasks().items() if id not in before}, grace_seconds)
    _complain("tasks were left running (await them, or start them in a task group that is left)", left)


@asynccontextmanager
async def no_leaked_descriptors(*, grace_seconds: float = GRACE_SECONDS) -> AsyncGenerator[None, None]:
    """File descriptors that were opened inside are closed, or become so within the grace.

    It looks at ``/proc/self/fd`` or ``/dev/fd``; where the system has neither, it finds nothing.
    """
    before = descriptors()
    yield
    left = await _left(lambda: {fd: name_of(fd) for fd in descriptors() - before}, grace_seconds)
    _complain("file descriptors were left open", {fd: f"{fd.number}: {name}" for fd, name in left.items()})


@asynccontextmanager
async def no_leaked_threads(*, grace_seconds: float = GRACE_SECONDS) -> AsyncGenerator[None, None]:
    """Threads that were started inside have ended, or do so within the grace.

    Those that may be killed with the process (daemons), and those that an event loop keeps for later, do not count.
    """
    before = set(_threads())
    yield
    left = await _left(lambda: {t: name for t, name in _threads().items() if t not in before}, grace_seconds)
    _complain("threads were left running (end and join them)", left)


@asynccontextmanager
async def no_leaks(*, grace_seconds: float = GRACE_SECONDS) -> AsyncGenerator[None, None]:
    """No leaked tasks, descriptors or threads."""
    async with (
        no_leaked_tasks(grace_seconds=grace_seconds),
        no_leaked_descriptors(grace_seconds=grace_seconds),
        no_leaked_threads(grace_seconds=grace_seconds),
    ):
        yield


async def _left(look: Callable[[], Mapping[K, str]], grace_seconds: float) -> Mapping[K, str]:
    """What is still there after the grace; looks at least twice."""
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
    """Whether it is how anyio's plugin for pytest runs a fixture."""
    return getattr(coroutine, "__qualname__", "").startswith("TestRunner.")


def _place(coroutine: Any) -> str:
    """Where a coroutine stands: the innermost place that is no library's, if there is one."""
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
