"""Waiting for jobs on behalf of a client, as long as the client stays."""

import logging
from collections.abc import Sequence

import anyio

from nodekit import Job, JobFields, JobId, Node, NodekitError
from nodekit_asgi.http.messages import Request, while_there

logger = logging.getLogger("nodekit.http")


async def wait_for(
    request: Request, node: Node, ids: Sequence[JobId], seconds: float, fields: JobFields = JobFields.LAST_STEP
) -> Sequence[Job]:
    """Return the jobs once all are finished, or as they are when `seconds` have passed or the node stops.

    Raise `Disconnected` as soon as the client goes. Callers should hold no jobs meanwhile: payloads may be large, and
    waits long.
    """
    jobs = await _wait(request, node, ids, seconds, fields)
    return await node.fetch(ids, client=request.client, fields=fields) if jobs is None else jobs


async def _wait(
    request: Request, node: Node, ids: Sequence[JobId], seconds: float, fields: JobFields
) -> Sequence[Job] | None:
    """Return the jobs once all are finished. Return None if that did not happen in time."""
    jobs: Sequence[Job] | None = None

    async def wait() -> None:
        nonlocal jobs
        with anyio.move_on_after(seconds):
            try:
                jobs = await node.wait(ids, client=request.client, fields=fields)
            except NodekitError as error:
                logger.debug("%s %s: waiting failed: %s", request.method, request.path, error)

    await while_there(request, wait)
    return jobs
