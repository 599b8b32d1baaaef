"""The handlers of the routes."""

import logging
import re
from collections.abc import Sequence

from msgspec import UNSET

from nodekit import (
    Job,
    JobFields,
    JobId,
    JobRequest,
    Node,
    NodekitError,
    NotFailed,
    Refusal,
    StoreFailed,
    Unavailable,
    __version__,
    job_result,
)
from nodekit_asgi.api.job_events import KEEP_ALIVE, event_stream, events_seen, seen_all
from nodekit_asgi.api.listing import listing
from nodekit_asgi.api.waiting import wait_for
from nodekit_asgi.http.headers import asked_urgency, idempotency_key, urgency, wait_seconds
from nodekit_asgi.http.messages import Header, HttpError, Reply, Request, error_reply, json_reply
from nodekit_asgi.wire.history import wire_history
from nodekit_asgi.wire.jobs import (
    NO_SUCH_JOB,
    WireAccepted,
    batch_item,
    job_id,
    read_item,
    read_items,
    read_retry,
    wire_container,
)
from nodekit_asgi.wire.node import WireChain, WireErrorReply, WireHealth, WireInfo, WirePending
from nodekit_asgi.wire.profiles import PROFILES

logger = logging.getLogger("nodekit.http")

_SECONDS = re.compile(r"[0-9]+(\.[0-9]+)?([eE][+-]?[0-9]+)?")


async def info(request: Request, node: Node) -> Reply:
    running = node.running()
    pending = await node.pending()
    return json_reply(
        WireInfo(
            version=__version__,
            containers=[wire_container(c) for id, c in node.containers.items() if id in running],
            pending=WirePending(pending.offchain, pending.onchain),
            chain=WireChain(enabled=False, address=""),
        )
    )


async def health(request: Request, node: Node) -> Reply:
    state = await node.health()
    reasons = list(state.reasons) or UNSET
    if state.healthy:
        return json_reply(WireHealth("healthy", reasons))
    return json_reply(WireHealth("unhealthy", reasons), 503)


async def submit(request: Request, node: Node) -> Reply:
    return await _accepted(request, node, await node.submit(await read_item(request)))


async def retry(request: Request, node: Node) -> Reply:
    return await _accepted(request, node, await _retried(request, node))


async def _retried(request: Request, node: Node) -> Job:
    id, key = _id(request), idempotency_key(request)
    start, digest = await read_retry(request, id)
    try:
        kept = await node.retry(
            id,
            start=start,
            client=request.client,
            address=request.address,
            priority=asked_urgency(request),
            idempotency_key=key,
            body_digest=None if key is None else digest,
        )
    except NotFailed as error:
        raise HttpError(409, str(error)) from error
    if kept is None:
        raise HttpError(404, NO_SUCH_JOB)
    return kept


async def _accepted(request: Request, node: Node, kept: Job) -> Reply:
    """Return the reply to a new job: its id, or the finished job if ``Prefer: wait`` asks to wait for it."""
    seconds = wait_seconds(request)
    id, job = kept.id, kept if kept.status.finished else None
    del kept  # jobs may be large, and waits long
    if seconds is None:
        return json_reply(WireAccepted(id))
    if seconds and job is None:
        try:
            job = next(iter(await wait_for(request, node, [id], seconds)), None)
        except StoreFailed as error:  # the job is kept all the same, and the client must learn its id
            logger.error("job %s: waiting for it failed: %s", id, error)
    applied: list[Header] = [(b"preference-applied", b"wait=%d" % seconds)]
    if job is not None and job.status.finished:
        return json_reply(job_result(job), headers=applied)
    return json_reply(WireAccepted(id), 202, applied)


async def submit_batch(request: Request, node: Node) -> Reply:
    priority = urgency(request)
    items = [batch_item(item, request, priority) for item in await read_items(request)]
    answers = iter(await node.submit_many([item for item in items if isinstance(item, JobRequest)]))
    results = [next(answers) if isinstance(item, JobRequest) else item for item in items]
    unavailable = [result for result in results if isinstance(result, Unavailable)]
    if unavailable and not any(isinstance(result, Job) for result in results):
        raise unavailable[0]
    return json_reply([_answer(result) for result in results])


def _answer(result: Job | NodekitError | str) -> WireAccepted | WireErrorReply:
    if isinstance(result, Job):
        return WireAccepted(result.id)
    if isinstance(result, Refusal) and result.params:
        return WireErrorReply(result.reason, result.params)
    return WireErrorReply(str(result))


async def history(request: Request, node: Node) -> Reply:
    id = _id(request)
    found = await node.fetch([id], client=request.client)
    if not found:
        raise HttpError(404, NO_SUCH_JOB)
    held = await node.held([id])
    return json_reply(wire_history(found[0], now=node.now(), held=held.get(id)))


async def cancel(request: Request, node: Node) -> Reply:
    job = await node.cancel(_id(request), client=request.client)
    if job is None:
        raise HttpError(404, NO_SUCH_JOB)
    return json_reply(job_result(job))


async def events(request: Request, node: Node) -> Reply:
    id = _id(request)
    found = await node.fetch([id], client=request.client, fields=JobFields.STEPS)
    if not found:
        raise HttpError(404, NO_SUCH_JOB)
    job = found.pop()
    seen = events_seen(request.headers.get(b"last-event-id", b"").decode("latin-1"), job)
    if seen_all(job, seen):  # 204 is the only reply that stops a browser from connecting again
        return Reply(b"", 204)
    del job  # jobs may be large, and streams long
    await request.body()  # not used, but it has to be read before the end of the connection can be seen
    return Reply(
        event_stream(node, id, request.client, seen),
        headers=[(b"cache-control", b"no-store")],
        content_type=b"text/event-stream",
        keep_alive=KEEP_ALIVE,
    )


async def resources(request: Request, node: Node) -> Reply:
    asked = request.all("model_id")
    return json_reply(await node.resources(asked[-1] if asked else None))


def _id(request: Request) -> JobId:
    """Return the job id in the path of a request. Raise `HttpError` if no job can have it."""
    return job_id(request.parameters["id"])


async def jobs(request: Request, node: Node) -> Reply:
    intermediate, pending, seconds = request.flag("intermediate"), request.flag("pending"), _wait(request)
    if not (ids := request.all("id")):
        return await listing(request, node, pending)
    if len(ids) > request.limits.max_ids:
        raise HttpError(400, f"id: {len(ids)} of them; at most {request.limits.max_ids} are taken")
    ids = [id.lower() for id in ids]
    fields = JobFields.STEPS if intermediate else JobFields.LAST_STEP
    found: Sequence[Job] = await node.fetch(ids, client=request.client, fields=fields)
    if seconds and not all(job.status.finished for job in found):
        found = ()
        await request.body()  # not used, but it has to be read before the end of the connection can be seen
        found = await wait_for(request, node, ids, seconds, fields)
    if not found and (status := PROFILES[request.limits.profile].nothing_found) != 200:
        raise HttpError(status, NO_SUCH_JOB)
    return json_reply([job_result(job, intermediate=bool(intermediate)) for job in found])


def _wait(request: Request) -> float:
    if not (values := request.all("wait")):
        return 0
    if not _SECONDS.fullmatch(values[-1]):
        raise HttpError(400, "wait: expected a number of seconds, 0 or more")
    return min(float(values[-1]), request.limits.max_wait_seconds)


async def not_found(request: Request, node: Node) -> Reply:
    return error_reply(404, "no such path")
