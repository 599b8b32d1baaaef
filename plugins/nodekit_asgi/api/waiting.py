"""Waiting for jobs on behalf of a client, as long as the client stays."""

import logging
from collections.abc import Sequence

from nodekit import JobId, Node, NodekitError, TooManyRequests
from nodekit_asgi.http.messages import Request
from nodekit_asgi.http.replies import while_there

logger = logging.getLogger("nodekit.http")


async def wait_for(request: Request, node: Node, ids: Sequence[JobId], seconds: float) -> bool:
    """Return True once all jobs are finished; False when `seconds` have passed or the node stops.

    Raise `Disconnected` as soon as the client goes, `TooManyRequests` if its group waits for too many jobs. Nothing is
    held meanwhile: payloads may be large, and waits long.
    """
    finished = False

    async def wait() -> None:
        nonlocal finished
        try:
            await node.wait(ids, client=request.sees, fields=None)
            finished = True
        except TooManyRequests:
            raise
        except NodekitError as error:
            logger.debug("%s %s: waiting failed: %s", request.method, request.path, error)

    await while_there(request, wait, seconds)
    return finished
