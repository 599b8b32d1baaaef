"""What each route does."""

from collections.abc import AsyncIterator, Sequence
from uuid import UUID

from nodekit import FINISHED, UNFINISHED, Job, JobId, JobRequest, JobStatus, Node, Refusal, Unavailable, __version__
from nodekit_asgi._http import Header, HttpError, Reply, Request, error_reply, json_reply
from nodekit_asgi._wire import batch_item, read_item, read_items, wire_container, wire_job

SLICE = 1000
"""Ids of a listing that are read and sent at once."""
MAX_PAGE = 10_000


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
    job = await node.submit(await read_item(request))
    return json_reply({"id": job.id})


async def submit_batch(request: Request, node: Node) -> Reply:
    items = [batch_item(item, request) for item in await read_items(request)]
    answers = iter(await node.submit_many([item for item in items if isinstance(item, JobRequest)]))
    results = [next(answers) if isinstance(item, JobRequest) else item for item in items]
    unavailable = [result for result in results if isinstance(result, Unavailable)]
    if unavailable and not any(isinstance(result, Job) for result in results):
        raise unavailable[0]
    return json_reply([_answer(result) for result in results])


def _answer(result: Job | Refusal | Unavailable | str) -> dict[str, object]:
    if isinstance(result, Job):
        return {"id": result.id}
    if isinstance(result, Refusal) and result.params:
        return {"error": result.reason, "params": result.params}
    return {"error": result if isinstance(result, str) else result.reason}


async def jobs(request: Request, node: Node) -> Reply:
    intermediate, pending = request.flag("intermediate"), request.flag("pending")
    if not (ids := request.all("id")):
        return await _listing(request, node, pending)
    if len(ids) > request.limits.max_ids:
        raise HttpError(400, f"id: {len(ids)} of them; at most {request.limits.max_ids} are taken")
    found = await node.fetch([id.lower() for id in ids], client=request.client)
    if not found:
        raise HttpError(404, "no such job")
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
