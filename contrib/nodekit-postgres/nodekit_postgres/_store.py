"""The store `postgres`: the queue of many nodes in one schema, and jobs under claims."""

from collections import deque
from collections.abc import Collection, Mapping, Sequence
from typing import Any
from uuid import UUID

import anyio
from msgspec.structs import replace

from nodekit import (
    Claim,
    ClaimLost,
    ClaimRoom,
    ClientId,
    ContainerId,
    Held,
    Job,
    JobFields,
    JobId,
    JobStatus,
    Outcome,
    Settlement,
    StoreFailed,
    WaitingClaim,
    given_back,
    interrupted_outcome,
)
from nodekit_postgres._config import PostgresConfig
from nodekit_postgres._connecting import Connection, Notice, pause_seconds
from nodekit_postgres._reader import Reader
from nodekit_postgres._reading import named, read_jobs, with_last_output
from nodekit_postgres._rows import Stored, job_of, text
from nodekit_postgres._session import PostgresClaim
from nodekit_postgres._view import PostgresView, facts_of, migrated
from nodekit_postgres._writing import ADD, SAVE, SETTLE, added, portions, saved, settled

CLAIM = """
    SELECT * FROM nodekit.claim(%(session)s, %(token)s, %(dues)s::bytea[], %(pipelines)s::bytea[], %(limit)s,
        %(suspects)s, %(each)s, %(groups)s::bytea[], %(room)s::integer[], %(most_bytes)s)
"""
CLAIM_EXPIRED = "SELECT * FROM nodekit.claim_expired(%(session)s, %(token)s, %(limit)s, %(most_bytes)s)"


