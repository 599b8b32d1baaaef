"""A group of many short tasks, which cost a third of those that anyio starts."""

from collections.abc import Callable, Coroutine
from typing import TYPE_CHECKING, Any

import anyio
from anyio.abc import TaskGroup

from nodekit.concurrency.event import Event
from nodekit.concurrency.loop import running_loop
from nodekit.concurrency.scopes import cancel_scope

if TYPE_CHECKING:
    import asyncio


class Tasks:
    """Tasks that belong to a task group: they end with it, and it ends with the failure of one.

    On asyncio they are plain tasks, each in a cancel scope, and one task of the group watches over all of them. On trio
    they are tasks of the group.
    """

    def __init__(self, group: TaskGroup) -> None:
        self._group = group
        self._loop = running_loop()
        self._running: dict[anyio.CancelScope, asyncio.Task[None]] = {}
        self._failures: list[BaseException] = []
        self._failed, self._all_ended = Event(), Event()
        self._ends = False
        """True once the group ends. Its own tasks do what is begun later, and end at once."""
        if self._loop is not None:
            group.start_soon(self._watch)

    def start(self, function: Callable[..., Coroutine[Any, Any, None]], *args: Any) -> None:
        """Call the function in a task of its own, with a copy of this task's context."""
        if self._loop is None or self._ends:
            self._group.start_soon(function, *args)
        else:
            scope = cancel_scope()
            self._running[scope] = self._loop.create_task(self._run(scope, function, args))

    async def _run(
        self, scope: anyio.CancelScope, function: Callable[..., Coroutine[Any, Any, None]], args: tuple[Any, ...]
    ) -> None:
        try:
            with scope:
                await function(*args)
        except (anyio.get_cancelled_exc_class(), KeyboardInterrupt, SystemExit):
            raise  # they end the task, or the event loop
        except BaseException as error:
            self._failures.append(error)
            self._failed.set()
        finally:
            del self._running[scope]
            if self._ends and not self._running:
                self._all_ended.set()

    async def _watch(self) -> None:
        try:
            await self._failed.wait()
        finally:
            self._ends = True
            for scope in self._running:
                scope.cancel()
            if self._running:
                with anyio.CancelScope(shield=True):
                    await self._all_ended.wait()
            if self._failures:
                raise BaseExceptionGroup("tasks failed", self._failures)
