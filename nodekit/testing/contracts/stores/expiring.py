"""Time limits of queued jobs: `claim_expired`."""

import anyio
from msgspec.structs import replace

from nodekit import Claim, Job, JobId, JobStatus, JobStore, Outcome
from nodekit.testing.builders.jobs import make_job, succeeded
from nodekit.testing.contracts.bounds import within
from nodekit.testing.contracts.stores.finishing import FinishingContract


class ExpiringContract(FinishingContract):
    """Tests of `JobStoreContract` about time limits."""

    @property
    def short(self) -> float:
        """Time limit that ends soon, but not before a test has looked."""
        return 3 * self.quiet_seconds

    def hasty(self, *containers: str) -> Job:
        """Make a job with a short time limit in the queue."""
        return replace(make_job(*containers), queue_timeout_seconds=self.short)

    async def expired(self, store: JobStore, count: int = 1) -> list[JobId]:
        """Claim expired jobs until there are `count` of them."""
        ids: list[JobId] = []
        with within(self.timeout_seconds, f"`claim_expired` gives {count} jobs whose time is over"):
            while len(ids) < count:
                some = await store.claim_expired(count - len(ids))
                assert 1 <= len(some) <= count - len(ids)
                ids += [claim.job.id for claim in some]
        return ids

    async def nothing_expires(self, store: JobStore, *, seconds: float | None = None) -> bool:
        """Return True if `claim_expired` only waits."""
        with anyio.move_on_after(seconds or self.quiet_seconds):
            await store.claim_expired(1)
            return False
        return True

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
        await store.save(claim, done := succeeded(claim.job))
        assert await store.get([job.id]) == [done]
        assert await self.nothing_expires(store, seconds=2 * self.short)
        assert (await self.counts(store))[0] == 0

    async def counts(self, store: JobStore) -> tuple[int, int, dict[str, int]]:
        """Return the present numbers of jobs: offchain, onchain and by client."""
        pending = await store.pending()
        assert pending.total == pending.offchain + pending.onchain
        return pending.offchain, pending.onchain, dict(pending.clients)

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
