"""Changes of the store that are told to observers: made and told to their end, whatever becomes of the caller."""

from collections.abc import Awaitable, Callable
from types import TracebackType
from typing import Self, TypeVar

from nodekit.concurrency.own_tasks import OwnTasks
from nodekit.model.events import Event

T = TypeVar("T")


class Telling:
    """Tells what has happened. `observed` is asked first: events need not be told where nobody listens."""

    def __init__(self, observed: Callable[[], bool], tell: Callable[[Event], None]) -> None:
        self._observed = observed
        self._tell = tell
        self._own = OwnTasks()

    async def __aenter__(self) -> Self:
        await self._own.__aenter__()
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self._own.__aexit__(kind, error, trace)

    def tell(self, event: Event) -> None:
        if self._observed():
            self._tell(event)

    async def to_its_end(self, change: Callable[[], Awaitable[T]]) -> T:
        """Make a change and tell of it, also where the caller is cancelled meanwhile, by any means.

        It is a task of its own while somebody listens: a store may keep what its caller no longer waits for.
        """
        if self._observed() and self._own.open:
            return await self._own.run(change)
        return await change()
