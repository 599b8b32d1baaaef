"""Reads of jobs: by id, and by what they match. They are pipelines of short commands, some jobs at a time."""

from collections.abc import Awaitable, Callable, Iterable, Sequence
from typing import Any

from msgspec.structs import replace

from nodekit import (
    UNFINISHED,
    UNSUCCESSFUL,
    ClientId,
    Cursor,
    Job,
    JobFields,
    JobId,
    JobQuery,
    JobStatus,
    Page,
    StepRecord,
)
from nodekit_redis._address import Command
from nodekit_redis._line import Replies
from nodekit_redis._rows import HEAD, Head, Parts, head_of, job_of, key_field, parts_of, quoted, steps_of

Ask = Callable[[Sequence[Command]], Awaitable[Replies]]
Place = tuple[Cursor, JobId]
"""A job in an order, with the cursor behind it."""

MOST_AT_ONCE = 200
"""Number of jobs that are read in one piece."""
MOST_LOOKED_AT = 2000
"""Number of jobs that one page of a search looks at."""
FACTS = ("status", "key", "client", "error_container", "error")


def pieces(ids: Sequence[JobId], most: int = MOST_AT_ONCE) -> Iterable[Sequence[JobId]]:
    return (ids[first : first + most] for first in range(0, len(ids), most))


class Reading:
    """The jobs of a prefix. `ask` sends commands, and raises `StoreFailed`."""

    def __init__(self, ask: Ask, key: Callable[[str], str]) -> None:
        self._ask, self._key = ask, key

    def _job(self, id: JobId) -> str:
        return self._key(f"job:{id}")

    # -- by id ------------------------------------------------------------------------------------

    async def heads(self, ids: Sequence[JobId]) -> list[Head]:
        replies = await self._ask([("HMGET", self._job(id), *HEAD) for id in ids])
        heads = (head_of(id, values) for id, values in zip(ids, replies, strict=True))
        return [head for head in heads if head is not None]

    async def get(
        self, ids: Sequence[JobId], client: ClientId | None = None, fields: JobFields = JobFields.ALL
    ) -> list[Job]:
        jobs: list[Job] = []
        for some in pieces(list(dict.fromkeys(ids))):
            heads = [head for head in await self.heads(some) if client in (None, head.client)]
            jobs += [job for job in await self.whole(heads, fields) if job is not None]
        return jobs

    async def whole(self, heads: Sequence[Head], fields: JobFields) -> list[Job | None]:
        """Return the jobs of these heads; None for one that was deleted meanwhile."""
        parts = [parts_of(head, fields) for head in heads]
        wanted = [("HMGET", self._job(one.head.id), *one.command) for one in parts if one.command]
        values = iter(await self._ask(wanted) if wanted else ())
        return [job_of(one, next(values) if one.command else ()) for one in parts]

    async def sizes(self, ids: Sequence[JobId]) -> dict[JobId, int]:
        sizes: dict[JobId, int] = {}
        for some in pieces(list(dict.fromkeys(ids))):
            replies = await self._ask([("HGET", self._job(id), "size") for id in some])
            sizes |= {id: int(size) for id, size in zip(some, replies, strict=True) if size is not None}
        return sizes

    async def steps(self, id: JobId, first: int, most_bytes: int) -> Sequence[StepRecord]:
        for head in await self.heads([id]):
            numbers = range(max(0, first) + 1, head.steps + 1)[:MOST_AT_ONCE]
            chosen: list[int] = []
            lengths = await self._ask([("HSTRLEN", self._job(id), head.field("o", n)) for n in numbers])
            for number, length in zip(numbers, lengths, strict=True):
                if chosen and (most_bytes := most_bytes - length) < 0:
                    break
                most_bytes -= 0 if chosen else length
                chosen.append(number)
            steps = await self._steps(head, chosen)
            opened = head.state.open_step
            if opened is not None and max(0, first) + len(steps) == head.steps:
                steps.append(opened)
            return steps
        return []

    async def _steps(self, head: Head, numbers: Sequence[int]) -> list[StepRecord]:
        parts = Parts(head, False, numbers, [n for n in numbers if head.has_output(n)], open_step=False)
        if not parts.command:
            return []
        [values] = await self._ask([("HMGET", self._job(head.id), *parts.command)])
        return [] if None in values else steps_of(parts, iter(values))

    # -- by what they match -----------------------------------------------------------------------

    async def find(self, query: JobQuery) -> list[JobId]:
        found: list[JobId] = []
        while True:
            page = await self.page(replace(query, limit=query.limit - len(found)))
            found += page.ids
            if page.next is None or len(found) >= query.limit:
                return found
            query = replace(query, after=page.next)

    async def page(self, query: JobQuery) -> Page:
        """Return jobs that match, after looking at a limited number of them (`PagingStore`)."""
        if query.client is not None and query.idempotency_key is not None:
            return await self._by_key(query, query.client)
        found: list[Place] = []
        looked_at = 0
        conditions = _conditions(query)
        size = min(max(query.limit, 1), MOST_AT_ONCE) if not conditions else MOST_AT_ONCE
        while looked_at < MOST_LOOKED_AT:
            some = await self._slice(query, size)
            found += await self._matching(query, some) if conditions else some
            looked_at += len(some)
            if len(found) > query.limit:
                return Page([id for _, id in found[: query.limit]], found[query.limit - 1][0] if query.limit else None)
            if len(some) < size:
                return Page([id for _, id in found])
            query = replace(query, after=some[-1][0])
        return Page([id for _, id in found], query.after)

    async def _slice(self, query: JobQuery, number: int) -> list[Place]:
        """Return the next jobs of the indexes that have all that match."""
        if query.order == "finished":
            first, last = (
                (f"({query.after}" if query.after else "-inf"),
                (f"({query.before}" if query.before else "+inf"),
            )
            [reply] = await self._ask(
                [("ZRANGEBYSCORE", self._key("ended"), first, last, "WITHSCORES", "LIMIT", 0, number)]
            )
            return [(str(int(score)), id.decode()) for id, score in zip(reply[::2], reply[1::2], strict=True)]
        indexes = _indexes(query)
        newest = query.order == "newest"
        begin, end = ("+", "-") if newest else ("-", "+")
        first, last = (f"({query.after}" if query.after else begin), (f"({query.before}" if query.before else end)
        command = "ZREVRANGEBYLEX" if newest else "ZRANGEBYLEX"
        replies = await self._ask([(command, self._key(name), first, last, "LIMIT", 0, number) for name in indexes])
        ids = sorted({id.decode() for reply in replies for id in reply}, reverse=newest)
        return [(id, id) for id in ids[:number]]

    async def _matching(self, query: JobQuery, places: Sequence[Place]) -> list[Place]:
        fields = (*FACTS, "state") if _asks_for_progress(query) else FACTS
        replies = await self._ask([("HMGET", self._job(id), *fields) for _, id in places])
        return [place for place, facts in zip(places, replies, strict=True) if _matches(query, place[1], facts)]

    async def _by_key(self, query: JobQuery, client: ClientId) -> Page:
        [id] = await self._ask([("HGET", self._key("keys"), key_field(client, query.idempotency_key))])
        if id is None:
            return Page([])
        jobs = await self.get([id.decode()], fields=JobFields.REQUEST | JobFields.LAST_STEP)
        return Page(query.choose(jobs))


