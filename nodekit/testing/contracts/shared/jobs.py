"""Jobs that several nodes share: all nodes see one job, and it ends once."""

from collections.abc import Callable, Coroutine
from functools import partial
from typing import Any

import anyio
import pytest

from nodekit import Claim, ClaimLost, Job, JobStatus, Location, SharedStore
from nodekit.testing.builders.jobs import make_job, succeeded, with_output
from nodekit.testing.contracts.shared.queue import SharedQueueContract
from nodekit.testing.contracts.shared.sharing import NOTHING
from nodekit.testing.contracts.stores.base import CANCELLED


class SharedJobsContract(SharedQueueContract):
    """Tests of `SharedStoreContract` about single jobs on several nodes."""

    async def test_an_idempotency_key_holds_in_every_store(self, stores: list[SharedStore]) -> None:
        one, other, third = stores
        await one.add([first := make_job(idempotency_key="k")])
        assert await other.add([make_job(idempotency_key="k")]) == [first]
        assert await third.add([make_job(id=first.id, data={"first": False})]) == [first]
        assert await third.find(client="alice", idempotency_key="k", limit=10) == [first.id]
        assert await third.find(limit=10) == [first.id]

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
        assert await stores[0].find(limit=30) == [kept[0].id]
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

    async def test_changes_tells_what_other_stores_did(self, stores: list[SharedStore]) -> None:
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
            await self.seen(changes, [job.id])
            await other.add([cancelled])
            await self.seen(changes, [cancelled.id])
            await other.settle(cancelled.id, CANCELLED, client=None)
            await self.seen(changes, [cancelled.id])

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
        assert await stores[0].get([done.id]) == [done]

    async def test_leaving_a_store_loses_nothing_of_what_it_had_claimed(
        self, open_store: Callable[[], SharedStore], store: SharedStore
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
