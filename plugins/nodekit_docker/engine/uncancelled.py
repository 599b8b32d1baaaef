"""Work that must come to its end, whoever cancels who waits for it."""

import asyncio
from collections.abc import Coroutine
from typing import Any

import anyio


async def to_its_end(work: Coroutine[Any, Any, None]) -> None:
    """Wait for it to end. A cancellation meanwhile is kept until then.

    anyio's shield alone keeps off what anyio cancels, but not `asyncio.Task.cancel`, which `asyncio.timeout` and
    `asyncio.run` use. The work must know its end by itself.
    """
    cancelled: asyncio.CancelledError | None = None
    task = asyncio.ensure_future(work)
    with anyio.CancelScope(shield=True):
        while not task.done():
            try:
                await asyncio.wait({task})
            except asyncio.CancelledError as error:
                cancelled = error
    task.result()
    if cancelled is not None:
        raise cancelled
