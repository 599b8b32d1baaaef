"""Requests for existing jobs: read, list and cancel."""

import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from urllib.parse import urlencode, urljoin, urlsplit

from msgspec import Raw

from nodekit_asgi.cli.client import NodeClient, Reply
from nodekit_asgi.cli.job_ids import is_id, job_path
from nodekit_asgi.cli.problems import Refused
from nodekit_asgi.cli.replies import History, JobResult, jobs_of

PAGE = 1000
IDS_AT_ONCE = 100
"""Ids in one request. A node takes 200 by default, and a proxy in front of it still takes a URL of this length."""

_NEXT = re.compile(r'<([^>]*)>\s*;[^,]*\brel="?next\b')


def find_jobs(
    client: NodeClient, ids: Sequence[str], *, intermediate: bool = False, until: float | None = None
) -> Iterator[tuple[JobResult, Raw]]:
    """Yield the jobs that the node knows, in the order of `ids`. `until` is as for `NodeClient.request`."""
    more = {"intermediate": "true"} if intermediate else {}
    for reply in _in_groups(ids, lambda some: client.request("GET", jobs_path(some, **more), until=until)):
        yield from jobs_of(reply)


def find_histories(client: NodeClient, ids: Sequence[str]) -> Iterator[tuple[History, Reply]]:
    """Yield the histories of the jobs that the node knows, in the order of `ids`, each with its reply."""
    for reply in _in_groups(ids, lambda some: client.request("GET", jobs_path(some, history="true"))):
        yield from ((history, reply) for history in reply.read_as(list[History]))


def _in_groups(ids: Sequence[str], ask: Callable[[Sequence[str]], Reply]) -> Iterator[Reply]:
    """Ask for the jobs, as many at once as the node takes. Yield its replies."""
    known = [id for id in dict.fromkeys(ids) if is_id(id)]
    groups = [known[at : at + IDS_AT_ONCE] for at in range(0, len(known), IDS_AT_ONCE)]
    while groups:
        some = groups.pop(0)
        try:
            yield ask(some)
        except Refused as refused:
            if takes_fewer(refused, some):
                half = len(some) // 2
                groups[:0] = some[:half], some[half:]
            else:
                _pass_over(refused)


def jobs_path(ids: Sequence[str], **more: str) -> str:
    """Return the path and query of a request for these jobs."""
    return f"/api/jobs?{urlencode([*(('id', id) for id in ids), *more.items()])}"


def takes_fewer(refused: Refused, ids: Sequence[str]) -> bool:
    """Return True if the refusal may be one of so many ids at once."""
    return len(ids) > 1 and refused.status == 400


def list_ids(client: NodeClient, filters: Mapping[str, str], limit: int | None) -> Iterator[str]:
    """Yield at most `limit` ids, page by page along the node's links. Raise `NotANode` if the links form a loop."""
    query = urlencode({"limit": min(limit or PAGE, PAGE), **filters}, errors="surrogateescape")
    path: str | None = f"/api/jobs?{query}"
    seen: set[str] = set()
    left = limit
    while path:
        reply = client.request("GET", path)
        ids = reply.read_as(list[str])[:left]
        yield from ids
        left = None if left is None else left - len(ids)
        seen.add(path)
        path = None if left == 0 else next_page(reply, path)
        if path in seen:
            raise reply.not_a_node()


def next_page(reply: Reply, path: str) -> str | None:
    """Return the path of the next page from `Link`, which is relative to `path`. Return None if there is no link.

    Raise `NotANode` if the link leads away from the node.
    """
    if not (found := _NEXT.search(reply.headers.get("Link", ""))):
        return None
    there = urlsplit(urljoin(f"http://node{path}", found[1]))
    if there.netloc != "node":
        raise reply.not_a_node()
    return f"{there.path}?{there.query}"


def cancel_jobs(client: NodeClient, ids: Sequence[str]) -> Iterator[tuple[JobResult, Raw]]:
    """Cancel the jobs. Yield the jobs that the node knows, in their new state."""
    for id in dict.fromkeys(ids):
        try:
            reply = client.request("DELETE", job_path(id))
        except Refused as refused:
            _pass_over(refused)
        else:
            yield reply.read_as(JobResult), Raw(reply.body)


def _pass_over(refused: Refused) -> None:
    """Raise the refusal, unless it says that there is no such job: the other jobs are still wanted."""
    if refused.status != 404:
        raise refused
