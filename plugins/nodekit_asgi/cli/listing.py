"""Requests for existing jobs: read, list and cancel."""

import re
from collections.abc import Iterator, Mapping, Sequence
from itertools import islice
from urllib.parse import quote, urlencode, urljoin, urlsplit

from msgspec import Raw

from nodekit_asgi.cli.client import NodeClient, Reply
from nodekit_asgi.cli.problems import Refused
from nodekit_asgi.cli.replies import JobResult, jobs_of

PAGE = 1000
IDS_AT_ONCE = 100
"""Ids in one request. A node takes 200 by default, and a proxy in front of it still takes a URL of this length."""

_NEXT = re.compile(r'<([^>]*)>\s*;[^,]*\brel="?next\b')


def find_jobs(client: NodeClient, ids: Sequence[str], *, intermediate: bool) -> Iterator[tuple[JobResult, Raw]]:
    """Yield the jobs that the node knows, in the order of `ids`."""
    rest = iter(dict.fromkeys(ids))
    while some := list(islice(rest, IDS_AT_ONCE)):
        query = urlencode([*(("id", id) for id in some), *([("intermediate", "true")] if intermediate else [])])
        try:
            yield from jobs_of(client.request("GET", f"/api/jobs?{query}"))
        except Refused as refused:
            _pass_over(refused)


def list_ids(client: NodeClient, filters: Mapping[str, str], limit: int | None) -> Iterator[str]:
    """Yield ids, page by page along the node's links. Raise `NotANode` if the links form a loop."""
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
            reply = client.request("DELETE", f"/api/jobs/{quote(id, safe='')}")
        except Refused as refused:
            _pass_over(refused)
        else:
            yield reply.read_as(JobResult), Raw(reply.body)


def _pass_over(refused: Refused) -> None:
    """Raise the refusal, unless it says that there is no such job: the other jobs are still wanted."""
    if refused.status != 404 or refused.reason == "no such path":
        raise refused
