"""Jobs that are answered from memory: those that run, and those that have ended while somebody waited."""

from collections.abc import Sequence
from typing import Any

import pytest

from nodekit import EmbeddedStore, Job, JobFields, JobStatus
from nodekit.embedded.snapshots import MOST_BYTES, MOST_ENDED
from nodekit.testing import SEQUENCE, make_job, succeeded, with_output
from nodekit_memory import MemoryTable

pytestmark = pytest.mark.anyio


class Asked(MemoryTable):
    """Counts the jobs that are read."""

    def __init__(self) -> None:
        super().__init__()
        self.reads = 0

    async def get(self, ids: Sequence[str], **options: Any) -> list[Job]:
        self.reads += len(ids)
        return await super().get(ids, **options)


async def read(store: EmbeddedStore, job: Job, client: str | None = None) -> tuple[JobStatus, int] | None:
    """Return the status of a job, and the number of steps in the answer with its last step."""
    for fields in (JobFields.STATE, JobFields.LAST_STEP):
        found = await store.get([job.id], client=client, fields=fields)
    return (found[0].status, len(found[0].steps)) if found else None


async def test_a_job_that_runs_is_not_read_from_the_table() -> None:
    async with EmbeddedStore(table := Asked()) as store:
        await store.add([job := make_job("echo", "echo", "echo")])
        [claim] = await store.claim(["echo"], SEQUENCE, 1)
        assert await read(store, job) == (JobStatus.ACCEPTED, 0)
        await store.save(claim, job := with_output(with_output(job)))
        assert await read(store, job, job.client) == (JobStatus.RUNNING, 1)
        assert table.reads == 0
        assert await read(store, job, "somebody else") is None
        assert await store.get([job.id]) == [job], "all of its parts are"
        before = table.reads
        await store.release(claim, job)
        await read(store, job)
        assert table.reads == before + 2, "it is queued"


async def test_of_several_states_only_those_that_are_not_in_memory_are_read_from_the_table() -> None:
    async with EmbeddedStore(table := Asked()) as store:
        await store.add(jobs := [make_job("echo", client=f"client {number}") for number in range(3)])
        claims = await store.claim(["echo"], SEQUENCE, 2)
        await store.save(claims[0], ended := succeeded(claims[0].job))
        order = [jobs[2].id, ended.id, claims[1].job.id, "unknown", ended.id]
        found = await store.get(order, fields=JobFields.STATE)
        assert [job.id for job in found] == order[:3]
        assert [job.status for job in found] == [JobStatus.ACCEPTED, JobStatus.SUCCESS, JobStatus.ACCEPTED]
        assert table.reads == 2, "the one that has ended, and the unknown one"
        for job in jobs:
            own = await store.get(order, client=job.client, fields=JobFields.STATE)
            assert [one.id for one in own] == [job.id]


async def test_whoever_waits_for_a_job_reads_its_result_from_memory_once() -> None:
    async with EmbeddedStore(table := Asked()) as store:
        await store.add(jobs := [make_job(), make_job()])
        async with store.changes([jobs[0].id]):
            for claim in await store.claim(["echo"], SEQUENCE, 2):
                await store.save(claim, succeeded(claim.job))
        [found] = await store.get([jobs[0].id], client=jobs[0].client, fields=JobFields.LAST_STEP)
        assert table.reads == 0
        [stored] = await store.get([jobs[0].id], fields=JobFields.LAST_STEP)
        assert (found.status, found.result) == (JobStatus.SUCCESS, stored.result)
        assert found.finish_number == stored.finish_number
        assert table.reads == 1
        await store.get([jobs[1].id], fields=JobFields.LAST_STEP)
        assert table.reads == 2, "nobody waited for it"


async def test_a_job_that_was_deleted_or_has_expired_is_not_in_memory_any_more() -> None:
    async with EmbeddedStore(Asked()) as store:
        for delete in (True, False):
            await store.add([job := make_job()])
            async with store.changes([job.id]):
                [claim] = await store.claim(["echo"], SEQUENCE, 1)
                await store.save(claim, succeeded(job))
            if delete:
                await store.delete([job.id])
            else:
                await store.expire(finished_before=None, keep=0, limit=10)
            assert await store.get([job.id], fields=JobFields.LAST_STEP) == []


async def test_large_jobs_and_more_than_a_few_are_not_kept() -> None:
    async with EmbeddedStore(table := Asked()) as store:
        jobs = [make_job() for _ in range(MOST_ENDED + 2)]
        jobs[-1] = make_job(data="x" * MOST_BYTES)
        await store.add(jobs)
        async with store.changes([job.id for job in jobs]):
            for claim in await store.claim(["echo"], SEQUENCE, len(jobs)):
                await store.save(claim, succeeded(claim.job))
        table.reads = 0
        for job in jobs:
            await store.get([job.id], fields=JobFields.LAST_STEP)
        assert table.reads == 2, "the first one, and the large one"
