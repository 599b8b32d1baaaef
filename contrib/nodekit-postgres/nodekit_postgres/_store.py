"""The store `postgres`: jobs of many nodes in one schema (`SharedStore`)."""

import time
from collections import deque
from collections.abc import AsyncIterator, Collection, Mapping, Sequence
from contextlib import AbstractAsyncContextManager
from types import TracebackType
from typing import Any, Self
from uuid import UUID

import anyio
import msgspec
import psycopg
from anyio.abc import TaskGroup
from msgspec.structs import replace

from nodekit import (
    REMEMBERED_SECONDS,
    Announcement,
    Change,
    Claim,
    ClaimLost,
    ClaimRoom,
    ClientId,
    ContainerError,
    ContainerId,
    GroupId,
    Held,
    Job,
    JobFields,
    JobId,
    JobQuery,
    JobStatus,
    Location,
    Member,
    Outcome,
    Pending,
    PluginStorage,
    QueueState,
    Settlement,
    StepRecord,
    StoreFailed,
)
from nodekit_postgres._config import PostgresConfig, check_schema
from nodekit_postgres._ear import Ear, News, Teller, wanted
from nodekit_postgres._feed import Feed
from nodekit_postgres._lines import Connection, Lines, Notice, Server, close, connect, said
from nodekit_postgres._reading import find_query, named, read_jobs, with_last_output
from nodekit_postgres._rows import Stored, job_of, octets, text, with_output
from nodekit_postgres._schema import check_version, in_schema, migrate
from nodekit_postgres._session import BEATS_PER_LEASE, PostgresClaim, Session
from nodekit_postgres._storage import Records
from nodekit_postgres._writing import ADD, SAVE, SETTLE, added, dues, has_limits, portions, saved, settled

SHARDS_PER_SESSION = 128
CLAIM = """
    SELECT * FROM nodekit.claim(%(session)s, %(token)s, %(dues)s::bytea[], %(pipelines)s::bytea[], %(limit)s,
        %(suspects)s, %(each)s, %(groups)s::bytea[], %(room)s::integer[], %(most_bytes)s)
"""
CLAIM_EXPIRED = "SELECT * FROM nodekit.claim_expired(%(session)s, %(token)s, %(limit)s, %(most_bytes)s)"


