"""Leases: claims of a node that lives, is held up, or dies."""

from collections.abc import Callable

import anyio
import pytest
from msgspec.structs import replace

from nodekit import Claim, ClaimLost, Job, JobStatus, Location, SharedStore
from nodekit.testing.builders.jobs import make_job, succeeded, with_output
from nodekit.testing.contracts.bounds import turn, within
from nodekit.testing.contracts.shared.elsewhere import Elsewhere
from nodekit.testing.contracts.shared.jobs import SharedJobsContract
from nodekit.testing.contracts.shared.sharing import NOTHING

Open = Callable[[], SharedStore]


class LeasingContract(SharedJobsContract):
    """Tests of `SharedStoreContract` about nodes that die or seem to."""

    async def claimed_there(self, there: Elsewhere, *jobs: Job) -> list[Claim]:
        """Add jobs in another place, claim them there, and return the claims in the order of the jobs."""
        await there.call(there.store.add, jobs)
        claims = await there.call(self.claims, there.store, len(jobs))
        return sorted(claims, key=lambda claim: claim.job.id)

    async def taken_over(self, store: SharedStore, *jobs: Job) -> list[Claim]:
        """Wait until the store gives these jobs, and return their claims in the order of the jobs."""
        claims: list[Claim] = []
        with within(self.timeout_seconds + self.lease_seconds, f"`claim` gives the {len(jobs)} jobs of a dead node"):
            while len(claims) < len(jobs):
                await turn()
                claims += await store.claim(["echo", "reverse"], len(jobs) - len(claims))
        assert {claim.job.id for claim in claims} == {job.id for job in jobs}
        return sorted(claims, key=lambda claim: claim.job.id)

    async def lost_there(self, there: Elsewhere, claim: Claim) -> None:
        """Assert that a claim is void in the place that has it: its scope is cancelled, and no write is kept."""
        before = await there.call(there.store.get, [claim.job.id])
        for write in (there.store.save, there.store.release):
            for job in (with_output(claim.job, {"too": "late"}), succeeded(claim.job)):
                with pytest.raises(ClaimLost):
                    await there.call(write, claim, job)
        assert await there.call(there.store.get, [claim.job.id]) == before
        await self.eventually(lambda: there.call(_is_cancelled, claim), True)

    # -- as long as a node lives ------------------------------------------------------------------

    async def test_a_claim_is_renewed_while_a_step_runs_long(self, stores: list[SharedStore]) -> None:
        one, other, _ = stores
        claim = await self.claimed(one)
        stream = await one.add_claimed(make_job(destination=Location.STREAM))
        with anyio.move_on_after(3 * self.lease_seconds):
            assert await other.claim(["echo"], 1) == []
        assert not claim.scope.cancel_called
        assert not stream.scope.cancel_called
        for held in (claim, stream):
            await one.save(held, done := succeeded(held.job))
            assert await other.get([done.id]) == [done]

    async def test_a_node_that_is_held_up_for_less_than_its_lease_keeps_its_claims(
        self, open_store: Open, store: SharedStore
    ) -> None:
        async with self.another(open_store) as there:
            [claim] = await self.claimed_there(there, make_job())
            for _ in range(2):
                await there.stand_still()
                with anyio.move_on_after(self.lease_seconds / 5):
                    assert await store.claim(["echo"], 1) == []
                there.go_on()
                await there.call(anyio.sleep, self.lease_seconds)
            await there.call(there.store.save, claim, done := succeeded(claim.job))
        assert await store.get([done.id]) == [done]

    # -- takeovers --------------------------------------------------------------------------------

    async def test_what_a_dead_node_had_claimed_goes_to_another_with_what_was_saved(
        self, open_store: Open, store: SharedStore
    ) -> None:
        async with self.another(open_store) as there:
            untouched, begun = await self.claimed_there(there, make_job(), make_job("echo", "reverse"))
            saved = with_output(begun.job, {"a": 1}, due="reverse")
            await there.call(there.store.save, begun, saved)
            await there.stand_still()
            claims = await self.taken_over(store, untouched.job, saved)
            assert [claim.job for claim in claims] == [untouched.job, saved]
            assert [claim.takeovers for claim in claims] == [1, 1]
            assert await self.counts(store) == (2, 0, {"alice": 2})
            for claim in claims:
                await store.save(claim, done := succeeded(claim.job))
                assert await store.get([done.id]) == [done]

    async def test_takeovers_are_counted_until_the_job_is_finished(self, open_store: Open, store: SharedStore) -> None:
        job = make_job()
        await store.add([job])
        for takeovers in range(2):
            async with self.another(open_store) as there:
                [claim] = await there.call(self.claims, there.store, 1)
                assert claim.takeovers == takeovers
                await there.stand_still()
                [claim] = await self.taken_over(store, job)
                assert claim.takeovers == takeovers + 1
                await store.release(claim, claim.job)
        [claim] = await self.claims(store, 1)
        assert claim.takeovers == 2

    async def test_a_job_that_a_dead_node_waited_for_goes_to_another(
        self, open_store: Open, store: SharedStore
    ) -> None:
        async with self.another(open_store) as there:
            await there.start(there.store.claim, ["echo"], 10)
            await there.call(anyio.sleep, self.quiet_seconds)
            await there.stand_still()
            await store.add(jobs := [make_job() for _ in range(3)])
            await self.taken_over(store, *jobs)

    async def test_the_stream_of_a_dead_node_fails_and_is_never_offered(
        self, open_store: Open, store: SharedStore
    ) -> None:
        job = make_job(destination=Location.STREAM)
        async with self.another(open_store) as there, store.changes() as changes:
            claim = await there.call(there.store.add_claimed, job)
            await self.seen(changes, [job.id])
            await there.stand_still()
            await self.seen(changes, [job.id])
            await self.eventually(lambda: self.failures(store, [job.id]), ["interrupted"])
            [failed] = await store.get([job.id])
            assert failed.status is JobStatus.FAILED
            assert await self.nothing_to_claim(store)
            await self.eventually(lambda: self.counts(store), NOTHING)
            there.go_on()
            await self.lost_there(there, claim)
            assert await store.get([job.id]) == [failed]

    async def test_delays_and_time_limits_outlive_the_node_that_set_them(
        self, open_store: Open, store: SharedStore
    ) -> None:
        wait_seconds = self.lease_seconds + self.short
        async with self.another(open_store) as there:
            [delayed] = await self.claimed_there(there, make_job())
            await there.call(there.store.release, delayed, delayed.job, delay_seconds=wait_seconds)
            aged = replace(make_job("reverse"), timeout_seconds=wait_seconds)
            waits = replace(make_job("reverse"), queue_timeout_seconds=wait_seconds)
            await there.call(there.store.add, [aged, waits])
            await there.stand_still()
            assert await self.nothing_to_claim(store)
            assert await self.nothing_expires(store)
            assert sorted(await self.expired(store, 2)) == [aged.id, waits.id]
            [claim] = await self.taken_over(store, delayed.job)
            assert claim.takeovers == 0

    async def test_a_dead_nodes_job_that_is_too_old_is_given_as_expired(
        self, open_store: Open, store: SharedStore
    ) -> None:
        async with self.another(open_store) as there:
            job = replace(make_job(), timeout_seconds=self.lease_seconds / 2)
            await self.claimed_there(there, job)
            await there.stand_still()
            assert await self.expired(store) == [job.id]


async def _is_cancelled(claim: Claim) -> bool:
    return claim.scope.cancel_called
