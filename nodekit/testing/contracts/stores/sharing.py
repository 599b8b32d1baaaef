"""Promises that tables and stores share about sizes, about payloads that several jobs have, and about pages."""

from collections.abc import Sequence
from typing import Any, cast

import pytest
from msgspec.structs import replace

from nodekit import (
    ContainerError,
    ContainerOutput,
    Job,
    JobId,
    JobQuery,
    JobStatus,
    JobStore,
    JobTable,
    Outcome,
    PagingStore,
    encode_payload,
)
from nodekit.testing.builders.jobs import make_job, make_retry
from nodekit.testing.contracts.stores.base import KeeperBase

_FAILED = Outcome(JobStatus.FAILED, ContainerError(container="echo", error="no"))


class Sharing(KeeperBase):
    """Tests of tables and stores about what large jobs need."""

    async def test_sizes_are_those_of_the_payloads(self, keeper: JobTable | JobStore) -> None:
        jobs = [make_job(data="x" * 1000), make_retry("y" * 3000), make_job(data="z"), make_job()]
        await keeper.add(jobs)
        result = ContainerOutput(container="echo", output=encode_payload("from elsewhere" * 100))
        await self.finish(keeper, jobs[0])
        await self.finish(keeper, jobs[1], _FAILED)
        await self.finish(keeper, jobs[2], Outcome(JobStatus.SUCCESS, result))
        stored = await keeper.get(_ids(jobs))
        sizes = await keeper.sizes([*_ids(jobs)[::-1], make_job().id, jobs[0].id])
        assert sizes == {job.id: job.payload_bytes for job in stored}
        assert await keeper.sizes([]) == {}
        assert [sizes[job.id] > least for job, least in zip(jobs, (1000, 3000, 1400, 0), strict=True)] == [True] * 4

    async def test_a_retry_is_whole_whatever_becomes_of_the_old_job(self, keeper: JobTable | JobStore) -> None:
        for size in (10, 100_000):
            old = replace(make_retry("y" * size), request=make_job("echo", "reverse", data="x" * size).request)
            await keeper.add([old])
            await self.finish(keeper, old, _FAILED)
            first = await self._again(keeper, old, name="first")
            await self.finish(keeper, first, _FAILED)
            second = await self._again(keeper, first, name="second")
            third = await self._again(keeper, old, name="third")
            left = [*await keeper.get([first.id]), second, third]
            for gone in (old, first):
                await keeper.delete([gone.id])
                left = [job for job in left if job.id != gone.id]
                assert await keeper.get(_ids(left)) == left
            await self.finish(keeper, second)
            await keeper.delete([second.id])
            assert await keeper.get([second.id, third.id]) == [third]
            assert await keeper.sizes([third.id]) == {third.id: third.payload_bytes}

    async def _again(self, keeper: JobTable | JobStore, old: Job, *, name: str) -> Job:
        """Add a retry of a job that has failed, with another key, and return it as it is stored."""
        [failed] = await keeper.get([old.id])
        key = f"{old.id} {name}"
        request = old.request.again(address="192.0.2.9", priority=1, idempotency_key=key, body_digest="d")
        retry = replace(replace(make_job(), request=request).retrying(failed, "failed"), due="reverse")
        assert await keeper.add([retry]) == [retry]
        assert await keeper.get([retry.id]) == [retry]
        return retry

    async def test_a_job_that_only_names_an_old_one_has_its_own_payloads(self, keeper: JobTable | JobStore) -> None:
        old, other = make_job(data="x" * 500), make_job(data="y" * 500)
        await keeper.add([old])
        named = replace(other, retry_of=old.id)
        await keeper.add([named])
        assert await keeper.get([old.id, named.id]) == [old, named]

    @pytest.mark.parametrize("order", ["oldest", "newest", "finished"])
    async def test_pages_lead_through_all_jobs_that_match(self, keeper: JobTable | JobStore, order: Any) -> None:
        if not hasattr(keeper, "page"):
            pytest.skip("it has no pages")
        jobs = [make_job(client=client) for client in ("alice", "bob") * 4]
        await keeper.add(jobs)
        for job in jobs:
            await self.finish(keeper, job, _FAILED if job.client == "alice" else Outcome(JobStatus.SUCCESS))
        for conditions in ({}, {"client": "alice"}, {"status": {JobStatus.FAILED}}, {"error": "n"}, {"error": "none"}):
            query = JobQuery(order=order, limit=3, **cast(Any, conditions))
            expected = await keeper.find(replace(query, limit=100))
            found: list[JobId] = []
            number = 0
            while True:
                page = await cast(PagingStore, keeper).page(query)
                assert len(page.ids) <= query.limit
                found += page.ids
                number += 1
                if page.next is None:
                    break
                assert number <= 2 * len(jobs), f"the cursor {page.next!r} does not lead on"
                query = replace(query, after=page.next)
            assert found == expected


def _ids(jobs: Sequence[Job]) -> list[JobId]:
    return [job.id for job in jobs]
