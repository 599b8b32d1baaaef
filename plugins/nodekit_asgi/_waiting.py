"""Waiting for jobs on behalf of a client, for as long as it stays."""

import logging
from collections.abc import Sequence

import anyio

from nodekit import Job, JobId, Node, NodekitError
from nodekit_asgi._http import Disconnected, Request

logger = logging.getLogger("nodekit.http")


async def wait_for(request: Request, node: Node, ids: Sequence[JobId], seconds: float) -> Sequence[Job]:
    """The jobs once all are finished, or as they are when `seconds` have passed or the node stops.

    Raises `Disconnected` as soon as the client goes. Callers hold no jobs meanwhile: payloads are large, waits long.
    """
    jobs = await _wait(request, node, ids, seconds)
    return await node.fetch(ids, client=request.client) if jobs is None else jobs


async def _wait(request: Request, node: Node, ids: Sequence[JobId], seconds: float) -> Sequence[Job] | None:
    """The finished jobs; None where that did not come to pass."""
    gone, jobs = False, None

    async def watch() -> None:
        nonlocal gone
        await request.gone()
        gone = True
        tasks.cancel_scope.cancel()

    async with anyio.create_task_group() as tasks:
        tasks.start_soon(watch)
        with anyio.move_on_after(seconds):
            try:
                jobs = await node.wait(ids, client=request.client)
            except NodekitError as error:
                logger.debug("%s %s: waited in vain: %s", request.method, request.path, error)
        tasks.cancel_scope.cancel()
    if gone:
        raise Disconnected
    return jobs
