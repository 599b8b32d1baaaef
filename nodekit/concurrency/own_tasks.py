"""Changes made in tasks of their own, so that no cancellation of the caller interrupts them.

A shield is not enough: asyncio's own `Task.cancel`, which servers and `asyncio.timeout` use, reaches through it.
"""

from collections.abc import Awaitable, Callable
from contextvars import ContextVar
from types import TracebackType
from typing import TYPE_CHECKING, Any, Generic, ParamSpec, Self, TypeVar

import anyio
from anyio.abc import TaskGroup

from nodekit.concurrency.event import Event
from nodekit.concurrency.loop import running_loop
from nodekit.errors import StoreFailed

if TYPE_CHECKING:
    import asyncio

P = ParamSpec("P")
T = TypeVar("T")


class _Change(Generic[T]):
    """The result of a change. Its caller may have gone."""

    def __init__(self, running: "dict[_Change[Any], asyncio.Task[None]]") -> None:
        self._running = running
        self.made = Event()
        self.result: T
        self.error: Exception | None = None

    async def make(self, function: Callable[..., Awaitable[T]], args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        _current.set(self)
        try:
            self.result = await function(*args, **kwargs)
        except Exception as error:
            self.error = error
        except BaseException as error:  # a component's own: its caller must not wait for ever
            self.error = StoreFailed(f"the change was interrupted: {type(error).__name__}")
            raise
        finally:
            self._running.pop(self, None)
            self.made.set()

    async def make_shielded(
        self, function: Callable[..., Awaitable[T]], args: tuple[Any, ...], kwargs: dict[str, Any]
    ) -> None:
        with anyio.CancelScope(shield=True):
            await self.make(function, args, kwargs)


_current: "ContextVar[_Change[Any] | None]" = ContextVar("nodekit_change", default=None)
"""The change that this task makes. A task that was started inside a change and outlives it makes none."""


class OwnTasks:
    """Tasks for changes, while it is open. Leaving it waits for the changes that were begun.

    On asyncio they are plain tasks: nothing that cancels the caller reaches them, and they cost a sixth of those that
    anyio starts.
    """

    def __init__(self) -> None:
        self.open = False
        """True while changes can be made here."""
        self._group: TaskGroup | None = None
        """The group of the tasks, on trio."""
        self._loop: asyncio.AbstractEventLoop | None = None
        self._running: dict[_Change[Any], asyncio.Task[None]] = {}
        """Changes that are being made, on asyncio. Each takes itself out, since a callback of its task costs more."""

    async def __aenter__(self) -> Self:
        self._loop = running_loop()
        if self._loop is None:
            self._group = await anyio.create_task_group().__aenter__()
        self.open = True
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.open = False
        if self._group is not None:
            await self._group.__aexit__(None, None, None)  # without the caller's error, which it would wrap
        with anyio.CancelScope(shield=True):
            for task in list(self._running.values()):
                await _end_of(task)

    def check(self) -> None:
        """Raise `StoreFailed` unless it is open."""
        if not self.open:
            raise StoreFailed("the store is not open")

    async def run(self, function: Callable[P, Awaitable[T]], *args: P.args, **kwargs: P.kwargs) -> T:
        """Call and await the function. It runs to its end even if the caller does not.

        A call from inside a change runs in that change's task.
        """
        self.check()
        if (outer := _current.get()) is not None and not outer.made.is_set():
            return await function(*args, **kwargs)
        change: _Change[T] = _Change(self._running)
        if self._loop is not None:
            self._running[change] = self._loop.create_task(change.make(function, args, kwargs))
        elif self._group is not None:
            self._group.start_soon(change.make_shielded, function, args, kwargs)
        await change.made.wait()
        if change.error is not None:
            raise change.error
        return change.result


async def _end_of(task: "asyncio.Task[None]") -> None:
    ended = Event()
    task.add_done_callback(lambda _: ended.set())
    await ended.wait()
