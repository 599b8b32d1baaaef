"""A wrapper that passes a component's calls through a function; everything else is unchanged."""

import inspect
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AbstractAsyncContextManager, AsyncExitStack, asynccontextmanager
from functools import partial
from types import TracebackType
from typing import Any, TypeAlias

from nodekit import ContainerRunner, JobTable, SharedStore

Through: TypeAlias = Callable[[str, Callable[..., Awaitable[Any]], tuple[Any, ...], dict[str, Any]], Awaitable[Any]]
"""Makes a call, given the method's name, the method and its arguments."""

_WAITING = {
    name
    for protocol in (JobTable, SharedStore, ContainerRunner)
    for name, _ in inspect.getmembers(protocol, inspect.iscoroutinefunction)
    if not name.startswith("_")
}
"""Methods that are awaited, even if a component does not define them by `async def`."""
_OPENING = {"changes", "stream"}
"""Methods that return a context manager."""


class Faulty:
    """Wrapper around a component."""

    def __init__(self, component: Any, through: Through) -> None:
        self._component = component
        self._through = through
        self._stack = AsyncExitStack()
        for name in dir(component):
            if name.startswith("nodekit_"):  # hooks are looked up on the object itself
                setattr(self, name, getattr(component, name))

    async def __aenter__(self) -> Any:
        async with AsyncExitStack() as stack:
            await self._through("enter", stack.enter_async_context, (self._component,), {})
            self._stack = stack.pop_all()
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> bool | None:
        return await self._stack.__aexit__(kind, error, trace)

    def __getattr__(self, name: str) -> Any:
        attribute = getattr(self._component, name)
        if name in _OPENING:
            return partial(self._opened, name, attribute)
        if name in _WAITING or inspect.iscoroutinefunction(attribute):
            return partial(self._called, name, attribute)
        return attribute

    async def _called(self, name: str, method: Callable[..., Awaitable[Any]], /, *args: Any, **kwargs: Any) -> Any:
        return await self._through(name, method, args, kwargs)

    @asynccontextmanager
    async def _opened(
        self, name: str, method: Callable[..., AbstractAsyncContextManager[Any]], /, *args: Any, **kwargs: Any
    ) -> AsyncIterator[Any]:
        async with AsyncExitStack() as stack:

            async def enter(*args: Any, **kwargs: Any) -> Any:
                return await stack.enter_async_context(method(*args, **kwargs))

            pieces = await self._through(name, enter, args, kwargs)
            yield _Pieces(pieces, partial(self._through, f"{name}.next", pieces.__anext__, (), {}))


class _Pieces:
    """An iterator that makes each step as a call, and otherwise behaves like the wrapped one."""

    def __init__(self, pieces: Any, step: Callable[[], Awaitable[Any]]) -> None:
        self._pieces = pieces
        self._step = step

    def __aiter__(self) -> AsyncIterator[Any]:
        return self

    async def __anext__(self) -> Any:
        return await self._step()

    def __getattr__(self, name: str) -> Any:
        return getattr(self._pieces, name)
