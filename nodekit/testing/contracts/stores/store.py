"""Promises of a `JobStore`."""

from collections.abc import AsyncIterator, Collection

import anyio
import pytest

from nodekit import Job, JobId, JobStatus, JobStore, Location, Outcome
from nodekit.testing.builders.jobs import make_job, succeeded, with_output
from nodekit.testing.contracts.bounds import turn, within
from nodekit.testing.contracts.stores.expiring import ExpiringContract
from nodekit.testing.contracts.stores.keeping import SUCCEEDED


class JobStoreContract(ExpiringContract):
    """Suite of a store. Define the fixture `store`: an empty store that is entered."""

    @pytest.fixture
    def store(self) -> JobStore:
        raise NotImplementedError("define a fixture `store` that gives an empty store that was entered")

    @pytest.fixture
    def keeper(self, store: JobStore) -> JobStore:
        return store

    async def finish(self, keeper: JobStore, job: Job, outcome: Outcome = SUCCEEDED) -> None:
        await keeper.settle(job.id, outcome, client=None)

    # -- pending ----------------------------------------------------------------------------------

    async def test_pending_counts_by_origin_and_client(self, store: JobStore) -> None:
        assert await self.counts(store) == (0, 0, {})
        await store.add([make_job(), make_job(client="bob"), make_job(origin=Location.ONCHAIN)])
        assert await self.counts(store) == (2, 1, {"alice": 2, "bob": 1})

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

    async def seen(self, changes: AsyncIterator[JobId | None], ids: Collection[JobId]) -> None:
        """Wait until each of `ids` was seen, or until a None reports missed changes. Other ids may come in between."""
        missing = set(ids)
        with within(self.timeout_seconds, f"`changes` tells of {len(missing)} jobs"):
            while missing:
                await turn()
                id = await anext(changes)
                missing = missing - {id} if id is not None else set[JobId]()

    async def test_changes_tells_of_every_change_from_now_on(self, store: JobStore) -> None:
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
            await self.seen(changes, [job.id])

    async def test_changes_tells_of_settled_jobs_and_of_streams(self, store: JobStore) -> None:
        job, stream = make_job(), make_job(destination=Location.STREAM)
        await store.add([job])
        async with store.changes() as changes:
            await store.settle(job.id, Outcome(JobStatus.CANCELLED), client=None)
            await self.seen(changes, [job.id])
            claim = await store.add_claimed(stream)
            await self.seen(changes, [stream.id])
            await store.release(claim, stream)
            await self.seen(changes, [stream.id])

    async def test_changes_shows_the_job_as_it_is_after_the_change(self, store: JobStore) -> None:
        job = make_job()
        with within(self.timeout_seconds, "`changes` tells of a job that is added"):
            async with store.changes() as changes, anyio.create_task_group() as tasks:
                tasks.start_soon(store.add, [job])
                assert await anext(changes) in (job.id, None)
                assert await store.get([job.id]) == [job]

    async def test_changes_is_silent_while_nothing_changes(self, store: JobStore) -> None:
        job = make_job()
        await store.add([job])
        async with store.changes() as changes:
            await store.get([job.id])
            await store.find(limit=10)
            await store.add([job])
            with anyio.move_on_after(self.quiet_seconds) as scope:
                assert await anext(changes) is None
            assert scope.cancelled_caught

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
