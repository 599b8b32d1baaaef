"""Adapter from `JobTable` to `JobStore`: scheduling in memory, for a store that one node owns."""

import logging
from collections.abc import AsyncIterator, Callable, Collection, Mapping, Sequence
from contextlib import AbstractAsyncContextManager
from types import TracebackType
from typing import Self

import anyio
from msgspec.structs import replace

from nodekit.concurrency.own_tasks import OwnTasks
from nodekit.concurrency.scopes import cancel_scope
from nodekit.embedded.change_feed import ChangeFeed
from nodekit.embedded.claims import EmbeddedClaim, number_within, steps_of
from nodekit.embedded.counters import Counts
from nodekit.embedded.ended_jobs import Ended
from nodekit.embedded.fair_schedule import Wanted
from nodekit.embedded.finish_numbers import FinishNumbers
from nodekit.embedded.interrupted_streams import Interrupted
from nodekit.embedded.pages import page_of
from nodekit.embedded.queue import Queue
from nodekit.embedded.recent_jobs import RecentJobs
from nodekit.embedded.retention import Expiry
from nodekit.embedded.retries import whole_retry
from nodekit.embedded.saving import Saving
from nodekit.embedded.snapshots import Snapshots
from nodekit.embedded.table_archive import TableArchive
from nodekit.errors import ClaimLost, StoreFailed
from nodekit.interfaces.shared_store import QueueState
from nodekit.interfaces.store import Change, Claim, ClaimRoom, JobTable, Pending, Settlement, Unfinished
from nodekit.model.clock import Clock, SystemClock
from nodekit.model.container import ClientId, ContainerId, GroupId, JobId
from nodekit.model.giving_back import given_back
from nodekit.model.job import Held, Job, JobStatus, Outcome, StepRecord
from nodekit.model.queries import JobFields, JobQuery, Page

logger = logging.getLogger("nodekit.store")
RETRY_SECONDS = 5.0


