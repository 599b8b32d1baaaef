"""Promises of a `JobStore`."""

import time

import anyio
import pytest
from msgspec.structs import replace

from nodekit import Change, Claim, Held, Job, JobFields, JobId, JobQuery, JobStatus, JobStore, Location, Outcome
from nodekit.testing.builders.jobs import make_job, succeeded, with_output
from nodekit.testing.contracts.bounds import turn, within
from nodekit.testing.contracts.stores.base import SUCCEEDED
from nodekit.testing.contracts.stores.claim_rooms import ClaimRooms
from nodekit.testing.contracts.stores.claiming import Claiming
from nodekit.testing.contracts.stores.keeping import Keeping
from nodekit.testing.contracts.stores.large_jobs import LargeJobs
from nodekit.testing.contracts.stores.storing import Storing


class JobStoreContract(Keeping, Claiming, ClaimRooms, LargeJobs, Storing):
    """Suite of a store. Define the fixture `store`: an empty store that is entered."""

    @pytest.fixture
    def store(self) -> JobStore:
        raise NotImplementedError("define a fixture `store` that gives an empty store that was entered")

    @pytest.fixture
    def keeper(self, store: JobStore) -> JobStore:
        return store

    async def finish(self, keeper: JobStore, job: Job, outcome: Outcome = SUCCEEDED) -> None:
        await keeper.settle(job.id, outcome, client=None)

    # -- following --------------------------------------------------------------------------------

    async def test_who_follows_finished_jobs_misses_and_repeats_none(self, store: JobStore) -> None:
        jobs = await store.add([make_job() for _ in range(60)])
        found: list[JobId] = []

        async def follow() -> None:
            query = JobQuery(order="finished", limit=7)
            while len(found) < len(jobs):
                ids = await store.find(query)
                if ids:
                    [last] = await store.get(ids[-1:], fields=JobFields.STATE)
                    query = replace(query, after=query.cursor(last))
                    found.extend(ids)
                await anyio.sleep(0.001)

        with within(self.timeout_seconds, "`find` shows all finished jobs in the order finished"):
            async with anyio.create_task_group() as tasks:
                tasks.start_soon(follow)
                for job in jobs[::-1]:
                    tasks.start_soon(self.finish, store, job)
        assert len(found) == len(jobs), f"{len(found)} jobs were found, of {len(jobs)}"
        assert set(found) == {job.id for job in jobs}

    # -- expiring ---------------------------------------------------------------------------------

    async def test_expire_deletes_finished_jobs_first_those_that_finished_first(self, store: JobStore) -> None:
        jobs = await store.add([make_job() for _ in range(7)])
        for job in jobs[5::-1]:
            await self.finish(store, job)
        a, b, c, _, _, _, unfinished = (job.id for job in jobs)
        soon = time.time() + 60
        assert await store.expire(finished_before=soon - 120, keep=None, limit=10) == 0
        assert await store.expire(finished_before=None, keep=None, limit=10) == 0
        assert await store.expire(finished_before=None, keep=6, limit=10) == 0
        assert await store.expire(finished_before=None, keep=4, limit=1) == 1
        assert await store.find(JobQuery(order="finished")) == [job.id for job in jobs[4::-1]]
        assert await store.expire(finished_before=None, keep=3, limit=10) == 2
        assert await store.find(JobQuery(order="finished")) == [c, b, a]
        assert await store.expire(finished_before=soon, keep=3, limit=2) == 2
        assert await store.find(JobQuery()) == [a, unfinished]
        assert await store.expire(finished_before=soon, keep=None, limit=10) == 1
        assert await store.expire(finished_before=soon, keep=1, limit=10) == 0
        assert await store.find(JobQuery()) == [unfinished]
        assert (await store.pending()).total == 1

    # -- settling ---------------------------------------------------------------------------------

    async def test_a_settlement_keeps_the_call_that_it_cuts_short(self, store: JobStore) -> None:
        claim = await self.claimed(store, make_job("echo", "reverse"))
        await store.save(claim, job := with_output(claim.job, due="reverse"))
        call, other = (Held(node="n", since=job.accepted_at, step=step, attempt=1) for step in (1, 0))
        settlement = await store.settle(job.id, Outcome(JobStatus.CANCELLED), client=None, call=call)
        [kept] = await store.get([job.id])
        assert settlement is not None
        assert settlement.job == kept
        assert kept.steps[:-1] == job.steps
        (attempt,) = kept.steps[-1].attempts
        assert (kept.steps[-1].container, attempt.started_at, attempt.kind) == ("reverse", call.since, "cancelled")
        late = await self.claimed(store, make_job("echo", "reverse"))
        await store.save(late, job := with_output(late.job, due="reverse"))
        await store.settle(job.id, Outcome(JobStatus.CANCELLED), client=None, call=other)
        assert [done.steps for done in await store.get([job.id])] == [job.steps], "that call had ended before"

    # -- pending ----------------------------------------------------------------------------------

    async def test_pending_counts_by_origin_and_client(self, store: JobStore) -> None:
        assert await self.counts(store) == (0, 0, {})
        await store.add([make_job(), make_job(client="bob"), make_job(origin=Location.ONCHAIN)])
        assert await self.counts(store) == (2, 1, {"alice": 2, "bob": 1})
        await store.add([make_job(destination=Location.ONCHAIN), make_job(client="bob")])
        assert await self.counts(store) == (3, 2, {"alice": 3, "bob": 2})

    async def test_pending_counts_the_groups_that_are_asked_for(self, store: JobStore) -> None:
        await store.add([make_job(), make_job(client="bob"), make_job(client="bob", group="alice")])
        for groups, counts in (((), {}), (["bob"], {"bob": 1}), (["nobody", "alice"], {"alice": 2})):
            pending = await store.pending(groups)
            assert (pending.total, dict(pending.groups)) == (3, counts)

    async def test_pending_counts_a_job_from_its_acceptance_to_its_end(self, store: JobStore) -> None:
        first = make_job("echo", "reverse", idempotency_key="k")
        for job in (first, first, make_job(idempotency_key="k")):
            await store.add([job])
            assert await self.counts(store) == (1, 0, {"alice": 1})
        [claim] = await self.claims(store, 1)
        await store.release(claim, with_output(claim.job, due="reverse"))
        assert await self.counts(store) == (1, 0, {"alice": 1})
        [claim] = await self.claims(store, 1, containers=["reverse"])
        await store.save(claim, with_output(claim.job))
        assert await self.counts(store) == (1, 0, {"alice": 1})
        await store.save(claim, succeeded(claim.job))
        assert await self.counts(store) == (0, 0, {})
        await store.settle(first.id, Outcome(JobStatus.FAILED), client=None)
        await store.add([first])
        assert await store.delete([first.id]) == 1
        assert await self.counts(store) == (0, 0, {})

    async def test_pending_no_longer_counts_what_was_settled(self, store: JobStore) -> None:
        queued, running = make_job(client="bob"), make_job(origin=Location.ONCHAIN)
        await self.claimed(store, running)
        await store.add([queued])
        stream = await store.add_claimed(make_job(destination=Location.STREAM))
        assert await self.counts(store) == (2, 1, {"alice": 2, "bob": 1})
        for id in (queued.id, running.id, stream.job.id):
            await store.settle(id, Outcome(JobStatus.CANCELLED), client=None)
        assert await self.counts(store) == (0, 0, {})

    # -- changes ----------------------------------------------------------------------------------

    async def test_changes_reports_every_change_from_now_on(self, store: JobStore) -> None:
        job = make_job("echo", "reverse")
        async with store.changes() as changes:
            await store.add([job])
            await self.seen(changes, [job.id])
            [claim] = await self.claims(store, 1)
            await store.save(claim, with_output(job, due="reverse"))
            await self.seen(changes, [job.id])
            await store.release(claim, with_output(job))
            await self.seen(changes, [job.id])
            [claim] = await self.claims(store, 1)
            await store.save(claim, succeeded(claim.job))
            await self.seen(changes, [job.id], finished=True)

    async def test_changes_reports_settled_jobs_and_streams(self, store: JobStore) -> None:
        job, stream = make_job(), make_job(destination=Location.STREAM)
        await store.add([job])
        async with store.changes() as changes:
            await store.settle(job.id, Outcome(JobStatus.CANCELLED), client=None)
            await self.seen(changes, [job.id], finished=True)
            claim = await store.add_claimed(stream)
            await self.seen(changes, [stream.id])
            await store.release(claim, stream)
            await self.seen(changes, [stream.id], finished=True)

    async def test_changes_shows_the_job_as_it_is_after_the_change(self, store: JobStore) -> None:
        job = make_job()
        with within(self.timeout_seconds, "`changes` reports a job that is added"):
            async with store.changes() as changes, anyio.create_task_group() as tasks:
                tasks.start_soon(store.add, [job])
                assert await anext(changes) in (Change(job.id), None)
                assert await store.get([job.id]) == [job]

    async def test_changes_is_silent_while_nothing_changes(self, store: JobStore) -> None:
        job = make_job()
        await store.add([job])
        async with store.changes() as changes:
            await store.get([job.id])
            await store.find(JobQuery(limit=10))
            await store.add([job])
            with anyio.move_on_after(self.quiet_seconds) as scope:
                assert await anext(changes) is None
            assert scope.cancelled_caught

    async def test_changes_of_some_jobs_reports_those_alone(self, store: JobStore) -> None:
        jobs = [make_job() for _ in range(4)]
        ids = [job.id for job in jobs[:2]]
        async with store.changes(ids) as changes, store.changes(ids[:1]) as first, store.changes([]) as none:
            await store.add(jobs)
            await self.seen(changes, ids)
            await store.settle(jobs[3].id, Outcome(JobStatus.FAILED), client=None)
            await store.settle(ids[1], Outcome(JobStatus.FAILED), client=None)
            await self.seen(changes, ids[1:], finished=True)
            await self.seen(first, ids[:1])
            for listener in (changes, first, none):
                with anyio.move_on_after(self.quiet_seconds):
                    while True:
                        await turn()
                        assert await anext(listener) is None, "a change of another job was reported"

    async def test_every_listener_hears_of_a_change(self, store: JobStore) -> None:
        job = make_job()
        async with store.changes() as one, store.changes() as other:
            await store.add([job])
            await self.seen(one, [job.id])
            await self.seen(other, [job.id])

    async def test_a_slow_listener_sees_every_change_or_learns_that_it_missed_some(self, store: JobStore) -> None:
        jobs = [make_job() for _ in range(5000)]
        async with store.changes() as changes:
            await store.add(jobs)
            await self.seen(changes, [job.id for job in jobs])
            await store.settle(jobs[0].id, Outcome(JobStatus.FAILED), client=None)
            await self.seen(changes, [jobs[0].id])

    # -- time limits ------------------------------------------------------------------------------

    async def test_a_job_that_waited_too_long_is_given_as_expired_then_and_not_before(self, store: JobStore) -> None:
        await store.add([make_job(), job := self.hasty("reverse"), make_job()])
        assert await self.nothing_expires(store)
        assert await self.expired(store) == [job.id]
        assert await self.nothing_expires(store)
        assert await self.nothing_to_claim(store, containers=["reverse"])

    async def test_a_job_that_is_too_old_is_given_as_expired_even_while_it_is_delayed(self, store: JobStore) -> None:
        await store.add([job := replace(make_job(), timeout_seconds=self.short)])
        [claim] = await self.claims(store, 1)
        await store.release(claim, job, delay_seconds=1000)
        assert await self.nothing_expires(store)
        assert await self.expired(store) == [job.id]

    async def test_a_claimed_job_does_not_expire(self, store: JobStore) -> None:
        await self.claimed(store, self.hasty())
        await self.claimed(store, replace(make_job(), timeout_seconds=self.short))
        assert await self.nothing_expires(store, seconds=2 * self.short)

    async def test_a_delay_is_not_waiting_and_waiting_begins_anew_with_a_release(self, store: JobStore) -> None:
        claim = await self.claimed(store, self.hasty())
        await anyio.sleep(self.short)
        await store.release(claim, claim.job, delay_seconds=2 * self.short)
        assert await self.nothing_expires(store, seconds=2 * self.short)
        assert await self.expired(store) == [claim.job.id]

    async def test_what_was_claimed_as_expired_can_be_failed_or_given_back(self, store: JobStore) -> None:
        await store.add([job := self.hasty()])
        [claim] = await store.claim_expired(1)
        await store.release(claim, claim.job)
        [claim] = await store.claim_expired(1)
        await store.save(claim, succeeded(claim.job))
        assert await store.get([job.id]) == [claim.job]
        assert await self.nothing_expires(store, seconds=2 * self.short)
        assert (await self.counts(store))[0] == 0

    async def test_a_settled_job_does_not_expire(self, store: JobStore) -> None:
        await store.add([job := self.hasty()])
        await store.settle(job.id, Outcome(JobStatus.CANCELLED), client=None)
        assert await self.nothing_expires(store, seconds=2 * self.short)

    async def test_claim_expired_gives_no_more_than_asked(self, store: JobStore) -> None:
        jobs = [self.hasty() for _ in range(5)]
        await store.add(jobs)
        assert len(await store.claim_expired(2)) <= 2
        assert len(await store.claim_expired(1)) == 1

    async def test_cancelling_claim_expired_loses_nothing(self, store: JobStore) -> None:
        await store.add([job := replace(make_job(), queue_timeout_seconds=0.001)])
        for patience in self.patiences():
            claims: list[Claim] = []
            async with anyio.create_task_group() as tasks:
                tasks.start_soon(self._claim_expired_into, store, claims)
                await patience()
                tasks.cancel_scope.cancel()
            for claim in claims:
                await store.release(claim, claim.job)
        assert await self.expired(store) == [job.id]

    async def _claim_expired_into(self, store: JobStore, claims: list[Claim]) -> None:
        claims += await store.claim_expired(2)

    async def test_a_claim_says_how_old_the_job_is(self, store: JobStore) -> None:
        await store.add([make_job()])
        with anyio.fail_after(self.timeout_seconds):
            await anyio.sleep(self.quiet_seconds)
            [claim] = await self.claims(store, 1)
            assert self.quiet_seconds <= claim.age_seconds <= self.timeout_seconds
            await store.release(claim, claim.job, delay_seconds=self.quiet_seconds)
            [again] = await self.claims(store, 1)
            assert again.age_seconds >= claim.age_seconds + self.quiet_seconds