class PostgresStore(Reader):
    """A `SharedStore` in a schema of a PostgreSQL database."""

    def __init__(self, config: PostgresConfig) -> None:
        super().__init__(config)
        self._ended, self._has_ended = deque[Job](), Notice()

    # -- beside its nodes -------------------------------------------------------------------------

    def view(self) -> PostgresView:
        """Return the jobs, for commands beside the nodes (`ViewedStore`)."""
        return PostgresView(self.config)

    async def facts(self) -> Mapping[str, str | int]:
        """Return facts about the schema and its size (`DescribingStore`)."""
        return await facts_of(self.config)

    async def migrate(self) -> str:
        """Create or upgrade the tables (`MigratingStore`)."""
        return await migrated(self.config)

    # -- queueing ---------------------------------------------------------------------------------

    async def add(self, jobs: Sequence[Job]) -> list[Job]:
        if not jobs:
            return []
        rows = await self._add(jobs)
        kept: dict[JobId, Job] = {}
        new: list[Job] = []
        for job, (_, fresh) in zip(jobs, rows, strict=True):
            if fresh:
                kept[job.id] = job
                new.append(job)
        others = [text(id) for id, _ in rows if id is not None and text(id) not in kept]
        whole = [job.id for job in new if job.retry_of is not None and job.lacks_outputs]
        kept.update((job.id, job) for job in await self._get([*others, *whole]))
        self.changed(*new, queued=new)
        answer = [kept.get(text(id)) if id is not None else None for id, _ in rows]
        if None in answer:
            raise StoreFailed("a job with the same id or idempotency key was deleted at this moment; add it again")
        return [job for job in answer if job is not None]

    async def _add(self, jobs: Sequence[Job]) -> list[tuple[Any, ...]]:
        """Add jobs in one transaction: some at a time, since long arrays take long, and encoding holds others up."""
        parts = list(portions(jobs))
        if len(parts) == 1:
            return await self.count(ADD, added(jobs))

        async def call(connection: Connection, number: int) -> list[tuple[Any, ...]]:
            rows: list[tuple[Any, ...]] = []
            async with connection.transaction():
                await connection.execute(self.writes.bound)
                for part in parts:
                    given = {**added(part), "shard": self.shard(number)}
                    cursor = await connection.execute(self.sql(ADD), given, binary=True)
                    rows += await cursor.fetchall()
            return rows

        return await self.writes.run(call, self.config.seconds_per_call * (1 + len(parts) / 4), kept=True)

    async def add_claimed(self, job: Job) -> Claim:
        token = self.session.claims.ask()
        try:
            [(id, fresh)] = await self.count(ADD, added([job], session=self.session.id, token=token))
            if not fresh:
                raise StoreFailed(f"job {text(id) if id else job.id} exists already and cannot be claimed")
        except BaseException:
            self.session.give_up(token, soon=True)
            raise
        claim = PostgresClaim(job, token, 0, 0.0)
        self.session.claims.answered(token, [claim])
        self.changed(job)
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
        with self.waiting.waiting(containers, limit) as waiting:
            return await self._wait(CLAIM, given, waiting)

    async def claim_expired(self, limit: int, *, most_bytes: int | None = None) -> list[Claim]:
        given = {"limit": limit, "most_bytes": most_bytes}
        while True:
            try:
                with self.waiting.waiting(None, limit) as waiting:
                    return await self._wait(CLAIM_EXPIRED, given, waiting)
            except StoreFailed:  # nobody would learn that it waits again, as often nothing expires for long
                if not self._entered:
                    raise
            await anyio.sleep(pause_seconds(4))

    async def _wait(self, query: str, given: dict[str, Any], waiting: WaitingClaim) -> list[Claim]:
        """Look for jobs, and wait for news or for the time at which there may be some, until there are any."""
        while True:
            waiting.begin_look()
            claims, seconds = await self._look(query, given)
            waiting.end_look(claim.job.id for claim in claims)
            if claims:
                return claims
            longest = 1.0 if self.ear.problem else self.config.look_seconds
            await waiting.wait(longest if seconds is None else min(seconds, longest))

    async def _look(self, query: str, given: dict[str, Any]) -> tuple[list[Claim], float | None]:
        """Claim jobs. Without any, return the time until some may be due, too."""
        session, token = self.session, self.session.claims.ask()
        got: list[PostgresClaim] = []
        begun = gone = False

        async def call(connection: Connection, _: int) -> float | None:
            nonlocal begun
            if gone:
                return None
            begun, seconds = True, None
            parameters = {**given, "session": session.id, "token": token}
            try:
                cursor = await connection.execute(self.sql(query), parameters, binary=True)
                for row in await cursor.fetchall():
                    if row[0] is None:
                        seconds = row[2]
                    else:
                        got.append(_claim_of(row, token))
            except BaseException:
                session.give_up(token, soon=gone)  # it may have claimed something
                raise
            if gone:
                session.give_up(token, soon=bool(got))
            return seconds

        try:
            seconds = await self.writes.run(call, self.config.seconds_per_call, kept=True)
        except StoreFailed:
            session.give_up(token, soon=True)
            raise
        except BaseException:
            gone = True
            if got or not begun:
                session.give_up(token, soon=bool(got))
            raise
        session.claims.answered(token, got)
        return list(got), seconds

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
        await self._save(claim, given_back(job, delay_seconds, self.session.engine_time), max(0.0, delay_seconds))
        if claim.job.status.finished and not job.status.finished:
            self._put_ended(claim.job)

    async def _save(self, claim: Any, job: Job, delay_seconds: float | None) -> None:
        claim.check()
        async with claim.writing:
            claim.check()
            [(number,)] = await self.count(SAVE, saved(job, claim.job.ended_steps, claim.token, delay_seconds))
            if number is None:
                claim.lose()
                self.session.claims.drop(claim)
                raise ClaimLost(f"job {job.id} is no longer this claim's")
            job = replace(job, finish_number=number) if number else job
            claim.job = job
            if job.status.finished or delay_seconds is not None:
                self.session.claims.drop(claim)
            self.session.claims.check_lease()
        self.changed(job, queued=() if delay_seconds is None or job.status.finished else [job])

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
            return await read_jobs(connection, self.sql, [id], client, JobFields.RUN)

        for _ in range(50):
            found = await self.writes.run(read, self.config.seconds_per_call)
            if not found:
                return None
            [(job, revision)] = found
            if job.status.finished:
                return Settlement(job, now=False)
            now = self.session.engine_time()
            if call is not None and outcome is not None:
                words = "cancelled" if outcome.status is JobStatus.CANCELLED else "the job was ended from elsewhere"
                job = job.cut_short(call, now, "cancelled", words)
            job = job.finished(interrupted_outcome(job.due or "") if outcome is None else outcome, now)
            [(number,)] = await self.count(SETTLE, settled(job, revision, orphan=outcome is None))
            if number is not None:
                job = replace(job, finish_number=number)
                self.session.claims.lose(id)
                self.changed(job)
                return Settlement(job, now=True)
            if outcome is None:
                return None
        raise StoreFailed(f"job {id} changes all the time; settle it again")

    async def end_streams(self, ids: Collection[JobId]) -> None:
        for id in ids:
            await self._end_stream(id)

    async def _end_stream(self, id: JobId) -> None:
        settlement = await self._settle(id, None, None)
        if settlement is not None and settlement.now:
            self._put_ended(settlement.job)

    def _put_ended(self, job: Job) -> None:
        self._ended.append(job)
        self._has_ended.set()


def _claim_of(row: Sequence[Any], token: UUID) -> PostgresClaim:
    id, takeovers, age, client, state, request, _, data, outlines, last_number, last_output = row
    steps = with_last_output(outlines or (), last_number, last_output)
    job = job_of(Stored(id, client, state, None, request, data, steps))
    return PostgresClaim(job, token, takeovers, age)
