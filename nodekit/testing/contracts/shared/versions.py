"""Two versions of a store on the same data, as while the nodes of a cluster are upgraded one after the other."""

import anyio
import pytest

from nodekit import Claim, SharedStore
from nodekit.testing.builders.jobs import SEQUENCE, make_job, succeeded, with_output
from nodekit.testing.contracts.shared.base import Open, SharedBase, is_cancelled


class Versions(SharedBase):
    """Tests of `SharedStoreContract` about an upgrade while nodes work."""

    @pytest.fixture
    def open_other_version(self) -> Open | None:
        """Return a function like `open_store`, for stores with the schema before or after this one."""
        return None

    @pytest.fixture
    def other_version(self, open_other_version: Open | None) -> SharedStore:
        if open_other_version is None:
            pytest.skip("define a fixture `open_other_version` as soon as its schema has had two versions")
        return open_other_version()

    async def test_nodes_of_two_versions_work_on_one_queue(
        self, store: SharedStore, other_version: SharedStore
    ) -> None:
        old_claim = await self.claimed(store, make_job("echo", "reverse", idempotency_key="k"))
        waiting: list[Claim] = []

        async def wait() -> None:
            waiting.extend(await store.claim(["slow"], SEQUENCE, 1))

        with anyio.fail_after(self.timeout_seconds):
            async with anyio.create_task_group() as tasks:
                tasks.start_soon(wait)
                async with other_version:
                    await other_version.add([job := make_job("slow")])
                    what = "a call of `claim` that waited before the upgrade gets the job"
                    await self.comes(what, lambda: [claim.job for claim in waiting] == [job])
                    assert await other_version.get([old_claim.job.id]) == [old_claim.job]
                    assert await other_version.add([make_job(idempotency_key="k")]) == [old_claim.job]
                    await store.save(old_claim, saved := with_output(old_claim.job, {"a": 1}, due="reverse"))
                    await store.release(old_claim, saved)
                    [new_claim] = await self.claims(other_version, 1, containers=["reverse"])
                    assert new_claim.job == saved
                    await other_version.save(new_claim, succeeded(saved))
                    assert await store.get([saved.id]) == [new_claim.job]
                    await store.save(waiting[0], succeeded(waiting[0].job))
                    assert (await store.pending()).total == (await other_version.pending()).total == 0

    async def test_nodes_of_two_versions_take_over_from_each_other(
        self, open_store: Open, store: SharedStore, other_version: SharedStore
    ) -> None:
        async with self.place(other_version) as there:
            await there.enter(there.store)
            await there.call(there.store.add, [job := make_job()])
            [claim] = await there.call(self.claims, there.store, 1)
            await there.stand_still()
            [taken] = await self.claims(store, 1)
            assert (taken.job, taken.takeovers) == (job, 1)
            await store.save(taken, succeeded(taken.job))
            there.go_on()
            await self.eventually(lambda: there.call(is_cancelled, claim), True)
