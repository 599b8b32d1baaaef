"""A log line for each call of a hook: plugin, outcome, duration. No payloads."""

import inspect
import logging
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

logger = logging.getLogger("nodekit.hooks")


def traced(hook: str, plugin: str, function: Callable[..., Any], monotonic: Callable[[], float]) -> Callable[..., Any]:
    """Return the function with each call logged, timed by `monotonic`. A coroutine function is timed to its end."""

    async def awaited(*arguments: Any) -> Any:
        with _logged(hook, plugin, monotonic):
            return await function(*arguments)

    def called(*arguments: Any) -> Any:
        with _logged(hook, plugin, monotonic):
            return function(*arguments)

    return awaited if inspect.iscoroutinefunction(function) else called


@contextmanager
def _logged(hook: str, plugin: str, monotonic: Callable[[], float]) -> Iterator[None]:
    started, outcome = monotonic(), "ok"
    try:
        yield
    except BaseException as error:  # by name only: its text may hold parts of a request
        outcome = f"raised {type(error).__name__}"
        raise
    finally:
        milliseconds = (monotonic() - started) * 1000
        fields = {"hook": hook, "plugin": plugin, "outcome": outcome, "milliseconds": milliseconds}
        logger.info("%s of %s: %s in %.3f ms", hook, plugin, outcome, milliseconds, extra=fields)
