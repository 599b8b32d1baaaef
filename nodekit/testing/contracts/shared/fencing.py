"""Fencing: claims of a node that was taken for dead and comes back, or that has a wrong clock."""

import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from functools import partial
from typing import Any

import anyio
import pytest

from nodekit import UNFINISHED, Claim, ClaimLost, Job, JobId, JobStatus, Outcome, SharedStore
from nodekit.testing.builders.jobs import make_job, succeeded, with_output
from nodekit.testing.contracts.bounds import turn
from nodekit.testing.contracts.shared.elsewhere import awaited
from nodekit.testing.contracts.shared.leasing import LeasingContract, Open
from nodekit.testing.contracts.stores.base import CANCELLED

DAY_SECONDS = 86_400.0


class FencingContract(LeasingContract):
    """Tests of `SharedStoreContract` about nodes that were taken for dead and come back."""

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
            assert await store.get([done.id]) == [done]

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
            await there.call(there.store.save, claim, done := succeeded(job))
            assert await store.get([job.id]) == [done]

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
                assert await store.claim(["echo"], 1) == []

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
                    await self.eventually(partial(store.find, status=UNFINISHED, limit=10), [])
                    tasks.cancel_scope.cancel()
                jobs = await store.get([claim.job.id for claim in claims])
                assert [finished.get(job.id) for job in jobs] == [[job] for job in jobs]

    async def _finish_all(self, store: SharedStore, finished: dict[JobId, list[Job]]) -> None:
        while True:
            await turn()
            await _finish(store, await store.claim(["echo"], 5), finished)

    # -- clocks -----------------------------------------------------------------------------------

    @pytest.mark.parametrize("seconds", [DAY_SECONDS, -DAY_SECONDS], ids=["ahead", "behind"])
    async def test_no_node_trusts_the_clock_of_another(
        self, open_store: Open, store: SharedStore, seconds: float
    ) -> None:
        async with self.another(open_store) as there:
            held, delayed = await self.claimed(store), await self.claimed(store)
            [other] = await self.claimed_there(there, make_job())
            ident = await there.call(_thread)
            with _clock_of(ident, seconds):
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


async def _thread() -> int:
    return threading.get_ident()


async def _finish(store: SharedStore, claims: Sequence[Claim], finished: dict[JobId, list[Job]]) -> None:
    """Finish each job with an output of its own, and record the jobs with claims that were still valid."""
    for claim in claims:
        job = with_output(claim.job, {"takeovers": claim.takeovers}).finished(Outcome(JobStatus.SUCCESS), time.time())
        with suppress(ClaimLost):
            await store.save(claim, job)
            finished.setdefault(job.id, []).append(job)


@contextmanager
def _clock_of(ident: int, seconds: float) -> Iterator[None]:
    """Shift the wall clock of one thread by `seconds`."""
    real: dict[str, Callable[[], Any]] = {"time": time.time, "time_ns": time.time_ns}

    def wrong(name: str, by: float) -> Callable[[], Any]:
        return lambda: real[name]() + (by if threading.get_ident() == ident else 0)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(time, "time", wrong("time", seconds))
        patch.setattr(time, "time_ns", wrong("time_ns", int(seconds * 1e9)))
        yield
