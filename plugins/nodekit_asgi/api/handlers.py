"""The handlers of the routes."""

import logging
import re

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
    SubscriptionRequest,
    Unavailable,
    __version__,
    default_group,
    job_result,
)
from nodekit_asgi.api.audit import audited, audited_read
from nodekit_asgi.api.job_events import KEEP_ALIVE, event_stream, events_seen, seen_all
from nodekit_asgi.api.job_replies import histories_reply, job_reply, jobs_reply, make_room
from nodekit_asgi.api.listing import listed_client, listing
from nodekit_asgi.api.subscriptions import subscribed
from nodekit_asgi.api.waiting import wait_for
from nodekit_asgi.http.headers import asked_urgency, idempotency_key, urgency, wait_seconds
from nodekit_asgi.http.messages import LIVE, Header, HttpError, Reply, Request, error_reply, json_reply
from nodekit_asgi.wire.history import wire_history
from nodekit_asgi.wire.jobs import (
    NO_SUCH_JOB,
    WireAccepted,
    WireSubscribed,
    batch_item,
    job_id,
    read_item,
    read_items,
    read_retry,
    wire_container,
)
from nodekit_asgi.wire.node import WireChain, WireErrorReply, WireHealth, WireInfo, WireLive, WirePending
from nodekit_asgi.wire.profiles import PROFILES

logger = logging.getLogger("nodekit.http")

_SECONDS = re.compile(r"[0-9]+(\.[0-9]+)?([eE][+-]?[0-9]+)?")


async def info(request: Request, node: Node) -> Reply:
    running = frozenset(node.running())
    pending = await node.pending()
    return json_reply(
        WireInfo(
            version=__version__,
            containers=[wire_container(c) for id, c in node.containers.items() if id in running],
            pending=WirePending(pending.offchain, pending.onchain),
            chain=WireChain(enabled=node.chain_address is not None, address=node.chain_address or ""),
        )
    )


async def health(request: Request, node: Node) -> Reply:
    state = await node.health()
    reasons = list(state.reasons) or UNSET
    if state.healthy:
        return json_reply(WireHealth("healthy", reasons))
    return json_reply(WireHealth("unhealthy", reasons), 503)


async def live(request: Request, node: Node) -> Reply:
    """Answer without asking any component: the event loop goes round, and a restart would mend nothing else."""
    return json_reply(WireLive("live"))


async def submit(request: Request, node: Node) -> Reply:
    asked = await read_item(request)
    if not isinstance(asked, SubscriptionRequest):
        return await _accepted(request, node, await node.submit(asked))
    (answer,) = await subscribed(request, node, [asked])
    if isinstance(answer, NodekitError):
        raise answer
    return json_reply(answer)


async def retry(request: Request, node: Node) -> Reply:
    return await _accepted(request, node, await _retried(request, node))


async def _retried(request: Request, node: Node) -> Job:
    id, key = _id(request), idempotency_key(request)
    start, digest = await read_retry(request, id)
    await make_room(request, node, request.memory, id)
    operates = request.sees is None
    if key is not None and operates:  # it must not meet a key of the job's client
        key = f"{request.client}\n{key}"
    try:
        kept = await node.retry(
            id,
            start=start,
            client=request.sees,
            group=None if operates else request.group or default_group(request.client),
            address=request.address,
            priority=asked_urgency(request),
            idempotency_key=key,
            body_digest=None if key is None else digest,
        )
    except NotFailed as error:
        raise HttpError(409, str(error)) from error
    if kept is None:
        raise HttpError(404, NO_SUCH_JOB)
    audited(request, "retry", id, owner=kept.request.client, outcome=f"job {kept.id}")
    return kept


async def _accepted(request: Request, node: Node, kept: Job) -> Reply:
    """Return the reply to a new job: its id, or the finished job if ``Prefer: wait`` asks to wait for it."""
    seconds = wait_seconds(request)
    id, finished = kept.id, kept.status.finished
    del kept  # jobs may be large, and waits long
    request.release()
    if seconds is None:
        return json_reply(WireAccepted(id))
    applied: list[Header] = [(b"preference-applied", b"wait=%d" % seconds)]
    try:
        if seconds and not finished:
            finished = await wait_for(request, node, [id], seconds)
        if finished and (reply := await job_reply(request, node, id, applied)) is not None:
            return reply
    except Unavailable as objection:  # the job is kept all the same, and the client must learn its id
        logger.debug("job %s: it is not waited for: %s", id, objection)
    except StoreFailed as error:  # as above
        logger.error("job %s: waiting for it failed: %s", id, error)
    return json_reply(WireAccepted(id), 202, applied)