class PostgresStore:
    """A `SharedStore` in a schema of a PostgreSQL database."""

    _tasks: TaskGroup

    def __init__(self, config: PostgresConfig) -> None:
        check_schema(config.schema)
        self._config = config
        self._entered = False

    @property
    def lease_seconds(self) -> float:
        return self._config.lease_seconds

    def _sql(self, query: str) -> str:
        return in_schema(query, self._config.schema)

    # -- entering ---------------------------------------------------------------------------------

    async def __aenter__(self) -> Self:
        config, url = self._config, self._config.url.reveal()
        await self._prepare(url)
        server = Server(url, config.connect_seconds)
        self._writes, self._reads = Lines(server, config.connections), Lines(server, config.read_connections)
        self._lease = Lines(server, 1)
        self._session = Session(self._lease, config.lease_seconds, config.seconds_per_call, self._sql)
        self._session.on_orphans = self._end_streams
        self._session.on_missed, self._session.on_queued = self._tell_missed, self._tell_queued
        self._feed, self._queued, self._limited = Feed(), Notice(), Notice()
        self._ended, self._has_ended = deque[Job](), Notice()
        self._teller = Teller(self._notify)
        self._ear = Ear(
            url if config.listen_url is None else config.listen_url.reveal(),
            config.schema,
            connect_seconds=config.connect_seconds,
            beat_seconds=config.lease_seconds / BEATS_PER_LEASE,
            test=lambda payload: self._notify([payload]),
            hear=self._hear,
            missed=self._missed,
        )
        self._tasks = await anyio.create_task_group().__aenter__()
        try:
            connected = [some.connected.next() for some in (self._writes, self._reads, self._lease)]
            for some in (self._writes, self._reads, self._lease):
                some.start(self._tasks)
            with anyio.fail_after(2 * config.connect_seconds):
                for event in connected:
                    await event.wait()
            await self._session.begin()
            self._tasks.start_soon(self._ear.run)
            await self._ear.tested.wait()
            self._tasks.start_soon(self._session.run)
            self._tasks.start_soon(self._teller.run)
            self._entered = True
        except BaseException as error:
            await self._close(at_once=True)
            if isinstance(error, TimeoutError):
                raise StoreFailed(f"cannot reach PostgreSQL: {self._writes.trouble}") from error
            raise
        return self

    async def _prepare(self, url: str) -> None:
        """Look at the tables, or create them. Raise `StoreFailed`."""
        try:
            connection = await connect(url, self._config.connect_seconds)
        except TimeoutError as error:
            raise StoreFailed(f"cannot reach PostgreSQL within {self._config.connect_seconds:g} s") from error
        except (psycopg.Error, OSError) as error:
            raise StoreFailed(f"cannot reach PostgreSQL: {said(error)}") from error
        try:
            if self._config.migrate:
                await migrate(connection, self._config.schema)
            await check_version(connection, self._config.schema)
        except psycopg.Error as error:
            raise StoreFailed(f"the schema {self._config.schema!r} cannot be prepared: {said(error)}") from error
        finally:
            await close(connection)

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> bool | None:
        self._entered = False
        with anyio.CancelScope(shield=True):
            with anyio.move_on_after(min(self._config.lease_seconds, 5.0)):
                try:
                    for id in await self._session.end():
                        await self._end_stream(id)
                    self._teller.put(queued=("",), missed=True)
                    if payloads := self._teller._take():
                        await self._notify(payloads)
                except StoreFailed:
                    pass  # the lease runs out
        await self._close(at_once=False)
        return None

    async def _close(self, *, at_once: bool) -> None:
        self._ear.close()
        for some in (self._writes, self._reads, self._lease):
            some.close(at_once=at_once)
        self._tasks.cancel_scope.cancel()
        with anyio.CancelScope(shield=True):
            with anyio.move_on_after(min(self._config.lease_seconds, 5.0)):
                while self._writes.busy or self._reads.busy or self._lease.busy:
                    await anyio.sleep(0.01)
            for some in (self._writes, self._reads, self._lease):
                some.close(at_once=True)
        await self._tasks.__aexit__(None, None, None)

    # -- calls ------------------------------------------------------------------------------------

    async def _ask(self, lines: Lines, query: str, given: Any, *, kept: bool) -> list[tuple[Any, ...]]:
        async def call(connection: Connection, _: int) -> list[tuple[Any, ...]]:
            cursor = await connection.execute(self._sql(query), given, binary=True)  # type: ignore[arg-type]
            return await cursor.fetchall()

        return await lines.run(call, self._config.seconds_per_call, kept=kept)

    async def _read(self, query: str, given: Any = ()) -> list[tuple[Any, ...]]:
        return await self._ask(self._reads, query, given, kept=False)

    async def _write(self, query: str, given: Any) -> list[tuple[Any, ...]]:
        return await self._ask(self._writes, query, given, kept=True)

    async def _count(self, query: str, given: dict[str, Any]) -> list[tuple[Any, ...]]:
        """Make a write that counts jobs, in the shard of its connection."""

        async def call(connection: Connection, number: int) -> list[tuple[Any, ...]]:
            given["shard"] = self._session.slot * SHARDS_PER_SESSION + number
            cursor = await connection.execute(self._sql(query), given, binary=True)  # type: ignore[arg-type]
            return await cursor.fetchall()

        return await self._writes.run(call, self._config.seconds_per_call, kept=True)

    # -- news -------------------------------------------------------------------------------------

    async def _notify(self, payloads: Sequence[str]) -> None:
        query = "SELECT pg_notify(%s, payload) FROM unnest(%s::text[]) AS payload"
        await self._ask(self._writes, query, [self._config.schema, list(payloads)], kept=True)

    def _changed(self, *jobs: Job, queued: Sequence[Job] = ()) -> None:
        """Publish changes, here and to the other nodes."""
        for job in jobs:
            self._feed.publish(Change(job.id, finished=job.status.finished))
        limits = any(has_limits(job) for job in queued)
        if queued:
            self._queued.set()
        if limits:
            self._limited.set()
        self._teller.put([(job.id, job.status.finished) for job in jobs], dues(queued), limits=limits)

    def _hear(self, news: News) -> None:
        if news.sender == self._teller.name:
            return
        if news.missed:
            return self._missed()
        for id, finished in news.jobs:
            if finished:
                self._session.lose(id)
            self._feed.publish(Change(id, finished=finished))
        if news.queued:
            self._queued.set()
        if news.limits:
            self._limited.set()
        return None

    def _missed(self) -> None:
        """Look at everything again: something may have changed unheard."""
        self._feed.publish(None)
        self._queued.set()
        self._limited.set()

    def _tell_missed(self) -> None:
        self._missed()
        self._teller.put(missed=True)

    def _tell_queued(self) -> None:
        self._queued.set()
        self._limited.set()
        self._teller.put(missed=True)

    # -- queueing ---------------------------------------------------------------------------------

    async def add(self, jobs: Sequence[Job]) -> list[Job]:
        if not jobs:
            return []
        rows = await self._add(jobs)
        kept: dict[JobId, Job] = {}
        new: list[Job] = []
        for job, (id, fresh) in zip(jobs, rows, strict=True):
            if fresh:
                kept[job.id] = job
                new.append(job)
        others = [text(id) for id, _ in rows if id is not None and text(id) not in kept]
        whole = [job.id for job in new if job.retry_of is not None and job.lacks_outputs]
        kept.update((job.id, job) for job in await self._get([*others, *whole]))
        self._changed(*new, queued=new)
        answer = [kept.get(text(id)) if id is not None else None for id, _ in rows]
        if None in answer:
            raise StoreFailed("a job with the same id or idempotency key was deleted at this moment; add it again")
        return [job for job in answer if job is not None]

    async def _add(self, jobs: Sequence[Job]) -> list[tuple[Any, ...]]:
        """Add jobs in one transaction: some at a time, since long arrays take long, and encoding holds others up."""
        parts = list(portions(jobs))
        if len(parts) == 1:
            return await self._count(ADD, added(jobs))

        async def call(connection: Connection, number: int) -> list[tuple[Any, ...]]:
            rows: list[tuple[Any, ...]] = []
            async with connection.transaction():
                for part in parts:
                    given = {**added(part), "shard": self._session.slot * SHARDS_PER_SESSION + number}
                    cursor = await connection.execute(self._sql(ADD), given, binary=True)  # type: ignore[arg-type]
                    rows += await cursor.fetchall()
            return rows

        return await self._writes.run(call, self._config.seconds_per_call * (1 + len(parts) / 4), kept=True)

    async def add_claimed(self, job: Job) -> Claim:
        token = self._session.ask()
        try:
            [(id, fresh)] = await self._count(ADD, added([job], session=self._session.id, token=token))
            if not fresh:
                raise StoreFailed(f"job {text(id) if id else job.id} exists already and cannot be claimed")
        except BaseException:
            self._session.give_up(token, soon=True)
            raise
        claim = PostgresClaim(job, token, 0, 0.0)
        self._session.answered(token, [claim])
        self._changed(job)
        return claim

    async def claim(
        self,
        containers: Collection[ContainerId],
        pipelines: Collection[str] | None,
        limit: int,
        *,
        suspects: bool = True,
        room: ClaimRoom | None = None,
    ) -> list[Claim]:
        given = {
            "dues": named(containers),
            "pipelines": None if pipelines is None else named(pipelines),
            "limit": limit,
            "suspects": suspects,
            "each": None if room is None else room.each,
            "groups": named(() if room is None else room.groups),
            "room": [] if room is None else list(room.groups.values()),
            "most_bytes": None if room is None else room.most_bytes,
        }
        return await self._wait(CLAIM, given, self._queued)

    async def claim_expired(self, limit: int, *, most_bytes: int | None = None) -> list[Claim]:
        return await self._wait(CLAIM_EXPIRED, {"limit": limit, "most_bytes": most_bytes}, self._limited)

    async def _wait(self, query: str, given: dict[str, Any], notice: Notice) -> list[Claim]:
        """Look for jobs, and wait for news or for the time at which there may be some, until there are any."""
        while True:
            changed = notice.next()
            claims, seconds = await self._look(query, given)
            if claims:
                return claims
            longest = 1.0 if self._ear.problem else self._config.look_seconds
            with anyio.move_on_after(longest if seconds is None else max(0.001, min(seconds, longest))):
                await changed.wait()

    async def _look(self, query: str, given: dict[str, Any]) -> tuple[list[Claim], float | None]:
        """Claim jobs. Without any, return the time until some may be due, too."""
        session, token = self._session, self._session.ask()
        got: list[PostgresClaim] = []
        gone = False

        async def call(connection: Connection, _: int) -> float | None:
            parameters = {**given, "session": session.id, "token": token}
            cursor = await connection.execute(self._sql(query), parameters, binary=True)  # type: ignore[arg-type]
            seconds = 0.0
            for row in await cursor.fetchall():
                if row[0] is None:
                    seconds = row[2]
                else:
                    got.append(_claim_of(row, token))
            if gone:
                session.give_up(token, soon=bool(got))
            return seconds

        try:
            seconds = await self._writes.run(call, self._config.seconds_per_call, kept=True)
        except StoreFailed:
            session.give_up(token, soon=True)
            raise
        except BaseException:
            gone = True
            if got:
                session.give_up(token, soon=True)
            raise
        session.answered(token, got)
        return list(got), seconds if seconds is None or got else seconds or None

    async def ended(self) -> Sequence[Job]:
        """Wait for streams that this store has ended, since no node holds them any more (`EndingStore`)."""
        while not self._ended:
            await self._has_ended.next().wait()
        jobs = list(self._ended)
        self._ended.clear()
        return jobs

    # -- running ----------------------------------------------------------------------------------

    async def save(self, claim: Any, job: Job) -> None:
        await self._save(claim, job, None)

    async def release(self, claim: Any, job: Job, *, delay_seconds: float = 0) -> None:
        ended_by_caller = job.status.finished
        if not ended_by_caller:
            job = self._given_back(job, delay_seconds)
        await self._save(claim, job, max(0.0, delay_seconds))
        if claim.job.status.finished and not ended_by_caller:
            self._put_ended(claim.job)

    def _given_back(self, job: Job, delay_seconds: float) -> Job:
        """Return the job as it is stored once its claim is given back: due after the delay; a stream has failed."""
        if job.request.destination is Location.STREAM:
            return job.finished(_interrupted(job), self._session.engine_time())
        if delay_seconds > 0:
            at = self._session.engine_time() + delay_seconds
            return replace(job, not_before=at, delay_seconds=delay_seconds)
        return job if job.not_before is None else replace(job, not_before=None, delay_seconds=None)

    async def _save(self, claim: Any, job: Job, delay_seconds: float | None) -> None:
        claim.check()
        async with claim.writing:
            claim.check()
            [(number,)] = await self._count(SAVE, saved(job, claim.job.ended_steps, claim.token, delay_seconds))
            if number is None:
                claim.lose()
                self._session.drop(claim)
                raise ClaimLost(f"job {job.id} is no longer this claim's")
            job = replace(job, finish_number=number) if number else job
            claim.job = job
            if job.status.finished or delay_seconds is not None:
                self._session.drop(claim)
        self._changed(job, queued=() if delay_seconds is None or job.status.finished else [job])

    async def settle(
        self, id: JobId, outcome: Outcome, *, client: ClientId | None, call: Held | None = None
    ) -> Settlement | None:
        outcome.check()
        return await self._settle(id, outcome, client, call)

    async def _settle(
        self, id: JobId, outcome: Outcome | None, client: ClientId | None, call: Held | None = None
    ) -> Settlement | None:
        """Read a job and end it, again and again until it is still as it was read. Without an outcome: a stream."""

        async def read(connection: Connection, _: int) -> list[tuple[Job, int]]:
            return await read_jobs(connection, self._sql, [id], client, JobFields.RUN)

        for _ in range(50):
            found = await self._writes.run(read, self._config.seconds_per_call)
            if not found:
                return None
            [(job, revision)] = found
            if job.status.finished:
                return Settlement(job, now=False)
            now = self._session.engine_time()
            if call is not None and outcome is not None:
                words = "cancelled" if outcome.status is JobStatus.CANCELLED else "the job was ended from elsewhere"
                job = job.cut_short(call, now, "cancelled", words)
            job = job.finished(_interrupted(job) if outcome is None else outcome, now)
            [(number,)] = await self._count(SETTLE, settled(job, revision, orphan=outcome is None))
            if number is not None:
                job = replace(job, finish_number=number)
                self._session.lose(id)
                self._changed(job)
                return Settlement(job, now=True)
            if outcome is None:
                return None
        raise StoreFailed(f"job {id} changes all the time; settle it again")

    async def _end_streams(self, ids: Collection[JobId]) -> None:
        for id in ids:
            await self._end_stream(id)

    async def _end_stream(self, id: JobId) -> None:
        settlement = await self._settle(id, None, None)
        if settlement is not None and settlement.now:
            self._put_ended(settlement.job)

    def _put_ended(self, job: Job) -> None:
        self._ended.append(job)
        self._has_ended.set()

    # -- reading ----------------------------------------------------------------------------------

    async def _get(
        self, ids: Sequence[JobId], client: ClientId | None = None, fields: JobFields = JobFields.ALL
    ) -> list[Job]:
        if not ids:
            return []

        async def call(connection: Connection, _: int) -> list[tuple[Job, int]]:
            return await read_jobs(connection, self._sql, ids, client, fields)

        return [job for job, _ in await self._reads.run(call, self._config.seconds_per_call)]

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
        rows = await self._read(query, [octets(id), number, most_bytes, number + 1])
        steps = [with_output(outline, output) for outline, output in rows]
        jobs = await self._get([id], fields=JobFields.RECORDS)
        if jobs and number + len(steps) == jobs[0].ended_steps < len(jobs[0].steps):
            steps.append(jobs[0].steps[-1])  # an open step has no output
        return steps

    async def find(self, query: JobQuery) -> list[JobId]:
        below = None
        if query.order == "finished":
            [(below,)] = await self._read("SELECT nodekit.finished_below()")
        found = find_query(query, below)
        if found is None:
            return []
        return [text(id) for (id,) in await self._read(*found)]

    async def sizes(self, ids: Sequence[JobId]) -> Mapping[JobId, int]:
        rows = await self._read("SELECT id, size FROM nodekit.jobs WHERE id = ANY (%s::bytea[])", [named(ids)])
        return {text(id): size for id, size in rows}

    async def delete(self, ids: Sequence[JobId]) -> int:
        [(number,)] = await self._write("SELECT nodekit.delete_jobs(%s::bytea[])", [named(ids)])
        return int(number)

    async def expire(self, *, finished_before: float | None, keep: int | None, limit: int) -> int:
        [(number,)] = await self._write("SELECT nodekit.expire_jobs(%s, %s, %s)", [finished_before, keep, limit])
        return int(number)

    async def pending(self, groups: Collection[GroupId] = ()) -> Pending:
        query = """
            SELECT NULL, coalesce(sum(offchain), 0)::bigint, coalesce(sum(onchain), 0)::bigint FROM nodekit.totals
            UNION ALL
            SELECT grp, sum(jobs)::bigint, 0 FROM nodekit.counts WHERE grp = ANY (%s::bytea[]) GROUP BY grp
        """
        (_, offchain, onchain), *rows = await self._read(query, [named(groups)])
        return Pending(offchain, onchain, {text(group): jobs for group, jobs, _ in rows if jobs})

    def changes(
        self, ids: Collection[JobId] | None = None
    ) -> AbstractAsyncContextManager[AsyncIterator[Change | None]]:
        return self._feed.subscribe(ids)

    def storage(self, namespace: str) -> PluginStorage:
        """Return the records of a plugin (`StoringStore`)."""
        return Records(namespace, self._read, self._write)

    async def check(self) -> None:
        """Read something small, on the connection that renews the lease (`CheckedStore`)."""
        await self._ask(self._lease, "SELECT 1", (), kept=False)

    def nodekit_problems(self) -> Sequence[str]:
        """Return why this store hears nothing from other nodes."""
        return [f"store postgres: {self._ear.problem}"] if self._entered and self._ear.problem else []

    # -- the cluster ------------------------------------------------------------------------------

    async def announce(self, announcement: Announcement) -> None:
        given = [self._session.id, octets(announcement.incarnation), octets(announcement.name)]
        await self._write("SELECT nodekit.announce(%s, %s, %s, %s)", [*given, msgspec.json.encode(announcement)])

    async def nodes(self) -> Sequence[Member]:
        query = """
            SELECT m.announcement, coalesce(s.seen_at, m.seen_at), coalesce(s.lapses_at >= nodekit.engine_time(), false)
            FROM nodekit.members m LEFT JOIN nodekit.sessions s ON s.id = m.session
            WHERE s.lapses_at >= nodekit.engine_time() OR coalesce(s.seen_at, m.seen_at) > nodekit.engine_time() - %s
            ORDER BY m.incarnation
        """
        rows = await self._read(query, [REMEMBERED_SECONDS])
        return [Member(msgspec.json.decode(body, type=Announcement), seen_at, live) for body, seen_at, live in rows]

    async def now(self) -> float:
        [(now,)] = await self._read("SELECT nodekit.engine_time()")
        return float(now)

    async def held(self, ids: Collection[JobId]) -> Mapping[JobId, Held]:
        query = """
            SELECT l.id, m.name, l.since, l.ended_steps, l.attempt FROM nodekit.live l
            JOIN nodekit.members m ON m.session = l.session WHERE l.id = ANY (%s::bytea[])
        """
        rows = await self._read(query, [named(ids)])
        return {text(id): Held(text(name), since, step, attempt) for id, name, since, step, attempt in rows}

    async def queues(self) -> Mapping[ContainerId, QueueState]:
        query = """
            SELECT due, count(*), greatest(0, nodekit.engine_time() - min(due_at)) FROM nodekit.live
            WHERE token IS NULL AND NOT streams GROUP BY due
        """
        return {text(due): QueueState(jobs, seconds) for due, jobs, seconds in await self._read(query)}


def _claim_of(row: Sequence[Any], token: UUID) -> PostgresClaim:
    id, takeovers, age, client, state, request, _, data, outlines, last_number, last_output = row
    steps = with_last_output(outlines or (), last_number, last_output)
    job = job_of(Stored(id, client, state, None, request, data, steps))
    return PostgresClaim(job, token, takeovers, age)


def _interrupted(job: Job) -> Outcome:
    error = ContainerError(container=job.due or "", error="interrupted", kind="interrupted")
    return Outcome(JobStatus.FAILED, error)