def _asks_for_progress(query: JobQuery) -> bool:
    """Return True if the query tells accepted jobs from running ones."""
    return query.status is not None and len(UNFINISHED & set(query.status)) == 1


def _statuses(query: JobQuery) -> set[JobStatus]:
    statuses = set(JobStatus if query.status is None else query.status)
    return statuses & UNSUCCESSFUL if query.container is not None or query.error is not None else statuses


def _indexes(query: JobQuery) -> Sequence[str]:
    """Return the smallest indexes that together have all jobs that match."""
    statuses = _statuses(query)
    if not statuses:
        return []
    if statuses <= UNFINISHED:
        return ["unfinished"]
    if query.client is not None:
        return [f"client:{quoted(query.client)}"]
    if len(statuses) == len(JobStatus):
        return ["jobs"]
    finals = [f"status:{status}" for status in sorted(statuses - UNFINISHED)]
    return ["unfinished", *finals] if statuses & UNFINISHED else finals


def _conditions(query: JobQuery) -> bool:
    """Return True if the indexes have jobs that do not match."""
    conditions = query.client, query.status, query.idempotency_key, query.container, query.error
    return any(one is not None for one in conditions)


def _matches(query: JobQuery, id: JobId, facts: Sequence[Any]) -> bool:
    status, key, client, container, error, *state = facts
    if client is None:  # deleted meanwhile
        return False
    if query.client is not None and client.decode() != quoted(query.client):
        return False
    if query.idempotency_key is not None and key.decode().partition(" ")[2] != quoted(query.idempotency_key):
        return False
    if query.status is not None and not _has_status(query, id, status.decode(), state):
        return False
    if query.container is not None and (container is None or container.decode() != quoted(query.container)):
        return False
    text = None if error is None else error.decode("utf-8", "surrogatepass")
    return query.error is None or (text is not None and query.error in text)


def _has_status(query: JobQuery, id: JobId, final: str, state: Sequence[Any]) -> bool:
    statuses = set(query.status or ())
    if final:
        return final in statuses
    if state:
        head = head_of(id, (state[0], b"", b"", None, None))
        return head is not None and head.state.status in statuses
    return statuses >= UNFINISHED
