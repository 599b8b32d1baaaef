"""Questions of a node to the engine: about jobs, about other nodes, and records of plugins."""

import time
from collections.abc import AsyncIterator, Collection, Mapping, Sequence
from contextlib import AbstractAsyncContextManager

import msgspec

from nodekit import (
    REMEMBERED_SECONDS,
    Announcement,
    Change,
    ClientId,
    ContainerId,
    Cursor,
    GroupId,
    Held,
    Job,
    JobFields,
    JobId,
    JobQuery,
    Member,
    Page,
    Pending,
    PluginStorage,
    QueueState,
    StepRecord,
)
from nodekit_postgres._client import Client
from nodekit_postgres._config import PostgresConfig
from nodekit_postgres._connecting import Connection
from nodekit_postgres._reading import find_query, may_take_long, named, page_of, read_jobs, slice_query
from nodekit_postgres._rows import octets, text, with_output
from nodekit_postgres._storage import Records

SURPLUS_SECONDS = 10.0
"""Time for which it stays known which jobs are surplus: others may delete jobs, too."""


class Reader(Client):
    """The methods of a store that change no queue."""

    def __init__(self, config: PostgresConfig) -> None:
        super().__init__(config)
        self._surplus: dict[int, tuple[int | None, float]] = {}
        """Highest finish number that is surplus, and until when that is good, by the number of jobs to keep."""

    # -- jobs -------------------------------------------------------------------------------------

    async def _get(
        self, ids: Sequence[JobId], client: ClientId | None = None, fields: JobFields = JobFields.ALL
    ) -> list[Job]:
        if not ids:
            return []

        async def call(connection: Connection, _: int) -> list[tuple[Job, int]]:
            return await read_jobs(connection, self.sql, ids, client, fields)

        return [job for job, _ in await self.reads.run(call, self.config.seconds_per_call)]

    async def get(
        self, ids: Sequence[JobId], *, client: ClientId | None = None, fields: JobFields = JobFields.ALL
    ) -> list[Job]:
        return await self._get(ids, client, fields)

    async def steps(self, id: JobId, first: int, most_bytes: int) -> Sequence[StepRecord]:
        query = """
            SELECT outline, output FROM (
                SELECT number, outline, output,
                    sum(coalesce(length(output), 0)) OVER (ORDER BY number) AS size FROM nodekit.records
                WHERE job = %s AND number > %s
            ) sized WHERE size <= %s OR number = %s ORDER BY number
        """
        number = max(0, first)
        rows = await self.read(query, [octets(id), number, most_bytes, number + 1])
        steps = [with_output(outline, output) for outline, output in rows]
        jobs = await self._get([id], fields=JobFields.RECORDS)
        if jobs and number + len(steps) == jobs[0].ended_steps < len(jobs[0].steps):
            steps.append(jobs[0].steps[-1])  # an open step has no output
        return steps

    async def find(self, query: JobQuery) -> list[JobId]:
        return [text(id) for (id,) in await self.read(*find_query(query, await self._finished_below(query)))]

    async def page(self, query: JobQuery) -> Page:
        """Return a page of a search, which may be short (`PagingStore`)."""
        if may_take_long(query):
            rows = await self.read(*slice_query(query, await self._finished_below(query)))
            return page_of(query, rows)
        ids = await self.find(query)
        return Page(ids, await self._cursor(query, ids) if len(ids) == query.limit else None)

    async def _cursor(self, query: JobQuery, ids: Sequence[JobId]) -> Cursor | None:
        """Return the cursor behind a page: that of its last job, or of the last one that was not deleted meanwhile."""
        if query.order != "finished":
            return ids[-1]
        for some in (ids[-1:], ids):
            if jobs := await self._get(some, fields=JobFields.STATE):
                return query.cursor(jobs[-1])
        return query.after or "0"

    async def _finished_below(self, query: JobQuery) -> int | None:
        if query.order != "finished":
            return None
        [(below,)] = await self.read("SELECT nodekit.finished_below()")
        return int(below)

    async def sizes(self, ids: Sequence[JobId]) -> Mapping[JobId, int]:
        rows = await self.read("SELECT id, size FROM nodekit.jobs WHERE id = ANY (%s::bytea[])", [named(ids)])
        return {text(id): size for id, size in rows}

    async def delete(self, ids: Sequence[JobId]) -> int:
        self._surplus.clear()
        [(number,)] = await self.write("SELECT nodekit.delete_jobs(%s::bytea[])", [named(ids)])
        return int(number)

    async def expire(self, *, finished_before: float | None, keep: int | None, limit: int) -> int:
        """Delete as `JobStore` says. The number up to which jobs are surplus is found once for many slices."""
        while True:
            surplus, known = (None, False) if keep is None else await self._surplus_beyond(keep)
            given = [finished_before, surplus, limit]
            [(number,)] = await self.write("SELECT nodekit.expire_jobs(%s, %s, %s)", given)
            if number < limit:
                self._surplus.clear()
            if number or not known:
                return int(number)

    async def _surplus_beyond(self, keep: int) -> tuple[int | None, bool]:
        """Return the highest finish number that is surplus, and True if it was known from before."""
        number, until = self._surplus.get(keep, (None, 0.0))
        if time.monotonic() < until:
            return number, True
        [(number,)] = await self.write("SELECT nodekit.last_surplus(%s)", [keep])
        self._surplus[keep] = number, time.monotonic() + SURPLUS_SECONDS
        return number, False

    async def pending(self, groups: Collection[GroupId] = ()) -> Pending:
        query = """
            SELECT NULL, coalesce(sum(offchain), 0)::bigint, coalesce(sum(onchain), 0)::bigint FROM nodekit.totals
            UNION ALL
            SELECT grp, sum(jobs)::bigint, 0 FROM nodekit.counts WHERE grp = ANY (%s::bytea[]) GROUP BY grp
        """
        (_, offchain, onchain), *rows = await self.read(query, [named(groups)])
        return Pending(offchain, onchain, {text(group): jobs for group, jobs, _ in rows if jobs})

    def changes(
        self, ids: Collection[JobId] | None = None
    ) -> AbstractAsyncContextManager[AsyncIterator[Change | None]]:
        return self.feed.subscribe(ids)

    def storage(self, namespace: str) -> PluginStorage:
        """Return the records of a plugin (`StoringStore`)."""
        return Records(namespace, self.read, self.write)

    async def check(self) -> None:
        """Read something small, on the connection that renews the lease (`CheckedStore`)."""
        await self._ask(self._lease, "SELECT version FROM nodekit.about", (), kept=False)

    def nodekit_problems(self) -> Sequence[str]:
        """Return why this store hears nothing from other nodes, and that jobs were deleted."""
        problems = [self.ear.problem, self.session.problem] if self._entered else []
        return [f"store postgres: {problem}" for problem in problems if problem]

    # -- the cluster ------------------------------------------------------------------------------

    async def announce(self, announcement: Announcement) -> None:
        given = [self.session.id, octets(announcement.incarnation), octets(announcement.name)]
        await self.write("SELECT nodekit.announce(%s, %s, %s, %s)", [*given, msgspec.json.encode(announcement)])

    async def nodes(self) -> Sequence[Member]:
        query = """
            SELECT m.announcement, coalesce(s.seen_at, m.seen_at), coalesce(s.lapses_at >= nodekit.engine_time(), false)
            FROM nodekit.members m LEFT JOIN nodekit.sessions s ON s.id = m.session
            WHERE s.lapses_at >= nodekit.engine_time() OR coalesce(s.seen_at, m.seen_at) > nodekit.engine_time() - %s
            ORDER BY m.incarnation
        """
        rows = await self.read(query, [REMEMBERED_SECONDS])
        return [Member(msgspec.json.decode(body, type=Announcement), seen_at, live) for body, seen_at, live in rows]

    async def now(self) -> float:
        [(now,)] = await self.read("SELECT nodekit.engine_time()")
        return float(now)

    async def held(self, ids: Collection[JobId]) -> Mapping[JobId, Held]:
        query = """
            SELECT l.id, m.name, l.since, l.ended_steps, l.attempt FROM nodekit.live l
            JOIN nodekit.members m ON m.session = l.session WHERE l.id = ANY (%s::bytea[])
        """
        rows = await self.read(query, [named(ids)])
        return {text(id): Held(text(name), since, step, attempt) for id, name, since, step, attempt in rows}

    async def queues(self) -> Mapping[ContainerId, QueueState]:
        query = """
            SELECT due, count(*), greatest(0, nodekit.engine_time() - min(due_at)) FROM nodekit.live
            WHERE token IS NULL AND NOT streams GROUP BY due
        """
        return {text(due): QueueState(jobs, seconds) for due, jobs, seconds in await self.read(query)}
