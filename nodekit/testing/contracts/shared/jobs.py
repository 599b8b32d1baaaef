"""Jobs that several nodes share: there is one queue, all nodes see one job, and it ends once."""

from collections.abc import Awaitable, Callable, Coroutine, Sequence
from functools import partial
from typing import Any

import anyio
import pytest
from msgspec.structs import replace

from nodekit import Claim, ClaimLost, Job, JobId, JobQuery, JobStatus, Location, SharedStore
from nodekit.testing.builders.jobs import SEQUENCE, make_job, succeeded, with_output
from nodekit.testing.contracts.bounds import turn, within
from nodekit.testing.contracts.shared.base import NOTHING, Open, SharedBase
from nodekit.testing.contracts.stores.base import CANCELLED


class SharedJobs(SharedBase):
    """Tests of `SharedStoreContract` about the queue and the jobs that nodes share."""

    # -- one queue --------------------------------------------------------------------------------

    async def one_by_one(self, stores: Sequence[SharedStore], count: int) -> list[Job]:
        """Claim one job after the other, in turn through each of the stores."""
        jobs: list[Job] = []
        for number in range(count):
            [claim] = await self.claims(stores[number % len(stores)], 1)
            jobs.append(claim.job)
        return jobs

    async def test_a_job_added_through_one_store_is_run_through_another(self, stores: list[SharedStore]) -> None:
        one, other, third = stores
        await one.add([job := make_job("echo", "reverse")])
        assert await third.get([job.id]) == [job]
        [claim] = await self.claims(other, 1)
        assert claim.job == job
        assert claim.takeovers == 0
        for store in stores:
            assert await self.nothing_to_claim(store)
        await other.save(claim, begun := with_output(job, {"a": 1}, due="reverse"))
        assert await one.get([job.id]) == [begun]
        await other.save(claim, succeeded(begun))
        assert [await store.get([job.id]) for store in stores] == [[claim.job]] * 3
        assert await third.find(JobQuery(status=[JobStatus.SUCCESS], limit=10)) == [job.id]

    async def test_a_job_goes_to_one_of_many_claims_at_once(self, stores: list[SharedStore]) -> None:
        jobs = [make_job(client=f"client {n % 3}") for n in range(60)]
        claimed: list[JobId] = []

        async def claim(store: SharedStore) -> None:
            while len(claimed) < len(jobs):
                await turn()
                claims = await store.claim(["echo"], SEQUENCE, 2)
                claimed.extend(claim.job.id for claim in claims if not claim.takeovers)  # a busy machine loses leases
            tasks.cancel_scope.cancel()

        async def add(store: SharedStore, some: Sequence[Job]) -> None:
            for job in some:
                await store.add([job])

        with within(self.timeout_seconds, f"the stores give {len(jobs)} jobs by `claim`"):
            async with anyio.create_task_group() as tasks:
                for n, store in enumerate(stores):
                    for _ in range(3):
                        tasks.start_soon(claim, store)
                    tasks.start_soon(add, store, jobs[n::3])
        assert sorted(claimed) == [job.id for job in jobs]
        assert await self.nothing_to_claim(stores[0])

    async def test_priorities_hold_across_stores(self, stores: list[SharedStore]) -> None:
        for number, priority in enumerate((7, 3, 0, 5, 1, 3)):
            await stores[number % 3].add([make_job(priority=priority)])
        assert [job.request.priority for job in await self.one_by_one(stores, 6)] == [0, 1, 3, 3, 5, 7]

    async def test_the_oldest_job_comes_first_through_whichever_store_it_was_added(
        self, stores: list[SharedStore]
    ) -> None:
        jobs = [make_job() for _ in range(12)]
        for number, job in enumerate(jobs):
            await stores[-number % 3].add([job])
        assert await self.one_by_one(stores, 12) == jobs

    async def test_clients_take_turns_across_stores(self, stores: list[SharedStore]) -> None:
        for store, client, count in zip(stores, ("alice", "bob", "carol"), (6, 3, 1), strict=True):
            await store.add([make_job(client=client) for _ in range(count)])
        clients = [job.client for job in await self.one_by_one(stores, 10)]
        assert {*clients[:3]} == {"alice", "bob", "carol"}
        assert [{*clients[n : n + 2]} for n in (3, 5)] == [{"alice", "bob"}] * 2
        assert clients[7:] == ["alice"] * 3

    async def test_a_waiting_claim_wakes_up_when_another_store_adds_a_job(self, stores: list[SharedStore]) -> None:
        job = make_job()
        assert await self.claimed_meanwhile(stores[1], lambda: stores[0].add([job])) == job.id

    async def test_a_waiting_claim_wakes_up_when_another_store_gives_a_job_back(
        self, stores: list[SharedStore]
    ) -> None:
        for delay_seconds in (0, 2 * self.quiet_seconds):
            claim = await self.claimed(stores[0])
            give = partial(stores[0].release, claim, claim.job, delay_seconds=delay_seconds)
            assert await self.claimed_meanwhile(stores[1], give) == claim.job.id

    async def test_a_job_that_waits_in_its_own_store_for_a_claim_that_cannot_take_it_goes_to_another(
        self, stores: list[SharedStore]
    ) -> None:
        one, other, _ = stores
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(one.claim, ["echo"], ["another pipeline"], 1)
            job = make_job()
            assert await self.claimed_meanwhile(other, lambda: one.add([job])) == job.id
            claim = await self.claimed(one)
            assert await self.claimed_meanwhile(other, lambda: one.release(claim, claim.job)) == claim.job.id
            tasks.cancel_scope.cancel()

    async def test_what_is_too_much_for_the_claim_that_waits_in_its_own_store_goes_to_another(
        self, stores: list[SharedStore]
    ) -> None:
        one, other, _ = stores
        jobs, claimed = [make_job() for _ in range(5)], list[list[Claim]]([[], []])
        with within(self.timeout_seconds, "each of two stores claims two of five jobs"):
            async with anyio.create_task_group() as tasks:
                for store, claims in zip((one, other), claimed, strict=True):
                    tasks.start_soon(self._claim_into, store, claims)
                await anyio.sleep(self.quiet_seconds)
                await one.add(jobs)
        ids = {claim.job.id for claims in claimed for claim in claims}
        assert len(ids) == 4
        assert ids < {job.id for job in jobs}

    async def test_a_job_goes_to_another_store_if_the_claim_that_waits_in_its_own_is_cancelled(
        self, stores: list[SharedStore]
    ) -> None:
        one, other, _ = stores
        for patience in self.patiences():
            own, claims = list[Claim](), list[Claim]()
            with within(self.timeout_seconds, "one of two stores claims a job"):
                async with anyio.create_task_group() as tasks:
                    tasks.start_soon(self._claim_into, other, claims)
                    async with anyio.create_task_group() as cancelled:
                        cancelled.start_soon(self._claim_into, one, own)
                        await anyio.sleep(self.quiet_seconds / 10)
                        await one.add([job := make_job()])
                        await patience()
                        cancelled.cancel_scope.cancel()
                    if own:
                        tasks.cancel_scope.cancel()
            assert [claim.job.id for claim in own or claims] == [job.id]
            await one.settle(job.id, CANCELLED, client=None)

    async def claimed_meanwhile(self, store: SharedStore, give: Callable[[], Awaitable[object]]) -> JobId:
        """Start to wait for a claim, call `give`, and return the id of the job that the claim gets, which is ended."""
        claims: list[Claim] = []

        async def wait() -> None:
            claims.extend(await store.claim(["echo"], SEQUENCE, 1))

        with anyio.fail_after(self.timeout_seconds):
            async with anyio.create_task_group() as tasks:
                tasks.start_soon(wait)
                await anyio.sleep(self.quiet_seconds)
                assert claims == []
                await give()
            [claim] = claims
            await store.settle(claim.job.id, CANCELLED, client=None)
        return claim.job.id

    async def test_a_delay_holds_in_every_store(self, stores: list[SharedStore]) -> None:
        claim = await self.claimed(stores[0])
        await stores[0].release(claim, claim.job, delay_seconds=6 * self.quiet_seconds)
        for store in stores[1:]:
            assert await self.nothing_to_claim(store)
        [again] = await self.claims(stores[1], 1)
        assert again.job.id == claim.job.id
        assert again.takeovers == 0
        assert again.age_seconds >= claim.age_seconds + 6 * self.quiet_seconds

    async def test_cancelling_claims_of_several_stores_loses_nothing(self, stores: list[SharedStore]) -> None:
        jobs = [make_job() for _ in range(3)]
        await stores[0].add(jobs)
        for patience in self.patiences():
            claimed: list[list[Claim]] = [[] for _ in stores]
            async with anyio.create_task_group() as tasks:
                for store, claims in zip(stores, claimed, strict=True):
                    tasks.start_soon(self._claim_into, store, claims)
                await patience()
                tasks.cancel_scope.cancel()
            for store, claims in zip(stores, claimed, strict=True):
                for claim in claims:
                    await store.release(claim, claim.job)
        assert {claim.job.id for claim in await self.claims(stores[0], 3)} == {job.id for job in jobs}

    # -- time limits ------------------------------------------------------------------------------

    async def test_each_job_whose_time_is_over_goes_to_one_store(self, stores: list[SharedStore]) -> None:
        jobs = [self.hasty() if n % 2 else replace(make_job(), timeout_seconds=self.short) for n in range(12)]
        expired: list[JobId] = []

        async def expire(store: SharedStore) -> None:
            while len(expired) < len(jobs):
                await turn()
                expired.extend(claim.job.id for claim in await store.claim_expired(2))
            tasks.cancel_scope.cancel()

        with within(self.timeout_seconds, f"the stores give {len(jobs)} jobs by `claim_expired`"):
            async with anyio.create_task_group() as tasks:
                for n, store in enumerate(stores):
                    for _ in range(2):
                        tasks.start_soon(expire, store)
                    await store.add(jobs[n::3])
        assert sorted(expired) == [job.id for job in jobs]
        assert await self.nothing_expires(stores[0])

    # -- one job ----------------------------------------------------------------------------------

    async def test_an_idempotency_key_holds_in_every_store(self, stores: list[SharedStore]) -> None:
        one, other, third = stores
        await one.add([first := make_job(idempotency_key="k")])
        assert await other.add([make_job(idempotency_key="k")]) == [first]
        assert await third.add([make_job(id=first.id, data={"first": False})]) == [first]
        assert await third.find(JobQuery(client="alice", idempotency_key="k", limit=10)) == [first.id]
        assert await third.find(JobQuery(limit=10)) == [first.id]

    async def test_of_adds_with_one_key_through_several_stores_at_once_one_is_kept(
        self, stores: list[SharedStore]
    ) -> None:
        kept: list[Job] = []

        async def add(store: SharedStore) -> None:
            kept.extend(await store.add([make_job(idempotency_key="k")]))

        async with anyio.create_task_group() as tasks:
            for _ in range(5):
                for store in stores:
                    tasks.start_soon(add, store)
        assert len(kept) == 15
        assert {job.id for job in kept} == {kept[0].id}
        assert await stores[0].find(JobQuery(limit=30)) == [kept[0].id]
        await self.claims(stores[1], 1)
        assert await self.nothing_to_claim(stores[2])

    async def test_pending_counts_the_jobs_of_all_stores(self, stores: list[SharedStore]) -> None:
        one, other, third = stores
        await one.add([make_job(), make_job(client="bob")])
        await other.add([make_job(origin=Location.ONCHAIN)])
        stream = await third.add_claimed(make_job(destination=Location.STREAM))
        for store in stores:
            await self.eventually(partial(self.counts, store), (3, 1, {"alice": 3, "bob": 1}))
        await third.save(stream, succeeded(stream.job))
        for claim in await self.claims(third, 3):
            await third.save(claim, succeeded(claim.job))
        for store in stores:
            await self.eventually(partial(self.counts, store), NOTHING)

    async def test_changes_reports_what_other_stores_did(self, stores: list[SharedStore]) -> None:
        one, other, _ = stores
        job, cancelled = make_job("echo", "reverse"), make_job()
        async with one.changes() as changes:
            await other.add([job])
            await self.seen(changes, [job.id])
            [claim] = await self.claims(other, 1)
            await other.save(claim, with_output(job, due="reverse"))
            await self.seen(changes, [job.id])
            await other.release(claim, with_output(job))
            await self.seen(changes, [job.id])
            [claim] = await self.claims(other, 1)
            await other.save(claim, succeeded(claim.job))
            await self.seen(changes, [job.id], finished=True)
            await other.add([cancelled])
            await self.seen(changes, [cancelled.id])
            await other.settle(cancelled.id, CANCELLED, client=None)
            await self.seen(changes, [cancelled.id], finished=True)

    # -- the end of a claim -----------------------------------------------------------------------

    async def test_settle_through_another_store_takes_the_claim(self, stores: list[SharedStore]) -> None:
        one, other, third = stores
        claim = await self.claimed(one)
        interrupted = False
        with anyio.fail_after(self.timeout_seconds):
            async with anyio.create_task_group() as tasks:
                tasks.start_soon(self._settle, other, claim.job)
                with claim.scope:
                    await anyio.sleep_forever()
                interrupted = True
        assert interrupted
        for write in (one.save, one.release):
            with pytest.raises(ClaimLost):
                await write(claim, succeeded(claim.job))
        [kept] = await third.get([claim.job.id])
        assert kept.status is JobStatus.CANCELLED
        assert await self.nothing_to_claim(third)

    async def test_a_settlement_elsewhere_ends_a_stream(self, stores: list[SharedStore]) -> None:
        claim = await stores[0].add_claimed(make_job(destination=Location.STREAM))
        await stores[1].settle(claim.job.id, CANCELLED, client=None)
        with anyio.fail_after(self.timeout_seconds), claim.scope:
            await anyio.sleep_forever()
        with pytest.raises(ClaimLost):
            await stores[0].save(claim, succeeded(claim.job))

    async def test_of_a_last_save_and_settlements_elsewhere_at_once_one_wins(self, stores: list[SharedStore]) -> None:
        for number, patience in enumerate(self.patiences()):
            claim = await self.claimed(stores[0])
            won: list[bool] = []

            async def save(claim: Claim = claim, won: list[bool] = won) -> None:
                try:
                    await stores[0].save(claim, succeeded(claim.job))
                except ClaimLost:
                    won.append(False)
                else:
                    won.append(True)

            async def settle(store: SharedStore, claim: Claim = claim, won: list[bool] = won) -> None:
                settled = await store.settle(claim.job.id, CANCELLED, client=None)
                assert settled is not None
                won.append(settled.now)

            calls: list[Callable[[], Coroutine[Any, Any, None]]] = [
                save,
                *(partial(settle, store) for store in stores[1:]),
            ]
            async with anyio.create_task_group() as tasks:
                for call in calls if number % 4 < 2 else calls[::-1]:
                    tasks.start_soon(call)
                    await patience()
            assert sorted(won) == [False, False, True]

    # -- leaving ----------------------------------------------------------------------------------

    async def test_a_released_job_goes_on_in_another_store_as_it_was_released(self, stores: list[SharedStore]) -> None:
        claim = await self.claimed(stores[0])
        await stores[0].release(claim, released := with_output(claim.job, due="reverse"))
        [again] = await self.claims(stores[1], 1, containers=["reverse"])
        assert again.job == released
        assert again.takeovers == 0
        for write in (stores[0].save, stores[0].release):
            with pytest.raises(ClaimLost):
                await write(claim, succeeded(claim.job))
        await stores[1].save(again, done := succeeded(again.job))
        assert await stores[0].get([done.id]) == [again.job]

    async def test_leaving_a_store_loses_nothing_of_what_it_had_claimed(
        self, open_store: Open, store: SharedStore
    ) -> None:
        async with open_store() as leaving:
            untouched = await self.claimed(leaving)
            begun = await self.claimed(leaving)
            await leaving.save(begun, saved := with_output(begun.job, {"a": 1}, due="reverse"))
            stream = await leaving.add_claimed(make_job(destination=Location.STREAM))
        claims = await self.claims(store, 2, containers=["echo", "reverse"])
        assert sorted(claims, key=lambda claim: claim.job.id)[0].job == untouched.job
        assert sorted(claims, key=lambda claim: claim.job.id)[1].job == saved
        await self.eventually(lambda: self.failures(store, [stream.job.id]), ["interrupted"])
