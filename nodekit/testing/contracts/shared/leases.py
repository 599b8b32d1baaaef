"""Leases and fencing: claims of a node that lives, is held up, dies, comes back, or has a wrong clock."""

import time
from collections.abc import Sequence
from contextlib import suppress
from functools import partial

import anyio
import pytest
from msgspec.structs import replace

from nodekit import UNFINISHED, Claim, ClaimLost, Job, JobId, JobQuery, JobStatus, Location, Outcome, SharedStore
from nodekit.testing.builders.jobs import SEQUENCE, make_job, succeeded, with_output
from nodekit.testing.contracts.bounds import turn
from nodekit.testing.contracts.shared.base import NOTHING, Open, SharedBase, is_cancelled
from nodekit.testing.contracts.shared.clocks import thread_id, wrong_clock
from nodekit.testing.contracts.shared.other_process import Elsewhere, awaited
from nodekit.testing.contracts.stores.base import CANCELLED

DAY_SECONDS = 86_400.0


class Leases(SharedBase):
    """Tests of `SharedStoreContract` about nodes that die or seem to, and nodes that come back."""

    async def claimed_there(self, there: Elsewhere, *jobs: Job) -> list[Claim]:
        """Add jobs in another place, claim them there, and return the claims in the order of the jobs."""
        await there.call(there.store.add, jobs)
        claims = await there.call(self.claims, there.store, len(jobs))
        return sorted(claims, key=lambda claim: claim.job.id)

    async def taken_over(self, store: SharedStore, *jobs: Job) -> list[Claim]:
        """Wait until the store gives these jobs, and return their claims in the order of the jobs."""
        seconds = self.timeout_seconds + self.lease_seconds
        claims = await self.claims(store, len(jobs), containers=["echo", "reverse"], seconds=seconds)
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
        await self.eventually(lambda: there.call(is_cancelled, claim), True)

    # -- as long as a node lives ------------------------------------------------------------------

    async def test_a_claim_is_renewed_while_a_step_runs_long(self, stores: list[SharedStore]) -> None:
        one, other, _ = stores
        claim = await self.claimed(one)
        stream = await one.add_claimed(make_job(destination=Location.STREAM))
        with anyio.move_on_after(3 * self.lease_seconds):
            assert await other.claim(["echo"], SEQUENCE, 1) == []
        assert not claim.scope.cancel_called
        assert not stream.scope.cancel_called
        for held in (claim, stream):
            await one.save(held, done := succeeded(held.job))
            assert await other.get([done.id]) == [held.job]

    async def test_a_node_that_is_held_up_for_less_than_its_lease_keeps_its_claims(
        self, open_store: Open, store: SharedStore
    ) -> None:
        async with self.another(open_store) as there:
            [claim] = await self.claimed_there(there, make_job())
            for _ in range(2):
                await there.stand_still()
                with anyio.move_on_after(self.lease_seconds / 5):
                    assert await store.claim(["echo"], SEQUENCE, 1) == []
                there.go_on()
                await there.call(anyio.sleep, self.lease_seconds)
            await there.call(there.store.save, claim, done := succeeded(claim.job))
        assert await store.get([done.id]) == [claim.job]

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
                assert await store.get([done.id]) == [claim.job]

    async def test_takeovers_in_a_row_are_counted(self, open_store: Open, store: SharedStore) -> None:
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

    async def test_a_stored_step_begins_the_count_of_takeovers_anew(self, open_store: Open, store: SharedStore) -> None:
        async with self.another(open_store) as there:
            jobs = [claim.job for claim in await self.claimed_there(there, make_job(), make_job("echo", "reverse"))]
            await there.stand_still()
            saved, released = await self.taken_over(store, *jobs)
            assert (saved.takeovers, released.takeovers) == (1, 1)
            await store.save(saved, begun := with_output(saved.job, due="echo"))
            await store.release(saved, begun)
            await store.release(released, with_output(released.job, due="echo"))
            assert [claim.takeovers for claim in await self.claims(store, 2)] == [0, 0]

    async def test_one_job_that_was_taken_over_is_given_at_a_time(self, open_store: Open, store: SharedStore) -> None:
        async with self.another(open_store) as there:
            jobs = [claim.job for claim in await self.claimed_there(there, *(make_job() for _ in range(4)))]
            await there.stand_still()
            first = await self.taken_over(store, jobs[0])
            await store.add(fresh := [make_job() for _ in range(3)])
            claims = [*first, *await self.claims(store, 3, suspects=False)]
            assert [claim.job.id for claim in claims[1:]] == [job.id for job in fresh]
            assert await self.nothing_to_claim(store, suspects=False)
            for _ in jobs[1:]:
                some = await store.claim(["echo"], SEQUENCE, 4)
                assert [claim.takeovers for claim in some] == [1]
                claims += some
            assert await self.nothing_to_claim(store)
            assert {claim.job.id for claim in claims} == {job.id for job in (*jobs, *fresh)}

    async def test_a_job_that_a_dead_node_waited_for_goes_to_another(
        self, open_store: Open, store: SharedStore
    ) -> None:
        async with self.another(open_store) as there:
            await there.start(there.store.claim, ["echo"], SEQUENCE, 10)
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
            await self.seen(changes, [job.id], finished=True)
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

    # -- fencing ----------------------------------------------------------------------------------

    async def test_a_claim_that_was_taken_over_keeps_nothing(self, open_store: Open, store: SharedStore) -> None:
        async with self.another(open_store) as there:
            [old] = await self.claimed_there(there, make_job("echo", "reverse"))
            await there.stand_still()
            [new] = await self.taken_over(store, old.job)
            there.go_on()
            await self.lost_there(there, old)
            await store.save(new, saved := with_output(new.job, {"a": 1}, due="reverse"))
            await self.lost_there(there, old)
            await store.save(new, done := succeeded(saved))
            await self.lost_there(there, old)
            assert await store.get([done.id]) == [new.job]

    async def test_a_claim_that_was_taken_over_and_given_back_keeps_nothing(
        self, open_store: Open, store: SharedStore
    ) -> None:
        async with self.another(open_store) as there:
            [old] = await self.claimed_there(there, make_job())
            await there.stand_still()
            [new] = await self.taken_over(store, old.job)
            await store.release(new, new.job)
            there.go_on()
            await self.lost_there(there, old)
            [again] = await self.claims(store, 1)
            assert again.job == new.job

    async def test_a_node_that_was_paused_finds_its_steps_cancelled(self, open_store: Open, store: SharedStore) -> None:
        async with self.another(open_store) as there:
            claims = await self.claimed_there(there, make_job(), make_job())
            steps = [await there.start(_cancelled, claim) for claim in claims]
            await there.stand_still()
            await self.taken_over(store, *(claim.job for claim in claims))
            there.go_on()
            with anyio.fail_after(self.timeout_seconds):
                for step in steps:
                    await awaited(step)
            await store.add([job := make_job()])
            [claim] = await there.call(self.claims, there.store, 1)
            assert claim.job == job
            await there.call(there.store.save, claim, succeeded(job))
            assert await store.get([job.id]) == [claim.job]

    async def test_a_settlement_while_a_node_is_paused_stays(self, open_store: Open, store: SharedStore) -> None:
        async with self.another(open_store) as there:
            [claim] = await self.claimed_there(there, make_job())
            await there.stand_still()
            settled = await store.settle(claim.job.id, CANCELLED, client=None)
            assert settled is not None
            assert settled.now
            there.go_on()
            await self.lost_there(there, claim)
            assert await store.get([claim.job.id]) == [settled.job]
            with anyio.move_on_after(2 * self.lease_seconds):
                assert await store.claim(["echo"], SEQUENCE, 1) == []

    async def test_at_the_end_of_a_lease_a_job_is_finished_by_one_claim(
        self, open_store: Open, store: SharedStore
    ) -> None:
        async with self.another(open_store) as there:
            for share in (0.7, 0.9, 1.0, 1.1, 1.3):
                finished: dict[JobId, list[Job]] = {}
                claims = await self.claimed_there(there, *(make_job() for _ in range(5)))
                await there.stand_still()
                async with anyio.create_task_group() as tasks:
                    tasks.start_soon(self._finish_all, store, finished)
                    await anyio.sleep(share * self.lease_seconds)
                    there.go_on()
                    await there.call(_finish, there.store, claims, finished)
                    await self.eventually(partial(store.find, JobQuery(status=UNFINISHED, limit=10)), [])
                    tasks.cancel_scope.cancel()
                jobs = await store.get([claim.job.id for claim in claims])
                assert [finished.get(job.id) for job in jobs] == [[job] for job in jobs]

    async def _finish_all(self, store: SharedStore, finished: dict[JobId, list[Job]]) -> None:
        while True:
            await turn()
            await _finish(store, await store.claim(["echo"], SEQUENCE, 5), finished)

    # -- clocks -----------------------------------------------------------------------------------

    @pytest.mark.parametrize("seconds", [DAY_SECONDS, -DAY_SECONDS], ids=["ahead", "behind"])
    async def test_no_node_trusts_the_clock_of_another(
        self, open_store: Open, store: SharedStore, seconds: float
    ) -> None:
        with wrong_clock(seconds) as threads:
            async with self.another(open_store) as there:
                held, delayed = await self.claimed(store), await self.claimed(store)
                [other] = await self.claimed_there(there, make_job())
                threads.add(await there.call(thread_id))
                await there.call(there.store.release, other, other.job, delay_seconds=self.short)
                await store.release(delayed, delayed.job, delay_seconds=self.short)
                assert await self.nothing_to_claim(store)
                waiting = await there.start(self.claims, there.store, 1)
                await self.claims(store, 1)
                [again] = await awaited(waiting)
                await anyio.sleep(2 * self.lease_seconds)
                assert await self.nothing_to_claim(store)
                assert await there.call(self.nothing_to_claim, there.store)
                await store.save(held, succeeded(held.job))
                await there.stand_still()
                await self.taken_over(store, again.job)


async def _cancelled(claim: Claim) -> None:
    """Return when the claim's scope is cancelled."""
    with claim.scope:
        await anyio.sleep_forever()


async def _finish(store: SharedStore, claims: Sequence[Claim], finished: dict[JobId, list[Job]]) -> None:
    """Finish each job with an output of its own, and record the jobs with claims that were still valid."""
    for claim in claims:
        job = with_output(claim.job, {"takeovers": claim.takeovers}).finished(Outcome(JobStatus.SUCCESS), time.time())
        with suppress(ClaimLost):
            await store.save(claim, job)
            finished.setdefault(job.id, []).append(claim.job)