async def submit_batch(request: Request, node: Node) -> Reply:
    priority = urgency(request)
    items = [batch_item(item, request, priority) for item in await read_items(request)]
    jobs = iter(await node.submit_many([item for item in items if isinstance(item, JobRequest)]))
    kept = iter(await subscribed(request, node, [item for item in items if isinstance(item, SubscriptionRequest)]))
    results = [
        next(jobs) if isinstance(item, JobRequest) else item if isinstance(item, str) else next(kept) for item in items
    ]
    unavailable = [result for result in results if isinstance(result, Unavailable)]
    if unavailable and not any(isinstance(result, Job | WireSubscribed) for result in results):
        raise unavailable[0]
    return json_reply([_answer(result) for result in results])


def _answer(result: Job | WireSubscribed | NodekitError | str) -> WireAccepted | WireSubscribed | WireErrorReply:
    if isinstance(result, Job):
        return WireAccepted(result.id)
    if isinstance(result, WireSubscribed):
        return result
    if isinstance(result, Refusal) and result.params:
        return WireErrorReply(result.reason, result.params)
    return WireErrorReply(str(result))


async def history(request: Request, node: Node) -> Reply:
    id = _id(request)
    await make_room(request, node, request.memory, id)
    found = await node.fetch([id], client=request.sees, fields=JobFields.RUN)
    if not found:
        raise HttpError(404, NO_SUCH_JOB)
    audited_read(request, "read", found[0])
    held = await node.held([id])
    return json_reply(wire_history(found[0], now=node.now(), held=held.get(id), for_operator=request.sees is None))


async def cancel(request: Request, node: Node) -> Reply:
    id = _id(request)
    await make_room(request, node, request.memory, id)
    job = await node.cancel(id, client=request.sees)
    if job is None:
        raise HttpError(404, NO_SUCH_JOB)
    audited(request, "cancel", id, owner=job.request.client, outcome=job.status.value)
    return json_reply(job_result(job))


async def events(request: Request, node: Node) -> Reply:
    id = _id(request)
    found = await node.fetch([id], client=request.sees, fields=JobFields.STATE)
    if not found:
        raise HttpError(404, NO_SUCH_JOB)
    audited_read(request, "follow", found[0])
    with request.reservation() as memory:
        await make_room(request, node, memory, id)
        seen = await events_seen(node, request.headers.get(b"last-event-id", b"").decode("latin-1"), found[0])
        if await seen_all(node, found[0], seen):  # 204 is the only reply that stops a browser from connecting again
            return Reply(b"", 204)
    await request.body()  # not used, but it has to be read before the end of the connection can be seen
    return Reply(
        event_stream(request, node, id, seen),
        headers=LIVE,
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
    intermediate, histories = request.flag("intermediate"), request.flag("history")
    pending, seconds, whose = request.flag("pending"), _wait(request), listed_client(request)
    if not (ids := request.all("id")):
        return await listing(request, node, pending, whose)
    if len(ids) > request.limits.max_ids:
        raise HttpError(400, f"id: {len(ids)} of them; at most {request.limits.max_ids} are taken")
    if intermediate and histories:
        raise HttpError(400, "history: is not taken together with intermediate; a history holds no results")
    ids = [id.lower() for id in ids]
    if seconds:
        states = await node.fetch(ids, client=request.sees, fields=JobFields.STATE)
        finished = all(job.status.finished for job in states)
        del states
        if not finished:
            await request.body()  # not used, but it has to be read before the end of the connection can be seen
            await wait_for(request, node, ids, seconds)
    if histories:
        reply = await histories_reply(request, node, ids)
    else:
        reply = await jobs_reply(request, node, ids, intermediate=bool(intermediate))
    if reply is not None:
        return reply
    if (status := PROFILES[request.limits.profile].nothing_found) != 200:
        raise HttpError(status, NO_SUCH_JOB)
    return json_reply([])


def _wait(request: Request) -> float:
    if not (values := request.all("wait")):
        return 0
    if not _SECONDS.fullmatch(values[-1]):
        raise HttpError(400, "wait: expected a number of seconds, 0 or more")
    return min(float(values[-1]), request.limits.max_wait_seconds)


async def not_found(request: Request, node: Node) -> Reply:
    return error_reply(404, "no such path")
