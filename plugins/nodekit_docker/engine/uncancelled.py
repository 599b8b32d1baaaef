"""Work that must come to its end even if the caller that waits for it is cancelled."""

import asyncio
from collections.abc import Coroutine
from typing import Any

import anyio


async def to_its_end(work: Coroutine[Any, Any, None]) -> None:
    """Wait for the work to end. A cancellation meanwhile is held back until then.

    anyio's shield keeps off anyio's cancellations, but not `asyncio.Task.cancel`, which `asyncio.timeout` and
    `asyncio.run` use. The work must have a time limit of its own.
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
