"""The event loop of asyncio, for code that does without anyio where each microsecond counts."""

import sys
from collections.abc import Generator
from types import coroutine
from typing import TYPE_CHECKING

import anyio.lowlevel

if TYPE_CHECKING:
    import asyncio


def running_loop() -> "asyncio.AbstractEventLoop | None":
    """Return the running loop of asyncio, or None on trio.

    Importing nodekit does not import asyncio, which only some programs use.
    """
    if (module := sys.modules.get("asyncio")) is None:
        return None
    try:
        loop: asyncio.AbstractEventLoop = module.get_running_loop()
    except RuntimeError:
        return None
    return loop


async def let_others_run() -> None:
    """Give all others a turn of the event loop, as `anyio.lowlevel.checkpoint` does, at half the cost on asyncio."""
    if running_loop() is None:
        await anyio.lowlevel.checkpoint()
    else:
        await _next_turn()


@coroutine
def _next_turn() -> Generator[None, None, None]:
    yield
