"""Waiting for jobs on behalf of a client, for as long as it stays."""

import logging
from collections.abc import Sequence

import anyio

from nodekit import Job, JobId, Node, NodekitError
from nodekit_asgi._http import Disconnected, Request

logger = logging.getLogger("nodekit.http")


async def wait_for(request: Request, node: Node, jobs: Sequence[Job], seconds: float) -> Sequence[Job]:
    """The jobs once all are finished, or as they are when `seconds` have passed or the node stops.

    What is finished already, is not waited for. Raises `Disconnected` as soon as the client goes.
    """
    ids = [job.id for job in jobs if not job.status.finished]
    if not ids or seconds <= 0:
        return jobs
    waited = await _wait(request, node, ids, seconds)
    if waited is None:
        waited = await node.fetch(ids, client=request.client)
    known = {job.id: job for job in (*(job for job in jobs if job.status.finished), *waited)}
    return [known[job.id] for job in jobs if job.id in known]


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
