"""What each route does."""

import logging
import re
import time
from collections.abc import AsyncIterator, Sequence
from uuid import UUID

from nodekit import (
    FINISHED,
    UNFINISHED,
    Job,
    JobId,
    JobRequest,
    JobStatus,
    Node,
    NodekitError,
    Refusal,
    StoreFailed,
    Unavailable,
    __version__,
)
from nodekit_asgi._events import KEEP_ALIVE, event_stream, events_seen, told_all
from nodekit_asgi._headers import urgency, wait_seconds
from nodekit_asgi._history import wire_history
from nodekit_asgi._http import Header, HttpError, Reply, Request, error_reply, json_reply
from nodekit_asgi._profiles import PROFILES
from nodekit_asgi._waiting import wait_for
from nodekit_asgi._wire import (
    NO_SUCH_JOB,
    WireAccepted,
    batch_item,
    job_id,
    read_item,
    read_items,
    wire_container,
    wire_job,
)

logger = logging.getLogger("nodekit.http")

SLICE = 1000
"""Ids of a listing that are read and sent at once."""
MAX_PAGE = 10_000
_SECONDS = re.compile(r"[0-9]+(\.[0-9]+)?")


async def info(request: Request, node: Node) -> Reply:
    running = node.running()
    pending = await node.pending()
    return json_reply(
        {
            "version": __version__,
            "containers": [wire_container(c) for id, c in node.containers.items() if id in running],
            "pending": {"offchain": pending.offchain, "onchain": pending.onchain},
            "chain": {"enabled": False, "address": ""},
        }
    )


async def health(request: Request, node: Node) -> Reply:
    state = await node.health()
    reasons = {"reasons": state.reasons} if state.reasons else {}
    if state.healthy:
        return json_reply({"status": "healthy", **reasons})
    return json_reply({"status": "unhealthy", **reasons}, 503)


async def submit(request: Request, node: Node) -> Reply:
    seconds = wait_seconds(request)
    kept = await node.submit(await read_item(request))
    id, job = kept.id, kept if kept.status.finished else None
    del kept  # jobs are large, and waits long
    if seconds is None:
        return json_reply(WireAccepted(id))
    if seconds and job is None:
        try:
            job = next(iter(await wait_for(request, node, [id], seconds)), None)
        except StoreFailed as error:  # the job is kept all the same, and the client must learn its id
            logger.error("job %s: waited in vain: %s", id, error)
    applied: list[Header] = [(b"preference-applied", b"wait=%d" % seconds)]
    if job is not None and job.status.finished:
        return json_reply(wire_job(job, intermediate=False), headers=applied)
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


def _answer(result: Job | NodekitError | str) -> WireAccepted | dict[str, object]:
    if isinstance(result, Job):
        return WireAccepted(result.id)
    if isinstance(result, Refusal) and result.params:
        return {"error": result.reason, "params": result.params}
    return {"error": str(result)}


async def history(request: Request, node: Node) -> Reply:
    found = await node.fetch([_id(request)], client=request.client)
    if not found:
        raise HttpError(404, NO_SUCH_JOB)
    return json_reply(wire_history(found[0], now=time.time()))


async def cancel(request: Request, node: Node) -> Reply:
    job = await node.cancel(_id(request), client=request.client)
    if job is None:
        raise HttpError(404, NO_SUCH_JOB)
    return json_reply(wire_job(job, intermediate=False))


async def events(request: Request, node: Node) -> Reply:
    id = _id(request)
    found = await node.fetch([id], client=request.client)
    if not found:
        raise HttpError(404, NO_SUCH_JOB)
    job = found.pop()
    seen = events_seen(request.headers.get(b"last-event-id", b"").decode("latin-1"), job)
    if told_all(job, seen):  # of the replies to a browser that connects again, the only one that stops it
        return Reply(b"", 204)
    del job  # jobs are large, and streams long
    await request.body()  # nobody's, but it stands before the end of the connection
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
    """The id in the path of a request."""
    return job_id(request.parameters["id"])


async def jobs(request: Request, node: Node) -> Reply:
    intermediate, pending, seconds = request.flag("intermediate"), request.flag("pending"), _wait(request)
    if not (ids := request.all("id")):
        return await _listing(request, node, pending)
    if len(ids) > request.limits.max_ids:
        raise HttpError(400, f"id: {len(ids)} of them; at most {request.limits.max_ids} are taken")
    ids = [id.lower() for id in ids]
    found: Sequence[Job] = await node.fetch(ids, client=request.client)
    if seconds and not all(job.status.finished for job in found):
        found = ()
        await request.body()  # nobody's, but it stands before the end of the connection
        found = await wait_for(request, node, ids, seconds)
    if not found and PROFILES[request.limits.profile].nothing_found != 200:
        raise HttpError(404, NO_SUCH_JOB)
    return json_reply([wire_job(job, intermediate=bool(intermediate)) for job in found])


async def _listing(request: Request, node: Node, pending: bool | None) -> Reply:
    status = None if pending is None else UNFINISHED if pending else FINISHED
    limit, after = _limit(request), _after(request)
    first = await node.find(client=request.client, status=status, after=after, limit=limit or SLICE)
    if limit is None:
        return Reply(_slices(request.client, node, status, first))
    headers: list[Header] = []
    if len(first) == limit:
        flag = "" if pending is None else f"&pending={str(pending).lower()}"
        # relative, so that it leads to where the client found the page, however the node is mounted
        headers = [(b"link", f'<?limit={limit}&after={first[-1]}{flag}>; rel="next"'.encode())]
    return json_reply(first, headers=headers)


async def _slices(
    client: str, node: Node, status: frozenset[JobStatus] | None, ids: Sequence[JobId]
) -> AsyncIterator[bytes]:
    """A JSON array of ids, read and sent piece by piece: never built whole."""
    yield b"["
    separator = b""
    while ids:
        yield separator + ",".join(f'"{id}"' for id in ids).encode()
        separator = b","
        if len(ids) < SLICE:
            break
        ids = await node.find(client=client, status=status, after=ids[-1], limit=SLICE)
    yield b"]"


def _wait(request: Request) -> float:
    if not (values := request.all("wait")):
        return 0
    if not _SECONDS.fullmatch(values[-1]):
        raise HttpError(400, "wait: expected a number of seconds, 0 or more")
    return min(float(values[-1]), request.limits.max_wait_seconds)


def _limit(request: Request) -> int | None:
    if not (values := request.all("limit")):
        return None
    if not values[-1].isascii() or not values[-1].isdecimal() or int(values[-1][:9]) < 1:
        raise HttpError(400, "limit: expected a whole number of 1 or more")
    return min(int(values[-1][:9]), MAX_PAGE)


def _after(request: Request) -> JobId | None:
    if not (values := request.all("after")):
        return None
    try:
        return str(UUID(values[-1]))
    except ValueError as error:
        raise HttpError(400, "after: expected the id of a job, a UUID") from error


async def not_found(request: Request, node: Node) -> Reply:
    return error_reply(404, "no such path")
