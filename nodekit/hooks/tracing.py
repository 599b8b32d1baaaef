"""Each call of a hook in the log, for whoever looks for the plugin that is slow or objects. No payloads.

Put around implementations when a node is composed, where it is asked for; where not, nothing here is called.
"""

import inspect
import logging
from collections.abc import Callable
from contextlib import AbstractAsyncContextManager
from time import perf_counter
from types import TracebackType
from typing import Any, cast

import anyio

from nodekit.errors import Refusal, Unavailable

logger = logging.getLogger("nodekit.hooks")


def traced(hook: str, plugin: str, function: Callable[..., Any]) -> Callable[..., Any]:
    """The same function, each call of which is logged: hook, plugin, outcome and how long it took.

    A coroutine function is timed to its end. Of one that answers a context manager, entering and leaving are logged,
    each for itself.
    """

    async def awaited(*arguments: Any) -> Any:
        with _Logged(hook, plugin):
            return await function(*arguments)

    def called(*arguments: Any) -> Any:
        logged = _Logged(hook, plugin)
        with logged:
            answer = function(*arguments)
            logged.silent = isinstance(answer, AbstractAsyncContextManager)
        return _Held(hook, plugin, answer) if logged.silent else answer

    return awaited if inspect.iscoroutinefunction(function) else called


class _Held:
    """A context manager whose entering and leaving are logged."""

    def __init__(self, hook: str, plugin: str, held: AbstractAsyncContextManager[Any]) -> None:
        self._hook = hook
        self._plugin = plugin
        self._held = held

    async def __aenter__(self) -> Any:
        with _Logged(f"{self._hook} (entering)", self._plugin):
            return await self._held.__aenter__()

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> bool | None:
        with _Logged(f"{self._hook} (leaving)", self._plugin):
            return await self._held.__aexit__(kind, error, trace)


class _Logged:
    """One line for what happens inside."""

    def __init__(self, hook: str, plugin: str) -> None:
        self._hook = hook
        self._plugin = plugin
        self.silent = False

    def __enter__(self) -> None:
        self._begun = perf_counter()

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: object) -> None:
        milliseconds = (perf_counter() - self._begun) * 1000
        if not self.silent:
            logger.info("%s of %s: %s in %.3f ms", self._hook, self._plugin, _outcome(error), milliseconds)


def _outcome(error: BaseException | None) -> str:
    """In a word or two; what an error says may hold what a request does."""
    if error is None:
        return "ok"
    if isinstance(error, Refusal | Unavailable):
        return "refused"
    if not isinstance(error, Exception) and isinstance(error, _cancelled()):
        return "cancelled"
    return f"raised {type(error).__name__}"


def _cancelled() -> type[BaseException] | tuple[type[BaseException], ...]:
    try:
        return anyio.get_cancelled_exc_class()
    except Exception:  # outside of any event loop nothing is cancelled
        return cast("tuple[type[BaseException], ...]", ())
