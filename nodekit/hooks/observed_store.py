"""A store whose calls are emitted to plugins. It otherwise behaves like the store it wraps."""

from collections.abc import Awaitable, Callable
from functools import partial
from types import TracebackType
from typing import Any, cast

from nodekit.errors import ClaimLost
from nodekit.interfaces.store import JobStore
from nodekit.model.events import StoreCall

MEASURED = (
    "add",
    "add_claimed",
    "save",
    "release",
    "settle",
    "get",
    "find",
    "page",
    "sizes",
    "delete",
    "expire",
    "pending",
)
"""Measured methods. Methods that wait for an event are left out: `claim`, `claim_expired`, `changes`."""


def observed(store: JobStore, report: Callable[[StoreCall], None], monotonic: Callable[[], float]) -> JobStore:
    """Return the store wrapped so that `report` is called after each call of a measured method."""
    return cast(JobStore, _ObservedStore(store, report, monotonic))


class _ObservedStore:
    def __init__(self, store: JobStore, report: Callable[[StoreCall], None], monotonic: Callable[[], float]) -> None:
        self._store = store
        self._report, self._monotonic = report, monotonic
        for method in filter(partial(hasattr, store), MEASURED):  # not each store has pages
            setattr(self, method, partial(self._call, method))

    async def __aenter__(self) -> Any:
        await self._store.__aenter__()
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> bool | None:
        return await self._store.__aexit__(kind, error, trace)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._store, name)

    async def _call(self, method: str, /, *args: Any, **kwargs: Any) -> Any:
        call: Callable[..., Awaitable[Any]] = getattr(self._store, method)
        started = self._monotonic()
        try:
            answer = await call(*args, **kwargs)
        except ClaimLost:  # counts as an answer: another run has the job
            self._report(StoreCall(method, self._monotonic() - started, failed=False))
            raise
        except Exception:
            self._report(StoreCall(method, self._monotonic() - started, failed=True))
            raise
        self._report(StoreCall(method, self._monotonic() - started, failed=False))
        return answer
