"""Changes of the store that are emitted to observers. They complete and are emitted even if the caller is cancelled."""

from collections.abc import Awaitable, Callable
from types import TracebackType
from typing import Self, TypeVar

from nodekit.concurrency.own_tasks import OwnTasks
from nodekit.model.events import Event

T = TypeVar("T")


class Emitter:
    """Emitter of events to `observe`; None: nobody observes, and nothing is emitted."""

    def __init__(self, observe: Callable[[Event], None] | None) -> None:
        self._observe = observe
        self._own = OwnTasks()

    async def __aenter__(self) -> Self:
        await self._own.__aenter__()
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self._own.__aexit__(kind, error, trace)

    def emit(self, event: Event) -> None:
        if self._observe is not None:
            self._observe(event)

    def to_its_end(self, change: Callable[[], Awaitable[T]]) -> Awaitable[T]:
        """Make a change and emit it, even if the caller is cancelled meanwhile, by any means.

        While there are observers, the change runs in a task of its own: the store may complete it after its caller has
        gone.
        """
        if self._observe is not None and self._own.open:
            return self._own.run(change)
        return change()
