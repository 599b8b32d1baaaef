"""One queue for several nodes, however many of them take jobs from it."""

from collections.abc import Awaitable, Callable, Sequence
from functools import partial

import anyio
from msgspec.structs import replace

from nodekit import Claim, Job, JobId, JobStatus, SharedStore
from nodekit.testing.builders.jobs import make_job, succeeded, with_output
from nodekit.testing.contracts.bounds import turn, within
from nodekit.testing.contracts.shared.sharing import SharingContract


class SharedQueueContract(SharingContract):
    """Tests of `SharedStoreContract` about the order in which nodes get jobs."""

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
        await other.save(claim, done := succeeded(begun))
        assert [await store.get([job.id]) for store in stores] == [[done]] * 3
        assert await third.find(status=[JobStatus.SUCCESS], limit=10) == [job.id]

    async def test_a_job_goes_to_one_of_many_claims_at_once(self, stores: list[SharedStore]) -> None:
        jobs = [make_job(client=f"client {n % 3}") for n in range(60)]
        claimed: list[JobId] = []

        async def claim(store: SharedStore) -> None:
            while len(claimed) < len(jobs):
                await turn()
                claimed.extend(claim.job.id for claim in await store.claim(["echo"], 2))
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

    async def claimed_meanwhile(self, store: SharedStore, give: Callable[[], Awaitable[object]]) -> JobId:
        """Start to wait for a claim, call `give`, and return the id of the job that the claim gets."""
        claims: list[Claim] = []

        async def wait() -> None:
            claims.extend(await store.claim(["echo"], 1))

        with anyio.fail_after(self.timeout_seconds):
            async with anyio.create_task_group() as tasks:
                tasks.start_soon(wait)
                await anyio.sleep(self.quiet_seconds)
                assert claims == []
                await give()
        return claims[0].job.id

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
