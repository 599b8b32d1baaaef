"""The store `memory` keeps the promises of tables and stores."""

from collections.abc import AsyncIterator

import pytest
from msgspec.structs import replace

from nodekit import Job, JobQuery
from nodekit.testing import JobStoreContract, JobTableContract, make_job, succeeded
from nodekit_memory import MemoryStore, MemoryTable


@pytest.fixture(params=["asyncio", "trio"])
def anyio_backend(request: pytest.FixtureRequest) -> str:
    return request.param


class TestMemoryTable(JobTableContract):
    @pytest.fixture
    async def table(self) -> AsyncIterator[MemoryTable]:
        async with MemoryTable() as table:
            yield table


class TestMemoryStore(JobStoreContract):
    @pytest.fixture
    async def store(self) -> AsyncIterator[MemoryStore]:
        async with MemoryStore() as store:
            yield store


@pytest.mark.anyio
async def test_a_range_of_finished_jobs_is_found_without_a_look_at_the_others(monkeypatch: pytest.MonkeyPatch) -> None:
    table, done = MemoryTable(), succeeded(make_job())
    jobs = [replace(done, id=make_job().id, finish_number=number) for number in range(1, 501)]
    await table.add(jobs)
    looked = list[Job]()
    matches = JobQuery.matches
    monkeypatch.setattr(JobQuery, "matches", lambda self, job: bool(looked.append(job)) or matches(self, job))
    assert await table.find(JobQuery(order="finished", after="100", before="103")) == [job.id for job in jobs[100:102]]
    assert len(looked) == 2
