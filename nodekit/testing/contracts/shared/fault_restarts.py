"""An engine that is killed and started again, and one that takes no writes for a while."""

import time
from collections.abc import Awaitable, Callable, Sequence
from contextlib import suppress
from functools import partial

import anyio
import pytest

from nodekit import UNFINISHED, Claim, ClaimLost, Job, JobId, JobQuery, JobStatus, Outcome, SharedStore, StoreFailed
from nodekit.testing.builders.jobs import SEQUENCE, make_job, succeeded, with_output
from nodekit.testing.contracts.bounds import within
from nodekit.testing.contracts.shared.fault_base import KILLED, READ_ONLY, Breaking, FaultBase
from nodekit.testing.contracts.stores.base import CANCELLED
from nodekit.testing.contracts.stores.storing import storage_of


class FaultRestarts(FaultBase):
    """Tests of `EngineFaultContract` about engines that are killed or read-only."""

    # -- killed -----------------------------------------------------------------------------------

    async def kept(self, store: SharedStore) -> tuple[list[Job], list[Job]]:
        """Keep jobs in each of their states. Return those that are queued, and those that have ended."""
        queued, begun, delayed, done = [await self.claimed(store) for _ in range(4)]
        await store.release(queued, queued.job)
        await store.release(begun, with_output(begun.job, {"a": 1}, due="reverse"))
        await store.release(delayed, delayed.job, delay_seconds=self.quiet_seconds)
        await store.save(done, succeeded(done.job))
        await store.add([keyed := make_job("echo", idempotency_key="key"), cancelled := make_job("reverse")])
        await store.settle(cancelled.id, CANCELLED, client=None)
        queue = [*(claim.job.id for claim in (queued, begun, delayed)), keyed.id]
        return await store.get(queue), await store.get([done.job.id, cancelled.id])

    @KILLED
    async def test_what_was_acknowledged_survives_a_kill_of_the_engine(
        self, near: SharedStore, far: SharedStore, breaking: Breaking, fault: str
    ) -> None:
        queued, ended = await self.kept(far)
        async with breaking(fault):
            pass
        for store in (near, far):
            jobs = await self.answered_soon("get", partial(store.get, [job.id for job in (*queued, *ended)]))
            assert jobs == [*queued, *ended]
            found = await store.find(JobQuery(status=UNFINISHED, limit=10))
            assert found == sorted(job.id for job in queued)
            assert await store.add([make_job("echo", idempotency_key="key")]) == [queued[-1]]
            await self.eventually(lambda store=store: self.counts(store), (4, 0, {"alice": 4}))  # type: ignore[misc]
        again = await self.all_claimed(near, *queued)
        assert [claim.job for claim in again] == sorted(queued, key=lambda job: job.id)
        assert [claim.takeovers for claim in again] == [0] * 4
        await self.works(near)

    @KILLED
    async def test_records_of_plugins_survive_a_kill_of_the_engine(
        self, far: SharedStore, breaking: Breaking, fault: str
    ) -> None:
        records = storage_of(far)
        version = await records.put("kept", b"value")
        await records.put("deleted", b"value")
        await records.delete("deleted")
        async with breaking(fault):
            pass
        record = await self.answered_soon("storage.get", partial(records.get, "kept"))
        assert record is not None
        assert (record.value, record.version) == (b"value", version)
        assert await records.get("deleted") is None
        assert await records.put("kept", b"new", expect=version) > version

    @KILLED
    async def test_claims_from_before_a_kill_are_known_or_lost_and_each_job_ends_once(
        self, near: SharedStore, far: SharedStore, breaking: Breaking, fault: str
    ) -> None:
        claims = [await self.claimed(store) for store in (near, far, far) for _ in range(2)]
        ends: dict[JobId, list[Job]] = {}
        async with breaking(fault):
            pass
        async with anyio.create_task_group() as beside:
            beside.start_soon(self._end_what_comes, near, ends)
            async with anyio.create_task_group() as tasks:
                tasks.start_soon(self._end_each, near, claims[:2], ends)
                tasks.start_soon(self._end_each, far, claims[2:4], ends)
                await self.lasts(fault, leases=1.3)
                tasks.start_soon(self._end_each, far, claims[4:], ends)
            await self.eventually(partial(near.find, JobQuery(status=UNFINISHED, limit=10)), [])
            beside.cancel_scope.cancel()
        jobs = await near.get([claim.job.id for claim in claims])
        assert [ends.get(job.id) for job in jobs] == [[job] for job in jobs]

    async def _end_each(self, store: SharedStore, claims: Sequence[Claim], ends: dict[JobId, list[Job]]) -> None:
        """Finish jobs, each with a result of its own, and record those whose claims were valid."""
        for claim in claims:
            job = with_output(claim.job, {"takeovers": claim.takeovers})
            end = job.finished(Outcome(JobStatus.SUCCESS), time.time())
            with within(self.few_leases, "`save` succeeds, or raises `ClaimLost`"), suppress(ClaimLost):
                await self.answered(partial(store.save, claim, end))
                ends.setdefault(end.id, []).append(claim.job)

    async def _end_what_comes(self, store: SharedStore, ends: dict[JobId, list[Job]]) -> None:
        while True:
            await self._end_each(store, await self.answered(lambda: store.claim(["echo"], SEQUENCE, 5)), ends)

    # -- read-only --------------------------------------------------------------------------------

    @READ_ONLY
    async def test_while_the_engine_is_read_only_reads_work_and_writes_fail(
        self, near: SharedStore, far: SharedStore, breaking: Breaking, fault: str
    ) -> None:
        claim = await self.claimed(far)
        await far.add([job := make_job("reverse")])
        async with breaking(fault):
            for store in (near, far):
                assert await store.get([claim.job.id, job.id]) == [claim.job, job]
                assert await store.find(JobQuery(limit=10)) == [claim.job.id, job.id]
                assert (await store.pending()).total == 2
                assert await store.now() > 0
                await self._refused("add", partial(store.add, [make_job()]))
                await self._refused("settle", partial(store.settle, job.id, CANCELLED, client=None))
            await self._refused("save", partial(far.save, claim, with_output(claim.job, {"a": 1})))
            assert await near.get([claim.job.id, job.id]) == [claim.job, job]
        assert await near.find(JobQuery(limit=10)) == [claim.job.id, job.id]
        await self.answered_soon("save", partial(far.save, claim, saved := with_output(claim.job, {"a": 1})))
        assert await self.stored(near, saved.id) == saved
        for store in (near, far):
            await self.works(store)

    async def _refused(self, name: str, write: Callable[[], Awaitable[object]]) -> None:
        """Assert that a write raises `StoreFailed`."""
        limit = within(self.few_leases, f"`{name}` raises `StoreFailed` while the engine is read-only")
        with limit, pytest.raises(StoreFailed):
            await write()
