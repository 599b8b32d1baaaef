"""`GET /api/jobs` without ids: a list of the ids of a client's jobs, all of them or page by page."""

from collections.abc import AsyncIterator, Collection, Mapping
from typing import cast, get_args
from urllib.parse import urlencode
from uuid import UUID

from msgspec.structs import replace

from nodekit import (
    FINISHED,
    UNFINISHED,
    UNSUCCESSFUL,
    ClientId,
    Cursor,
    JobOrder,
    JobQuery,
    JobStatus,
    Node,
    Page,
)
from nodekit_asgi.api.audit import audited_listing
from nodekit_asgi.http.messages import Header, HttpError, Reply, Request, json_reply
from nodekit_asgi.http.replies import while_there

SLICE = 1000
"""Number of ids of a listing that are read and sent at once."""
MAX_PAGE = 10_000

_STATUSES: Mapping[str, Collection[JobStatus]] = {
    "running": UNFINISHED,
    "success": frozenset({JobStatus.SUCCESS}),
    "failed": UNSUCCESSFUL,
}


def listed_client(request: Request) -> ClientId | None:
    """Return the client whose jobs are listed; None for all clients.

    Raise `HttpError` 403 if they are not the caller's own, and it is no operator.
    """
    everybody, client = request.flag("all"), _one(request, "client")
    if not everybody and client is None:
        return request.client
    if everybody and client is not None:
        raise HttpError(400, "client: is not taken together with all=true; leave one of them out")
    if request.sees is not None and client != request.client:
        raise HttpError(403, "only an operator may use jobs of other clients; leave out all and client")
    return client


async def listing(request: Request, node: Node, pending: bool | None, client: ClientId | None) -> Reply:
    """Reply with a list of ids of a client, or of all.

    The caller reads `pending` and `client`, so that a malformed one is an error also if ids are given.
    """
    status, container, error = _status(request, pending), _of_failed(request, "container"), _of_failed(request, "error")
    limit, order = _limit(request), _order(request)
    query = JobQuery(
        client=client,
        status=status,
        container=container,
        error=error,
        order=order,
        after=_after(request, order),
        limit=limit or SLICE,
    )
    audited_listing(request, client)
    first = await (_page_while_there(request, node, query) if _is_search(query) else node.page(query))
    if limit is None:
        return Reply(_slices(node, query, first))
    headers: list[Header] = []
    if first.next is not None:  # also of a short page: the store has looked at enough jobs for one request
        # relative, so that it works wherever the node is mounted
        headers = [(b"link", f'<?{_next(request, limit, first.next)}>; rel="next"'.encode())]
    return json_reply(first.ids, headers=headers)


def _is_search(query: JobQuery) -> bool:
    """Return True if the store may have to look at many jobs to find a few."""
    return query.status is not None or query.order == "finished"


async def _page_while_there(request: Request, node: Node, query: JobQuery) -> Page:
    """Return a page, unless the client goes: nobody searches for a client who has left."""
    pages: list[Page] = []

    async def search() -> None:
        pages.append(await node.page(query))

    await request.body()  # not used, but it has to be read before the end of the connection can be seen
    await while_there(request, search)
    return pages.pop()


def _next(request: Request, limit: int, after: Cursor) -> str:
    """Return the query of the next page, with the filters of this one."""
    filters = [(name, values[-1]) for name in _FILTERS if (values := request.all(name))]
    return urlencode([("limit", limit), ("after", after), *filters])


_FILTERS = ("all", "client", "order", "pending", "status", "container", "error")


async def _slices(node: Node, query: JobQuery, page: Page) -> AsyncIterator[bytes]:
    """Yield a JSON array of ids, which is read and sent piece by piece and never held as a whole."""
    yield b"["
    separator = b""
    while True:
        if page.ids:
            yield separator + ",".join(f'"{id}"' for id in page.ids).encode()
            separator = b","
        if page.next is None:
            break
        page = await node.page(replace(query, after=page.next))
    yield b"]"


def _status(request: Request, pending: bool | None) -> Collection[JobStatus] | None:
    text = _one(request, "status")
    if text is None:
        return None if pending is None else UNFINISHED if pending else FINISHED
    if pending is not None:
        raise HttpError(400, "status: is not taken together with pending; status=running are those pending")
    if text not in _STATUSES:
        raise HttpError(400, f"status: expected {', '.join(_STATUSES)}")
    return _STATUSES[text]


def _of_failed(request: Request, name: str) -> str | None:
    text = _one(request, name)
    if text is not None and _one(request, "status") != "failed":
        raise HttpError(400, f"{name}: is taken only with status=failed")
    return text


def _one(request: Request, name: str) -> str | None:
    values = set(request.all(name))
    if len(values) > 1:
        raise HttpError(400, f"{name}: expected one value")
    return values.pop() if values else None


def _limit(request: Request) -> int | None:
    if not (values := request.all("limit")):
        return None
    if not values[-1].isascii() or not values[-1].isdecimal() or int(values[-1][:9]) < 1:
        raise HttpError(400, "limit: expected a whole number of 1 or more")
    return min(int(values[-1][:9]), MAX_PAGE)


def _order(request: Request) -> JobOrder:
    text = _one(request, "order")
    if text is None:
        return "oldest"
    if text not in get_args(JobOrder):
        raise HttpError(400, f"order: expected {', '.join(get_args(JobOrder))}")
    return cast(JobOrder, text)


def _after(request: Request, order: JobOrder) -> Cursor | None:
    if not (values := request.all("after")):
        return None
    if order == "finished":
        try:
            return JobQuery(order=order, after=values[-1]).after
        except ValueError as error:
            raise HttpError(400, "after: expected the cursor of a Link header in the order finished") from error
    try:
        return str(UUID(values[-1]))
    except ValueError as error:
        raise HttpError(400, "after: expected the id of a job, a UUID") from error
