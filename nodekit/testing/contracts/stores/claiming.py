"""Claims: the order in which `claim` gives jobs, no job lost or given twice, and `add_claimed`."""

from collections.abc import Awaitable, Callable, Collection, Iterator, Sequence
from functools import partial

import anyio
import anyio.lowlevel

from nodekit import Claim, ContainerId, Job, JobId, JobStatus, JobStore, Location
from nodekit.testing.builders.jobs import make_job, make_retry, succeeded
from nodekit.testing.contracts.bounds import turn, within
from nodekit.testing.contracts.stores.keeping import KeepingContract


class ClaimingContract(KeepingContract):
    """Tests of `JobStoreContract` about claims."""

    async def claims(
        self, store: JobStore, count: int, *, containers: Collection[ContainerId] = ("echo",)
    ) -> list[Claim]:
        """Claim until there are `count` claims; a store may give fewer at once."""
        claims: list[Claim] = []
        with within(self.timeout_seconds, f"`claim` gives {count} jobs that are due"):
            while len(claims) < count:
                some = await store.claim(containers, count - len(claims))
                assert 1 <= len(some) <= count - len(claims)
                claims += some
        return claims

    async def nothing_to_claim(self, store: JobStore, *, containers: Collection[ContainerId] = ("echo",)) -> bool:
        """Return True if a claim only waits. Takes `quiet_seconds`."""
        claims: Sequence[Claim] = ()
        with anyio.move_on_after(self.quiet_seconds):
            claims = await store.claim(containers, 1)
        return not claims

    async def test_claim_answers_the_job_as_it_is_kept(self, store: JobStore) -> None:
        job = make_job()
        await store.add([job])
        [claim] = await self.claims(store, 1)
        assert claim.job == job
        assert claim.takeovers == 0
        assert not claim.scope.cancel_called

    async def test_a_job_that_begins_with_steps_is_claimed_with_them(self, store: JobStore) -> None:
        job = make_retry()
        await store.add([job])
        assert await self.nothing_to_claim(store)
        [claim] = await self.claims(store, 1, containers=["reverse"])
        assert claim.job == job
        await store.save(claim, done := succeeded(job))
        assert await store.get([job.id]) == [done]
        assert len(done.steps) == 2

    async def test_a_claimed_job_is_not_offered_again(self, store: JobStore) -> None:
        await store.add([make_job()])
        await self.claims(store, 1)
        assert await self.nothing_to_claim(store)

    async def test_claim_gives_no_more_than_asked(self, store: JobStore) -> None:
        jobs = [make_job() for _ in range(5)]
        await store.add(jobs)
        assert len(await store.claim(["echo"], 2)) <= 2
        assert len(await store.claim(["echo"], 1)) == 1

    async def test_claim_waits_until_a_job_is_added(self, store: JobStore) -> None:
        claimed: list[JobId] = []

        async def claim() -> None:
            claimed.extend(_ids(await store.claim(["echo"], 3)))

        with anyio.fail_after(self.timeout_seconds):
            async with anyio.create_task_group() as tasks:
                tasks.start_soon(claim)
                await anyio.sleep(self.quiet_seconds)
                assert claimed == []
                await store.add([job := make_job()])
        assert claimed == [job.id]

    async def test_claim_gives_only_jobs_that_are_due_in_the_containers_asked_for(self, store: JobStore) -> None:
        echo, reverse, later = make_job("echo"), make_job("reverse"), make_job("reverse", "echo")
        await store.add([later, reverse, echo])
        assert _ids(await self.claims(store, 1, containers=["echo", "other"])) == [echo.id]
        assert await self.nothing_to_claim(store, containers=["echo", "other"])
        assert await self.nothing_to_claim(store, containers=[])
        assert {*_ids(await self.claims(store, 2, containers=["reverse"]))} == {reverse.id, later.id}

    async def test_claim_gives_lower_priorities_first(self, store: JobStore) -> None:
        jobs = [make_job(priority=priority) for priority in (7, 3, 0, 5, 1, 3)]
        await store.add(jobs)
        claims = await self.claims(store, 6)
        assert [claim.job.request.priority for claim in claims] == [0, 1, 3, 3, 5, 7]

    async def test_claim_gives_the_oldest_first(self, store: JobStore) -> None:
        jobs = [make_job() for _ in range(20)]
        for job in jobs:
            await store.add([job])
        assert _ids(await self.claims(store, 20)) == [job.id for job in jobs]

    async def test_claim_goes_round_the_clients(self, store: JobStore) -> None:
        for client, count in (("alice", 6), ("bob", 3), ("carol", 1)):
            await store.add([make_job(client=client) for _ in range(count)])
        clients = [claim.job.client for claim in await self.claims(store, 10)]
        assert {*clients[:3]} == {"alice", "bob", "carol"}
        assert [{*clients[n : n + 2]} for n in (3, 5)] == [{"alice", "bob"}] * 2
        assert clients[7:] == ["alice"] * 3

    async def test_a_client_with_many_jobs_does_not_starve_another(self, store: JobStore) -> None:
        await store.add([make_job(client="alice") for _ in range(1000)])
        await store.add([make_job(client="bob")])
        clients = [claim.job.client for claim in await self.claims(store, 2)]
        assert "bob" in clients

    async def test_one_job_never_goes_to_two_claims(self, store: JobStore) -> None:
        jobs = [make_job(client=f"client {n % 3}") for n in range(60)]
        claimed: list[JobId] = []

        async def claim() -> None:
            while len(claimed) < len(jobs):
                await turn()
                claimed.extend(_ids(await store.claim(["echo"], 3)))
            tasks.cancel_scope.cancel()

        async def add(some: Sequence[Job]) -> None:
            await store.add(some)

        with within(self.timeout_seconds, f"`claim` gives {len(jobs)} jobs"):
            async with anyio.create_task_group() as tasks:
                for n in range(8):
                    tasks.start_soon(claim)
                    tasks.start_soon(add, jobs[n::8])
        assert sorted(claimed) == [job.id for job in jobs]

    async def test_cancelling_claim_loses_nothing(self, store: JobStore) -> None:
        jobs = [make_job() for _ in range(3)]
        await store.add(jobs)
        for patience in self.patiences():
            claims: list[Claim] = []
            async with anyio.create_task_group() as tasks:
                tasks.start_soon(self._claim_into, store, claims)
                await patience()
                tasks.cancel_scope.cancel()
            for claim in claims:
                await store.release(claim, claim.job)
        assert {*_ids(await self.claims(store, 3))} == {job.id for job in jobs}

    async def _claim_into(self, store: JobStore, claims: list[Claim]) -> None:
        claims += await store.claim(["echo"], 2)

    def patiences(self) -> Iterator[Callable[[], Awaitable[None]]]:
        """Yield ways to wait a little: a number of turns of the event loop, and fractions of `quiet_seconds`."""
        for number in range(25):
            yield partial(_turns, number)
            yield partial(anyio.sleep, self.quiet_seconds * number / 500)

    async def test_a_streaming_job_is_claimed_as_it_is_added(self, store: JobStore) -> None:
        job = make_job(destination=Location.STREAM)
        claim = await store.add_claimed(job)
        assert claim.job == job
        assert await store.get([job.id]) == [job]
        assert await self.nothing_to_claim(store)

    async def test_a_streaming_job_is_never_offered(self, store: JobStore) -> None:
        job = make_job(destination=Location.STREAM)
        claim = await store.add_claimed(job)
        await store.release(claim, job)
        assert await self.nothing_to_claim(store)
        [kept] = await store.get([job.id])
        assert kept.status is JobStatus.FAILED
        assert kept.result is not None
        assert getattr(kept.result, "kind", None) == "interrupted"
        assert (await store.pending()).total == 0


async def _turns(number: int) -> None:
    for _ in range(number):
        await anyio.lowlevel.checkpoint()


def _ids(claims: Sequence[Claim]) -> list[JobId]:
    return [claim.job.id for claim in claims]
