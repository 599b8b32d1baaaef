"""What is asked of jobs that are there."""

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
"""A node takes 200 unless its node file says otherwise, and a proxy in front of it so long a URL."""

_NEXT = re.compile(r'<([^>]*)>\s*;[^,]*\brel="?next\b')


def find_jobs(client: NodeClient, ids: Sequence[str], *, intermediate: bool) -> Iterator[tuple[JobResult, Raw]]:
    """Those of the jobs that the node knows, in this order."""
    rest = iter(dict.fromkeys(ids))
    while some := list(islice(rest, IDS_AT_ONCE)):
        query = urlencode([*(("id", id) for id in some), *([("intermediate", "true")] if intermediate else [])])
        try:
            yield from jobs_of(client.request("GET", f"/api/jobs?{query}"))
        except Refused as refused:
            _pass_over(refused)


def list_ids(client: NodeClient, filters: Mapping[str, str], limit: int | None) -> Iterator[str]:
    """Page by page, as the node links them."""
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
        path = None if left == 0 or not ids else next_page(reply, path)
        if path in seen:
            raise reply.not_a_node()


def next_page(reply: Reply, path: str) -> str | None:
    """Where the `Link` leads, which is relative to where the page was found. Raises `NotANode` if off the node."""
    if not (found := _NEXT.search(reply.headers.get("Link", ""))):
        return None
    there = urlsplit(urljoin(f"http://node{path}", found[1]))
    if there.netloc != "node":
        raise reply.not_a_node()
    return f"{there.path}?{there.query}"


def cancel_jobs(client: NodeClient, ids: Sequence[str]) -> Iterator[tuple[JobResult, Raw]]:
    """Those of the jobs that the node knows, ended."""
    for id in dict.fromkeys(ids):
        try:
            reply = client.request("DELETE", f"/api/jobs/{quote(id, safe='')}")
        except Refused as refused:
            _pass_over(refused)
        else:
            yield reply.read_as(JobResult), Raw(reply.body)


def _pass_over(refused: Refused) -> None:
    """A job that is not there is no reason to leave out the others."""
    if refused.status != 404 or refused.reason == "no such path":
        raise refused
