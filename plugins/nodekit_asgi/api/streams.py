"""`POST /api/jobs/stream`: the id of a job, followed by the bytes of its last container as they come."""

from collections.abc import AsyncIterator
from contextlib import AsyncExitStack

from nodekit import JobStream, Node, Refusal, SubscriptionRequest
from nodekit_asgi.http.messages import LIVE, HttpError, Reply, Request
from nodekit_asgi.wire.jobs import NO_STREAM, read_item


async def stream(request: Request, node: Node) -> Reply:
    """Stream a job, over HTTP/1.1 only: in other versions a stream that broke off would look complete."""
    if request.http_version != "1.1":
        raise HttpError(505, f"a stream needs HTTP/1.1, not HTTP/{request.http_version}")
    if request.values(b"idempotency-key"):
        raise HttpError(400, "Idempotency-Key: is not taken for a stream, which cannot be given again")
    asked = await read_item(request)
    if isinstance(asked, SubscriptionRequest):
        if node.chain_address is None:
            raise Refusal("Chain not enabled")
        raise HttpError(405, NO_STREAM, headers=[(b"allow", b"POST, OPTIONS")])
    held = AsyncExitStack()
    begun = await held.enter_async_context(node.stream(asked))
    del asked  # it may be large, and the stream long
    request.release()
    return Reply(_pieces(begun), headers=LIVE, content_type=b"application/octet-stream", held=held)


async def _pieces(begun: JobStream) -> AsyncIterator[bytes]:
    yield f"{begun.job.id}\n".encode()
    async for piece in begun:
        yield piece
