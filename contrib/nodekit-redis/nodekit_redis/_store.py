"""The store `redis`: jobs of many nodes under one prefix (`SharedStore`)."""

from asyncio import get_running_loop
from collections import deque
from collections.abc import AsyncIterator, Collection, Mapping, Sequence
from contextlib import asynccontextmanager
from types import TracebackType
from typing import Any, Self

import anyio
from msgspec.structs import replace

from nodekit import (
    Announcement,
    Change,
    ChangeFeed,
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
    Member,
    Outcome,
    QueueState,
    Settlement,
    StoreFailed,
    WaitingClaims,
    given_back,
    interrupted_outcome,
)
from nodekit_redis._address import Command
from nodekit_redis._checks import Checks
from nodekit_redis._claiming import Claiming
from nodekit_redis._cluster import Cluster
from nodekit_redis._config import RedisConfig
from nodekit_redis._ear import Ear, News, Teller
from nodekit_redis._facts import server_facts
from nodekit_redis._line import Notice
from nodekit_redis._reader import Reader, RedisView
from nodekit_redis._rows import unquoted
from nodekit_redis._session import BEATS_PER_LEASE, RedisClaim, Session
from nodekit_redis._writing import added, saved, settled

MOST_TRIES = 50


class RedisStore(Reader):
    """A `SharedStore` on a Redis or Valkey server."""

    def __init__(self, config: RedisConfig) -> None:
        super().__init__(config)
        self._entered = False

    @property
    def lease_seconds(self) -> float:
        return self._config.lease_seconds

    # -- entering ---------------------------------------------------------------------------------

    async def __aenter__(self) -> Self:
        config, engine = self._config, self._begin()
        self._session = Session(engine.lease_line, engine.scripts, config.lease_seconds, engine.seconds)
        self._session.on_orphans, self._session.on_missed = self._end_streams, self._missed
        self._teller = Teller(self._publish)
        self._waiting = WaitingClaims(self._teller.put, config.look_seconds, get_running_loop().call_later)
        self._claiming = Claiming(engine, self._reading, self._session, self._waiting, config.look_seconds)
        self._claiming.deaf = lambda: bool(self._ear.problem)
        self._checks = Checks(engine, config.durability, config.lease_seconds)
        self._cluster = Cluster(engine, self._session)
        self._feed = ChangeFeed()
        self._ended, self._has_ended = deque[Job](), Notice()
        self._ear = Ear(
            engine.address,
            engine.key("news"),
            connect_seconds=config.connect_seconds,
            beat_seconds=config.lease_seconds / BEATS_PER_LEASE,
            publish=self._publish,
            hear=self._hear,
            missed=self._missed,
        )
        self._tasks = await anyio.create_task_group().__aenter__()
        try:
            await engine.connect(self._tasks)
            await self._checks.at_start()
            await self._session.begin()
            tested = self._ear.tested()
            self._tasks.start_soon(self._ear.run)
            await tested.wait()
            self._tasks.start_soon(self._session.run)
            self._tasks.start_soon(self._checks.run)
            self._tasks.start_soon(self._teller.run)
            self._entered = True
        except BaseException:
            await self._close()
            raise
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> bool | None:
        self._entered = False
        with anyio.CancelScope(shield=True), anyio.move_on_after(min(self._config.lease_seconds, 5.0)):
            try:
                self._waiting.leave()
                await self._session.leave()
                await self._teller.tell()
                orphans = await self._engine.one("SRANDMEMBER", self._engine.key("orphans"), 50)
                await self._end_streams([id.decode() for id in orphans])
            except StoreFailed:
                pass  # the lease runs out
        await self._close()
        return None

    async def _close(self) -> None:
        self._ear.close()
        await super()._close()

    def view(self) -> RedisView:
        """Return the jobs and the records of plugins beside the nodes (`ViewedStore`)."""
        return RedisView(self._config)

    # -- news -------------------------------------------------------------------------------------

    async def _publish(self, message: bytes) -> None:
        await self._engine.one("PUBLISH", self._engine.key("news"), message)

    def _hear(self, news: News) -> None:
        if news.ended:
            self._session.claims.lose(news.id, writing=False)
        self._waiting.wake([unquoted(news.due.encode())] if news.due else (), seconds_left=news.seconds_left)
        if news.id:
            self._feed.publish(Change(news.id, finished=news.ended))

    def _missed(self) -> None:
        """Look at everything again: something may have changed unheard."""
        self._feed.publish(None)
        self._waiting.wake_all()

    @asynccontextmanager
    async def changes(self, ids: Collection[JobId] | None = None) -> AsyncIterator[AsyncIterator[Change | None]]:
        await self._ear.caught_up()  # what was published before does not count
        async with self._feed.subscribe(ids) as changes:
            yield changes

    # -- queueing ---------------------------------------------------------------------------------

    async def add(self, jobs: Sequence[Job]) -> list[Job]:
        if not jobs:
            return []
        for _ in range(MOST_TRIES):
            answer = await self._add(jobs)
            ids = [id.decode() for id in answer[1::2]]
            fresh = {id: job for id, names, job in zip(ids, answer[2::2], jobs, strict=True) if names}
            kept = {id: job for id, job in fresh.items() if job.retry_of is None or not job.lacks_outputs}
            kept |= {job.id: job for job in await self._reading.get([id for id in ids if id not in kept])}
            if all(id in kept for id in ids):  # else one was deleted at this moment
                return [kept[id] for id in ids]
        raise StoreFailed("a job with the same id or idempotency key is deleted again and again; add it later")

    async def _add(self, jobs: Sequence[Job], session: str = "", token: str = "") -> Sequence[Any]:
        own = not session and self._waiting.may_take(jobs)
        before, arguments = added(jobs, self._session.engine_time(), self._engine.key, session, token, own=own)
        answer: Sequence[Any] = await self._run_queueing("add", arguments, before, jobs if own else ())
        match answer[0]:
            case b"session":
                raise StoreFailed("the lease of this node is over; it begins a new one, try again")
            case b"retried":
                raise StoreFailed("the job that is retried has been deleted meanwhile")
            case _:
                new = [job for job, names in zip(jobs, answer[2::2], strict=True) if names]
                self._waiting.queued(new if own else ())
                return answer

    async def _run_queueing(
        self, script: str, arguments: Sequence[Any], before: Sequence[Command], own: Sequence[Job]
    ) -> Any:
        """Run a script that may queue jobs. If nobody gets its answer, others are told of those that this node has not
        told of (`own`)."""

        def pass_on(_: Any = None) -> None:
            self._waiting.pass_on(own)

        try:
            return await self._engine.run(script, arguments, before=before, undo=pass_on)
        except StoreFailed:
            pass_on()
            raise

    async def add_claimed(self, job: Job) -> Claim:
        session = self._session
        token = session.claims.ask()
        try:
            answer = await self._add([job], session.id, token)
            if not answer[2]:
                raise StoreFailed(f"job {answer[1].decode()} exists already and cannot be claimed")
        except BaseException:
            session.give_back(token, ())  # if it is stored, a beat finds a claim that nobody has
            raise
        claim = RedisClaim(job, token, 0, 0.0)
        session.claims.answered(token, [claim])
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
        return list(await self._claiming.claim(containers, pipelines, limit, suspects, room))

    async def claim_expired(self, limit: int, *, most_bytes: int | None = None) -> list[Claim]:
        return list(await self._claiming.claim_expired(limit, most_bytes))

    async def ended(self) -> Sequence[Job]:
        """Wait for streams that this store has ended, since no node holds them any more (`EndingStore`)."""
        while not self._ended:
            await self._has_ended.next().wait()
        jobs = list(self._ended)
        self._ended.clear()
        return jobs

    # -- running ----------------------------------------------------------------------------------

    async def save(self, claim: Any, job: Job) -> None:
        await self._save(claim, job, "finish" if job.status.finished else "save")

    async def release(self, claim: Any, job: Job, *, delay_seconds: float = 0) -> None:
        returned = given_back(job, delay_seconds, self._session.engine_time)
        own = self._waiting.may_take([returned])
        mode = "finish" if returned.status.finished else "own" if own else "release"
        await self._save(claim, returned, mode, max(0.0, delay_seconds))
        if returned.status.finished and not job.status.finished:
            self._put_ended(claim.job)

    async def _save(self, claim: RedisClaim, job: Job, mode: str, delay_seconds: float = 0.0) -> None:
        claim.check()
        async with claim.writing:
            claim.check()
            before, arguments = saved(job, claim.job.ended_steps, claim.token, mode, delay_seconds, self._engine.key)
            owed = [job] if mode == "own" else ()
            answer = await self._run_queueing("write", arguments, before, owed)
            if not answer[0]:
                claim.lose()
                self._session.claims.drop(claim)
                raise ClaimLost(f"job {job.id} is no longer this claim's")
            self._waiting.queued(owed)
            claim.job = replace(job, finish_number=int(answer[1])) if answer[1] else job
            if mode != "save":
                self._session.claims.drop(claim)
            self._session.claims.check_lease()

    async def settle(
        self, id: JobId, outcome: Outcome, *, client: ClientId | None, call: Held | None = None
    ) -> Settlement | None:
        outcome.check()
        return await self._settle(id, outcome, client, call)

    async def _settle(
        self, id: JobId, outcome: Outcome | None, client: ClientId | None, call: Held | None = None
    ) -> Settlement | None:
        """Read a job and end it, again and again until it is still as it was read. Without an outcome: a stream."""
        for _ in range(MOST_TRIES):
            heads = await self._reading.heads([id])
            if not heads or client not in (None, heads[0].client):
                return None
            [job] = await self._reading.whole(heads, JobFields.ALL)
            if job is None:
                return None
            if job.status.finished:
                return Settlement(job, now=False)
            now = self._session.engine_time()
            if call is not None and outcome is not None:
                words = "cancelled" if outcome.status is JobStatus.CANCELLED else "the job was ended from elsewhere"
                job = job.cut_short(call, now, "cancelled", words)
            job = job.finished(interrupted_outcome(job.due or "") if outcome is None else outcome, now)
            done = await self._engine.run("settle", settled(id, heads[0].revision, job))
            if done[0] > 0:
                return Settlement(replace(job, finish_number=int(done[1])), now=True)
        raise StoreFailed(f"job {id} changes all the time; settle it again")

    async def _end_streams(self, ids: Collection[JobId]) -> None:
        for id in ids:
            settlement = await self._settle(id, None, None)
            if settlement is None or not settlement.now:  # deleted, or ended by another node
                await self._engine.one("SREM", self._engine.key("orphans"), id)
            else:
                self._put_ended(settlement.job)

    def _put_ended(self, job: Job) -> None:
        self._ended.append(job)
        self._has_ended.set()

    # -- the server -------------------------------------------------------------------------------

    async def facts(self) -> Mapping[str, str | int]:
        """Return facts about the server (`DescribingStore`)."""
        return await server_facts(self._config)

    async def check(self) -> None:
        """Read something small, on the connection that renews the lease (`CheckedStore`)."""
        await self._engine.lease_line.call([("PING",)], self._engine.seconds)

    def nodekit_problems(self) -> Sequence[str]:
        """Return what is wrong with the server or its data, or why nothing is heard from other nodes."""
        if not self._entered:
            return []
        problems = [self._ear.problem, self._session.problem, *self._checks.problems]
        return [f"store redis: {problem}" for problem in problems if problem]

    # -- the cluster ------------------------------------------------------------------------------

    async def announce(self, announcement: Announcement) -> None:
        await self._cluster.announce(announcement)

    async def nodes(self) -> Sequence[Member]:
        return await self._cluster.nodes()

    async def now(self) -> float:
        return await self._cluster.now()

    async def held(self, ids: Collection[JobId]) -> Mapping[JobId, Held]:
        return await self._cluster.held(ids)

    async def queues(self) -> Mapping[ContainerId, QueueState]:
        return await self._cluster.queues()
