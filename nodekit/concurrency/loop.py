"""The event loop of asyncio, for code that does without anyio where each microsecond counts."""

import sys
from typing import TYPE_CHECKING

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
