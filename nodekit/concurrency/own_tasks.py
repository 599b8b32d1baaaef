"""Changes made in tasks of their own, so that no cancellation of the caller interrupts them.

A shield is not enough: asyncio's own `Task.cancel`, which servers and `asyncio.timeout` use, reaches through it.
"""

from collections.abc import Awaitable, Callable
from contextvars import ContextVar
from types import TracebackType
from typing import Any, Generic, ParamSpec, Self, TypeVar

import anyio
from anyio.abc import TaskGroup

from nodekit.errors import StoreFailed

P = ParamSpec("P")
T = TypeVar("T")


class _Change(Generic[T]):
    """The result of a change. Its caller may have gone."""

    def __init__(self) -> None:
        self.made = anyio.Event()
        self.result: T
        self.error: Exception | None = None

    async def make(self, function: Callable[[], Awaitable[T]]) -> None:
        _current.set(self)
        try:
            with anyio.CancelScope(shield=True):
                self.result = await function()
        except Exception as error:
            self.error = error
        except BaseException as error:  # a component's own: its caller must not wait for ever
            self.error = StoreFailed(f"the change was interrupted: {type(error).__name__}")
            raise
        finally:
            self.made.set()


_current: "ContextVar[_Change[Any] | None]" = ContextVar("nodekit_change", default=None)
"""The change that this task makes. A task that was started inside a change and outlives it makes none."""


class OwnTasks:
    """Tasks for changes, while it is open. Leaving it waits for the changes that were begun."""

    def __init__(self) -> None:
        self._tasks: TaskGroup | None = None

    async def __aenter__(self) -> Self:
        self._tasks = await anyio.create_task_group().__aenter__()
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        assert self._tasks is not None
        tasks, self._tasks = self._tasks, None
        await tasks.__aexit__(None, None, None)  # without the caller's error, which it would wrap

    @property
    def open(self) -> bool:
        """True while changes can be made here."""
        return self._tasks is not None

    def check(self) -> None:
        """Raise `StoreFailed` unless it is open."""
        if not self.open:
            raise StoreFailed("the store is not open")

    async def run(self, function: Callable[P, Awaitable[T]], *args: P.args, **kwargs: P.kwargs) -> T:
        """Call and await the function. It runs to its end even if the caller does not.

        A call from inside a change runs in that change's task.
        """
        self.check()
        assert self._tasks is not None
        if (outer := _current.get()) is not None and not outer.made.is_set():
            return await function(*args, **kwargs)
        change: _Change[T] = _Change()
        self._tasks.start_soon(change.make, lambda: function(*args, **kwargs))
        await change.made.wait()
        if change.error is not None:
            raise change.error
        return change.result
