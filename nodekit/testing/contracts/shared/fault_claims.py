"""Claims and announcements of a store that cannot reach its engine: for a short time, for longer than a lease."""

from collections.abc import Sequence
from contextlib import suppress
from functools import partial

import anyio
import pytest

from nodekit import Announcement, Claim, ClaimLost, JobId, Location, SharedStore, StoreFailed
from nodekit.testing.builders.jobs import SEQUENCE, make_job, succeeded, with_output
from nodekit.testing.contracts.bounds import within
from nodekit.testing.contracts.shared.base import Open
from nodekit.testing.contracts.shared.fault_base import CUT_OFF, FAULTS, Breaking, FaultBase
from nodekit.testing.leaks.detectors import no_leaked_tasks


class FaultClaims(FaultBase):
    """Tests of `EngineFaultContract` about claims and announcements."""

    # -- claims that nobody has heard of ----------------------------------------------------------

    @pytest.mark.parametrize("given_up", [False, True], ids=["repeated", "given_up"])
    @pytest.mark.parametrize("fault", ["half_open", "hanging", "lost_answers"])
    async def test_claims_whose_answer_was_lost_are_given_again_while_their_store_is_open(
        self, near: SharedStore, far: SharedStore, breaking: Breaking, fault: str, given_up: bool
    ) -> None:
        jobs, got = [make_job() for _ in range(3)], list[Claim]()
        waits = [anyio.CancelScope() for _ in jobs]
        with within(2 * self.few_leases, "cancelling `claim` ends it"):
            async with anyio.create_task_group() as tasks:
                for wait in waits:
                    tasks.start_soon(self._claim_one, far, wait, got)
                await anyio.sleep(self.quiet_seconds)
                async with breaking(fault):
                    await near.add(jobs)
                    await self.lasts(fault, leases=0.2)
                    await self._end(waits if given_up else ())
                await anyio.sleep(0 if given_up else self.lease_seconds)
                await self._end(waits)
        claims = await self.all_claimed(near, *jobs, besides=got)
        taken = {claim.job.id for claim in claims}
        await self.are_cancelled([claim for claim in got if claim.job.id in taken], "that another store got")

    async def _claim_one(self, store: SharedStore, wait: anyio.CancelScope, got: list[Claim]) -> None:
        with wait:
            got += await self.answered(lambda: store.claim(["echo"], SEQUENCE, 1))

    async def _end(self, waits: Sequence[anyio.CancelScope]) -> None:
        for wait in waits:
            wait.cancel()
        await anyio.sleep(self.quiet_seconds)

    # -- claims that are held ---------------------------------------------------------------------

    @pytest.mark.parametrize("fault", FAULTS)
    async def test_after_a_short_fault_a_claim_is_valid_or_cancelled_and_given_to_another(
        self, near: SharedStore, far: SharedStore, breaking: Breaking, fault: str
    ) -> None:
        claims = {claim.job.id: claim for claim in [await self.claimed(far) for _ in range(3)]}
        taken: dict[JobId, Claim] = {}
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(self._take_over, near, claims, taken)
            async with breaking(fault):
                await self.lasts(fault, leases=0.3)
            await anyio.sleep(1.5 * self.lease_seconds)
            for claim in claims.values():
                await self._one_can_write(near, far, claim, taken)
            tasks.cancel_scope.cancel()

    async def _take_over(self, store: SharedStore, claims: dict[JobId, Claim], taken: dict[JobId, Claim]) -> None:
        """Claim what is given; the store that held it must have cancelled it."""
        while True:
            for claim in await self.answered(lambda: store.claim(["echo"], SEQUENCE, 3)):
                assert claim.job.id not in taken, "a job was given twice"
                taken[claim.job.id] = claim
                await self.are_cancelled([claims[claim.job.id]], "that another store got")

    async def _one_can_write(
        self, near: SharedStore, far: SharedStore, claim: Claim, taken: dict[JobId, Claim]
    ) -> None:
        """Save through both stores that may hold the job, and assert that one of them can."""
        old, id = with_output(claim.job, {"by": "old"}), claim.job.id
        try:
            await self.answered_soon("save", lambda: far.save(claim, old))
        except ClaimLost:
            await self.comes("`claim` gives a job whose claim is lost", lambda: id in taken)
            await near.save(taken[id], new := with_output(taken[id].job, {"by": "new"}))
            assert await self.stored(near, id) == new
        else:
            assert id not in taken, "a claim was valid in two stores"
            assert not claim.scope.cancel_called, "a claim that can save was cancelled"
            assert await self.stored(near, id) == old

    @pytest.mark.parametrize("fault", CUT_OFF)
    async def test_a_store_that_is_cut_off_for_longer_than_its_lease_cancels_its_claims_and_others_get_the_jobs(
        self, near: SharedStore, far: SharedStore, breaking: Breaking, fault: str
    ) -> None:
        olds = [await self.claimed(far) for _ in range(2)]
        stream = await far.add_claimed(make_job(destination=Location.STREAM))
        news: list[Claim] = []
        async with breaking(fault), anyio.create_task_group() as tasks:
            for old in olds:  # in a network that holds them back, these arrive when the job is another's
                tasks.start_soon(self._save_in_vain, far, old)
            news += await self.all_claimed(near, *(old.job for old in olds))
            await self.are_cancelled([*olds, stream], "of a store that is cut off")
            assert fault == "lost_answers" or all(claim.takeovers == 1 for claim in news)
            await self.eventually(lambda: self.failures(near, [stream.job.id]), ["interrupted"])
            await near.save(news[0], succeeded(news[0].job))
        await self.works(far)  # and by then, what was held back has arrived
        await anyio.sleep(self.quiet_seconds)
        kept = [claim.job for claim in news]
        for claim in (*olds, stream):
            await self._is_void(far, claim)
        assert await near.get([job.id for job in kept]) == kept
        await near.save(news[1], succeeded(news[1].job))
        await self._is_void(far, olds[1])
        assert await self.stored(near, kept[1].id) == news[1].job

    async def _save_in_vain(self, store: SharedStore, claim: Claim) -> None:
        limit = within(self.few_leases, "`save` raises `StoreFailed` or `ClaimLost` in a store that is cut off")
        with limit, pytest.raises((ClaimLost, StoreFailed)):
            await store.save(claim, with_output(claim.job, {"by": "old"}))

    async def _is_void(self, store: SharedStore, claim: Claim) -> None:
        """Assert that the claim can write nothing."""
        for write in (store.save, store.release):
            for job in (with_output(claim.job, {"by": "old"}), succeeded(claim.job)):
                limit = within(self.few_leases, "a write with a claim that was taken over ends")
                with limit, pytest.raises(ClaimLost):
                    await self.answered(partial(write, claim, job))

    # -- announcements ----------------------------------------------------------------------------

    @pytest.mark.parametrize("fault", FAULTS)
    async def test_a_node_is_live_again_for_the_others_after_a_fault(
        self, near: SharedStore, far: SharedStore, breaking: Breaking, fault: str
    ) -> None:
        async def announce() -> None:
            while True:
                with suppress(StoreFailed):
                    await far.announce(Announcement(name="a", incarnation="a"))
                await anyio.sleep(self.lease_seconds / 3)

        async def live() -> list[str]:
            return [member.announcement.name for member in await self.answered(near.nodes) if member.live]

        async with anyio.create_task_group() as tasks:
            tasks.start_soon(announce)
            await self.eventually(live, ["a"])
            async with breaking(fault):
                await self.lasts(fault, leases=1.3)
            await anyio.sleep(self.lease_seconds / 3)
            await self.eventually(live, ["a"])
            tasks.cancel_scope.cancel()

    # -- leaving ----------------------------------------------------------------------------------

    @pytest.mark.parametrize("fault", ["half_open", *CUT_OFF, "killed"])
    async def test_leaving_a_store_that_cannot_reach_its_engine_ends_and_loses_nothing(
        self, open_store: Open, open_far: Open, breaking: Breaking, fault: str
    ) -> None:
        claims: list[Claim] = []
        begun, broken, left = anyio.Event(), anyio.Event(), anyio.Event()

        async def visit() -> None:
            async with open_far() as leaving:
                claims.extend([await self.claimed(leaving) for _ in range(2)])
                await leaving.save(claims[0], with_output(claims[0].job, {"a": 1}))
                begun.set()
                await broken.wait()
            left.set()

        async with no_leaked_tasks(), anyio.create_task_group() as tasks:
            tasks.start_soon(visit)
            await begun.wait()
            async with breaking(fault):
                broken.set()
                with within(self.few_leases, "leaving the store ends"):
                    await left.wait()
        async with open_store() as near:
            again = await self.all_claimed(near, *(claim.job for claim in claims))
        assert [claim.job for claim in again] == [claim.job for claim in claims]
