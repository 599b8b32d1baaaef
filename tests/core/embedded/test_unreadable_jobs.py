"""Jobs that a table cannot read any more: they end, and hold up no other."""

from collections.abc import Sequence
from typing import Any

import anyio
import pytest

from nodekit import ContainerError, EmbeddedStore, Job, JobQuery, JobStatus, Outcome, StoreFailed
from nodekit.testing import SEQUENCE, make_job
from nodekit_memory import MemoryTable

pytestmark = pytest.mark.anyio

UNREADABLE = Outcome(JobStatus.FAILED, ContainerError(container="", error="damaged", kind="internal"))


class Damaged(MemoryTable):
    """Cannot read some jobs, and cannot find others."""

    def __init__(self) -> None:
        super().__init__()
        self.unreadable: set[str] = set()
        self.gone: set[str] = set()
        self.writes = True

    async def get(self, ids: Sequence[str], **options: Any) -> list[Job]:
        found = [job for job in await super().get(ids, **options) if job.id not in self.gone]
        return [job.finished(UNREADABLE, job.accepted_at) if job.id in self.unreadable else job for job in found]

    async def save(self, job: Job) -> None:
        if not self.writes:
            raise StoreFailed("the row is damaged, too")
        await super().save(job)


async def restarted(table: Damaged, *jobs: Job) -> EmbeddedStore:
    """Return a store that finds the jobs in its table, as after a restart."""
    await table.add(jobs)
    return EmbeddedStore(table)


async def claimed(store: EmbeddedStore) -> list[str]:
    with anyio.fail_after(60):
        return [claim.job.id for claim in await store.claim(["echo"], SEQUENCE, 10)]


async def check_ended(store: EmbeddedStore, id: str) -> None:
    """Check that the end of the job is known to everybody who asks."""
    with anyio.fail_after(60):
        assert [job.id for job in await store.ended()] == [id]
    assert (await store.pending()).total == 1, "the other one"


@pytest.mark.parametrize("writes", [True, False])
async def test_an_unreadable_job_ends_and_others_are_claimed(writes: bool) -> None:
    table, bad, other = Damaged(), make_job(), make_job()
    store = await restarted(table, bad, other)
    table.unreadable.add(bad.id)
    table.writes = writes
    async with store:
        async with store.changes([bad.id]) as changes:
            assert await claimed(store) == [other.id]
            with anyio.fail_after(60):
                change = await anext(changes)
            assert change is not None
            assert change.finished
        await check_ended(store, bad.id)
        numbered = await store.find(JobQuery(order="finished"))
        assert numbered == ([bad.id] if writes else [])
        assert (await store.get([bad.id]))[0].error == UNREADABLE.result


async def test_a_job_that_the_table_does_not_have_any_more_ends_and_others_are_claimed() -> None:
    table, gone, other = Damaged(), make_job(), make_job()
    store = await restarted(table, gone, other)
    table.gone.add(gone.id)
    async with store:
        async with store.changes([gone.id]) as changes:
            assert await claimed(store) == [other.id]
            with anyio.fail_after(60):
                change = await anext(changes)
            assert change is not None
            assert change.finished
        assert (await store.pending()).total == 1


async def test_cancelling_an_unreadable_job_ends_it_as_unreadable() -> None:
    table, bad, other = Damaged(), make_job(), make_job()
    store = await restarted(table, bad, other)
    table.unreadable.add(bad.id)
    async with store:
        settled = await store.settle(bad.id, Outcome(JobStatus.CANCELLED), client=None)
        assert settled is not None
        assert not settled.now
        assert settled.job.status is JobStatus.FAILED
        await check_ended(store, bad.id)
        assert await claimed(store) == [other.id]


async def test_an_unreadable_job_that_runs_goes_on() -> None:
    table, job = Damaged(), make_job()
    async with EmbeddedStore(table) as store:
        await store.add([job])
        [claim] = await store.claim(["echo"], SEQUENCE, 1)
        table.unreadable.add(job.id)
        await store.settle(job.id, Outcome(JobStatus.CANCELLED), client=None)
        await store.save(claim, claim.job.finished(Outcome(JobStatus.SUCCESS), 17.0))
        assert (await store.pending()).total == 0