class EmbeddedStore:
    """A `JobStore` built on a `JobTable`.

    It keeps ids, groups and due containers of unfinished jobs in memory, rebuilt from the table when it opens. Claims
    write nothing. A change of a job runs to its end, even if the caller is cancelled. Times and time limits are those
    of `clock`, by default this machine's.
    """

    def __init__(self, table: JobTable, *, clock: Clock | None = None) -> None:
        self.table, clock = table, SystemClock() if clock is None else clock
        self._time, self._queue = clock.time, Queue(clock)
        self._unfinished: dict[JobId, Unfinished] = {}
        self._claims: dict[JobId, EmbeddedClaim] = {}
        self._settling: dict[JobId, anyio.Event] = {}
        self._entered, self._loading = False, set[JobId]()
        self._fresh, self._ended, self._feed, self._counts = RecentJobs(), Ended(), ChangeFeed(), Counts()
        self._finish_numbers, self._expiry = FinishNumbers(self._time), Expiry(table, self._time)
        self._saving = Saving(table, self._finish_numbers, self._feed.publish, self._time)
        self._snapshots = Snapshots(table, self._fresh, self._claims, self._feed, self._saving)
        self._own, self._interrupted = OwnTasks(), Interrupted(self._settle, self._ended.put)

    async def __aenter__(self) -> Self:
        if self._entered:
            raise StoreFailed("a store is entered once; make a new one on the same table")
        self._entered = True
        await self.table.__aenter__()
        try:
            await self._finish_numbers.resume(self.table)
            for entry in await self.table.unfinished():
                self._know(entry)
                self._counts.one(entry, +1)
                if entry.streams:
                    self._interrupted.put(entry)
                else:
                    self._queue.put(entry)
            await self._interrupted.fail()
            await self._own.__aenter__()
        except BaseException:
            with anyio.CancelScope(shield=True):
                await self.table.__aexit__(None, None, None)
            raise
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> bool | None:
        try:
            await self._own.__aexit__(kind, error, trace)
        finally:
            await self.table.__aexit__(kind, error, trace)
        return None

    # -- queueing ---------------------------------------------------------------------------------

    async def add(self, jobs: Sequence[Job]) -> list[Job]:
        """Store new jobs. `pending` counts them from the call on, even if the caller gives up meanwhile."""
        self._own.check()
        self._counts.jobs(jobs, +1)
        return await self._own.run(self._add, jobs)

    async def _add(self, jobs: Sequence[Job]) -> list[Job]:
        try:
            kept = await self.table.add([await whole_retry(self.table, job) if job.retry_of else job for job in jobs])
            pairs = list(zip(jobs, kept, strict=True))
        except BaseException:
            self._counts.jobs(jobs, -1)
            raise
        for asked, job in pairs:
            if self._is_new(asked, job):
                self._know(entry := self._entry(job))
                self._fresh.put(job)
                self._queue.put(entry)
                self._feed.publish(Change(job.id))
            else:
                self._counts.jobs([asked], -1)
        await self._interrupted.fail()
        return kept

    async def add_claimed(self, job: Job) -> Claim:
        self._own.check()
        self._counts.jobs([job], +1)
        return await self._own.run(self._add_claimed, job)

    async def _add_claimed(self, job: Job) -> Claim:
        try:
            kept = (await self.table.add([job]))[0]
            if not self._is_new(job, kept):
                raise StoreFailed(f"job {kept.id} exists already and cannot be claimed")
        except BaseException:
            self._counts.jobs([job], -1)
            raise
        self._know(self._entry(kept))
        claim = self._claims[kept.id] = EmbeddedClaim(kept)
        self._feed.publish(Change(kept.id))
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
        most_bytes = None if room is None else room.most_bytes
        if room is not None and room.each >= limit and not room.groups:
            room = None  # no group is limited
        wanted = Wanted(frozenset(containers), None if pipelines is None else frozenset(pipelines), suspects, room)
        while not (claims := await self._load(self._first(await self._queue.take(wanted, limit), most_bytes))):
            pass  # all of them were settled during the read
        return claims

    async def claim_expired(self, limit: int, *, most_bytes: int | None = None) -> list[Claim]:
        while not (claims := await self._load(self._first(await self._queue.take_expired(limit), most_bytes))):
            pass
        return claims

    def _first(self, taken: Sequence[Unfinished], most_bytes: int | None) -> Sequence[Unfinished]:
        """Return as many of the jobs as have `most_bytes`, at least one; queue the others again."""
        number = number_within(taken, most_bytes)
        for entry in taken[number:]:
            self._queue_again(entry.id)
        return taken[:number]

    async def _load(self, taken: Sequence[Unfinished]) -> list[Claim]:
        jobs = {entry.id: self._fresh.pop(entry.id) for entry in taken}
        self._loading.update(jobs)
        try:
            if missing := [id for id, job in jobs.items() if job is None]:
                jobs.update((job.id, job) for job in await self.table.get(missing, fields=JobFields.RUN))
                for id in missing:
                    if (found := jobs[id]) is None or found.status.finished:
                        await self._own.run(self._ended_by_table, id, found)
        except BaseException:  # cancelled, or the table cannot read: put them back
            self._loading.difference_update(jobs)
            for entry in taken:
                self._queue_again(entry.id)
            raise
        self._loading.difference_update(jobs)
        claims: list[Claim] = []
        for job in jobs.values():
            if job is not None and job.id in self._unfinished and job.id not in self._settling:
                claim = self._claims[job.id] = EmbeddedClaim(job, age_seconds=self._queue.age_seconds(job.id))
                claims.append(claim)
        return claims

    async def _ended_by_table(self, id: JobId, job: Job | None) -> None:
        """End a job that is unfinished here, but not in the table.

        The table stored its end earlier although it reported a failure. Or it cannot read the job any more: then it
        says so by an end that has no number yet, and is stored here; or the job is not there at all.
        """
        if id not in self._unfinished or id in self._settling:
            return
        settled = self._settling[id] = anyio.Event()
        try:
            if job is None:
                logger.error("job %s is not in the store any more", id)
            elif job.finish_number is None:
                await self._saving.save(replace(job, finished_at=self._time()))
        except StoreFailed as error:
            logger.error("job %s cannot be read, and that it failed cannot be stored: %s", id, error)
        finally:
            del self._settling[id]
            settled.set()
        self._finish(id)
        self._ended.put(id)
        self._feed.publish(Change(id, finished=True))

    async def ended(self) -> Sequence[Job]:
        """Wait for jobs that the store ended by itself.

        These are streams without a claim, and ends that the table stored despite a reported failure. Streams of an
        earlier run that could not be failed are tried again meanwhile.
        """
        while self._interrupted.left:
            with anyio.move_on_after(RETRY_SECONDS):
                return await self._ended.take(self._read)
            await self._own.run(self._interrupted.fail)
        return await self._ended.take(self._read)

    async def _read(self, ids: Sequence[JobId]) -> Sequence[Job]:
        return await self.table.get(ids, fields=JobFields.RUN)

    # -- running ----------------------------------------------------------------------------------

    async def save(self, claim: Claim, job: Job) -> None:
        with cancel_scope(shield=True):
            await self._write(claim, job, self._saved)

    def _saved(self, claim: EmbeddedClaim, job: Job) -> None:
        claim.job = job
        if job.status.finished:
            claim.lost = True  # for a write that waits behind this one
            self._snapshots.end(job)
            self._finish(job.id)

    async def release(self, claim: Claim, job: Job, *, delay_seconds: float = 0) -> None:
        def released(held: EmbeddedClaim, job: Job) -> None:
            if job.status.finished:
                self._saved(held, job)
                if not was_finished:
                    self._ended.put(job.id)
                return
            held.lost = True
            del self._claims[job.id]
            self._unfinished[job.id] = entry = self._entry(job)
            self._queue.put(entry, delay_seconds=delay_seconds)

        was_finished = job.status.finished
        with cancel_scope(shield=True):
            await self._write(claim, given_back(job, delay_seconds, self._time), released)

    async def _write(self, claim: Claim, job: Job, then: Callable[[EmbeddedClaim, Job], None]) -> None:
        while (settling := self._settling.get(job.id)) is not None:
            await settling.wait()  # settling may fail, and then the claim is valid again
        held = self._claims.get(job.id)
        if held is not None and held is claim and not held.lost:
            async with held:
                if not held.lost:
                    if job is not held.job:
                        job = await self._saving.save(job)
                    then(held, job)
                    self._feed.publish(Change(job.id, finished=job.status.finished))
                    return
        raise ClaimLost(f"job {job.id} is no longer this claim's")

    async def settle(
        self, id: JobId, outcome: Outcome, *, client: ClientId | None, call: Held | None = None
    ) -> Settlement | None:
        return await self._own.run(self._settle, id, outcome, client, call)

    async def _settle(
        self, id: JobId, outcome: Outcome, client: ClientId | None, call: Held | None = None
    ) -> Settlement | None:
        while True:
            job = next(iter(await self.table.get([id], client=client, fields=JobFields.RUN)), None)
            if job is None or job.status.finished:
                if job is not None and job.finish_number is None and id not in self._claims:
                    await self._ended_by_table(id, job)
                return None if job is None else Settlement(job, now=False)
            if id not in self._unfinished:  # it was finished during the read
                job = next(iter(await self.table.get([id], client=client, fields=JobFields.RUN)), None)
                return None if job is None else Settlement(job, now=False)
            if id not in self._settling:
                return await self._settle_unfinished(id, outcome, call)
            await self._settling[id].wait()

    async def _settle_unfinished(self, id: JobId, outcome: Outcome, call: Held | None) -> Settlement | None:
        settled = self._settling[id] = anyio.Event()
        self._queue.remove(id)
        self._fresh.pop(id)  # the table may store the end although it reports a failure
        held = self._claims.get(id)
        try:
            if held is None:
                return await self._settle_now(id, outcome, call)
            held.lost = True  # a write in progress completes; no write follows it
            async with held:
                return await self._settle_now(id, outcome, call)
        finally:
            del self._settling[id]
            settled.set()
            if held is not None and self._claims.get(id) is held:  # the table failed
                held.lost = False
            self._queue_again(id)

    async def _settle_now(self, id: JobId, outcome: Outcome, call: Held | None) -> Settlement | None:
        job = next(iter(await self._read([id])), None)
        if job is None or job.status.finished:
            return None if job is None else Settlement(job, now=False)
        now = self._time()
        if call is not None:
            text = "cancelled" if outcome.status is JobStatus.CANCELLED else "the job was ended from elsewhere"
            job = job.cut_short(call, now, "cancelled", text)
        ended = job.finished(outcome, now)
        try:
            job = await self._saving.save(ended)
        except StoreFailed:
            if (stored := await self._saving.stored(ended)) is None:
                raise
            job = stored  # only the answer was lost
        if held := self._claims.get(id):
            held.scope.cancel()
        self._finish(id)
        self._feed.publish(Change(id, finished=True))
        return Settlement(job, now=True)

    # -- reading ----------------------------------------------------------------------------------

    async def get(
        self, ids: Sequence[JobId], *, client: ClientId | None = None, fields: JobFields = JobFields.ALL
    ) -> list[Job]:
        return await self._snapshots.get(ids, client, fields)

    async def steps(self, id: JobId, first: int, most_bytes: int) -> Sequence[StepRecord]:
        return await steps_of(self.table, id, first, most_bytes)

    async def find(self, query: JobQuery) -> list[JobId]:
        return await self.table.find(self._finish_numbers.shown(query))

    async def page(self, query: JobQuery) -> Page:
        """Return a page of a search, which may be short if the table's are (`PagingStore`)."""
        return await page_of(self.table, self._finish_numbers.shown(query))

    async def sizes(self, ids: Sequence[JobId]) -> Mapping[JobId, int]:
        return await self.table.sizes(ids)

    async def delete(self, ids: Sequence[JobId]) -> int:
        self._expiry.forget()
        self._snapshots.forget()
        return await self.table.delete(ids)

    def archive(self, *, create: bool = False) -> TableArchive:
        """Return all that the table keeps, while no node works on it (`ArchivedStore`). The store is not entered."""
        return TableArchive(self.table)

    async def expire(self, *, finished_before: float | None, keep: int | None, limit: int) -> int:
        self._snapshots.forget()
        return await self._own.run(self._expiry.expire, finished_before=finished_before, keep=keep, limit=limit)

    async def pending(self, groups: Collection[GroupId] = ()) -> Pending:
        return self._counts.pending(groups)

    async def queues(self) -> Mapping[ContainerId, QueueState]:
        return self._queue.states()

    def changes(
        self, ids: Collection[JobId] | None = None
    ) -> AbstractAsyncContextManager[AsyncIterator[Change | None]]:
        return self._feed.subscribe(ids)

    # -- bookkeeping ------------------------------------------------------------------------------

    def _entry(self, job: Job) -> Unfinished:
        """Return the facts for scheduling a job that is tracked from now on, or queued again."""
        return Unfinished.of(job)

    def _is_new(self, asked: Job, kept: Job) -> bool:
        return kept.id == asked.id and kept.id not in self._unfinished and not kept.status.finished

    def _know(self, entry: Unfinished) -> None:
        self._unfinished[entry.id] = entry
        self._queue.know(entry.id)

    def _finish(self, id: JobId) -> None:
        self._saving.forget(id)
        entry = self._unfinished.pop(id)
        self._queue.forget(id)
        self._fresh.pop(id)
        self._counts.one(entry, -1)
        self._claims.pop(id, None)

    def _queue_again(self, id: JobId) -> None:
        """Queue a job again that was taken out and not claimed."""
        elsewhere = (self._claims, self._settling, self._loading, self._queue)
        if id in self._unfinished and not self._unfinished[id].streams and not any(id in place for place in elsewhere):
            self._queue.put_back(self._unfinished[id])
