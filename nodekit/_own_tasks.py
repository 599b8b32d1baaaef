"""Changes made in tasks of their own, so that no cancellation of the asker cuts them in two.

A shield is not enough: asyncio's own `Task.cancel`, which servers and `asyncio.timeout` use, reaches through it.
"""

from collections.abc import Awaitable, Callable
from types import TracebackType
from typing import Generic, ParamSpec, Self, TypeVar

import anyio
from anyio.abc import TaskGroup

from nodekit.errors import StoreFailed

P = ParamSpec("P")
T = TypeVar("T")


class _Change(Generic[T]):
    """What came of a change; whoever asked for it may have gone."""

    def __init__(self) -> None:
        self.made = anyio.Event()
        self.result: T
        self.error: Exception | None = None

    async def make(self, function: Callable[[], Awaitable[T]]) -> None:
        with anyio.CancelScope(shield=True):
            try:
                self.result = await function()
            except Exception as error:
                self.error = error
        self.made.set()


class OwnTasks:
    """Makes changes while it is open; leaving it waits for those that were begun."""

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
        await tasks.__aexit__(None, None, None)  # not told of the caller's error, which it would wrap

    def check(self) -> None:
        """Raises `StoreFailed` while it is not open."""
        if self._tasks is None:
            raise StoreFailed("the store is not open")

    async def run(self, function: Callable[P, Awaitable[T]], *args: P.args, **kwargs: P.kwargs) -> T:
        """Call and await the function; it goes on to its end when the caller does not."""
        self.check()
        assert self._tasks is not None
        change: _Change[T] = _Change()
        self._tasks.start_soon(change.make, lambda: function(*args, **kwargs))
        await change.made.wait()
        if change.error is not None:
            raise change.error
        return change.result
