"""Promises of a `JobTable`."""

import time
from collections.abc import Sequence
from itertools import count

import anyio
import pytest
from msgspec.structs import replace

from nodekit import UNFINISHED, ContainerError, Job, JobQuery, JobStatus, JobTable, Location, Outcome, Unfinished
from nodekit.testing.builders.jobs import make_attempt, make_job, succeeded, with_output
from nodekit.testing.contracts.stores.base import SUCCEEDED
from nodekit.testing.contracts.stores.keeping import ODD_PAYLOAD, Keeping

_numbers = count(1)


class JobTableContract(Keeping):
    """Suite of a table. Define the fixture `table`: an empty table that is entered."""

    @pytest.fixture
    def table(self) -> JobTable:
        raise NotImplementedError("define a fixture `table` that gives an empty table that was entered")

    @pytest.fixture
    def keeper(self, table: JobTable) -> JobTable:
        return table

    async def finish(self, keeper: JobTable, job: Job, outcome: Outcome = SUCCEEDED) -> None:
        ended = with_output(job).finished(outcome, time.time())
        await keeper.save(replace(ended, finish_number=next(_numbers)))

    async def test_the_last_surplus_is_the_number_before_those_that_are_kept(self, table: JobTable) -> None:
        await table.add(jobs := [make_job() for _ in range(5)])
        assert await table.last_surplus(0) is None
        for job in jobs[3::-1]:
            await self.finish(table, job)
        numbers = [job.finish_number for job in await table.get([job.id for job in jobs[3::-1]])]
        assert [await table.last_surplus(keep) for keep in range(6)] == [*numbers[::-1], None, None]
        await table.delete([jobs[2].id])
        assert [await table.last_surplus(keep) for keep in range(4)] == [numbers[3], numbers[2], numbers[0], None]

    async def test_save_keeps_the_newest_snapshot(self, table: JobTable) -> None:
        job = make_job("echo", "reverse", data=ODD_PAYLOAD)
        await table.add([job])
        for newer in _life_of(job):
            await table.save(newer)
            assert await table.get([job.id]) == [newer]

    async def test_save_keeps_steps_that_were_never_saved_one_by_one(self, table: JobTable) -> None:
        job = make_job("echo", "reverse", data=ODD_PAYLOAD)
        await table.add([job])
        newest = _life_of(job)[-1]
        await table.save(newest)
        assert await table.get([job.id]) == [newest]

    async def test_save_of_the_same_snapshot_changes_nothing(self, table: JobTable) -> None:
        job = make_job()
        await table.add([job])
        for newer in _life_of(job):
            await table.save(newer)
            await table.save(newer)
            assert await table.get([job.id]) == [newer]

    async def test_outputs_come_back_byte_for_byte(self, table: JobTable) -> None:
        job = make_job()
        await table.add([job])
        await table.save(with_output(job, ODD_PAYLOAD))
        [kept] = await table.get([job.id])
        assert bytes(kept.steps[0].result.output) == bytes(ODD_PAYLOAD)  # type: ignore[union-attr]

    async def test_add_keeps_all_of_a_job(self, table: JobTable) -> None:
        job = make_job(
            "echo",
            data=ODD_PAYLOAD,
            origin=Location.ONCHAIN,
            destination=Location.ONCHAIN,
            requires_proof=True,
            address="192.0.2.1",
            priority=7,
            idempotency_key="k",
            body_digest="digest",
            pipeline="other",
        )
        jobs = [replace(job, retry_of=make_job().id, not_before=12.5), _life_of(make_job())[1]]
        assert await table.add(jobs) == jobs
        assert await table.get([job.id for job in jobs]) == jobs

    @pytest.mark.parametrize("status", [JobStatus.SUCCESS, JobStatus.FAILED, JobStatus.CANCELLED])
    async def test_every_outcome_comes_back(self, table: JobTable, status: JobStatus) -> None:
        error = ContainerError(container="echo", error="no", kind="status", status=503)
        jobs = [make_job(), make_job()]
        await table.add(jobs)
        finished = [
            job.finished(Outcome(status, result), 17.25) for job, result in zip(jobs, (error, None), strict=True)
        ]
        for job in finished:
            await table.save(job)
        assert await table.get([job.id for job in jobs]) == finished
        assert await table.find(JobQuery(status={status}, limit=10)) == [job.id for job in jobs]

    async def test_find_by_status_follows_what_was_saved(self, table: JobTable) -> None:
        job = make_job()
        await table.add([job])
        for newer in (job, *_life_of(job)):
            await table.save(newer)
            found = {status: await table.find(JobQuery(status={status}, limit=10)) for status in JobStatus}
            assert found == {status: [job.id] if status is newer.status else [] for status in JobStatus}

    async def test_find_by_error_looks_at_the_end_of_a_job_and_not_at_its_steps(self, table: JobTable) -> None:
        failed, tolerated, forgotten, unfinished = jobs = [make_job("x") for _ in range(4)]
        await table.add(jobs)
        for job in jobs:
            ended = job.with_result(ContainerError(container="x", error="no reply"), make_attempt(kind="timeout"))
            if job is failed:
                ended = ended.finished(Outcome(JobStatus.FAILED), 17.25)
            elif job is tolerated:
                ended = ended.finished(Outcome(JobStatus.SUCCESS), 17.25)
            elif job is forgotten:
                ended = ended.finished(
                    Outcome(JobStatus.FAILED, ContainerError(container="y", error="reported from outside")), 17.25
                )
            await table.save(ended)
        assert await table.find(JobQuery(container="x", limit=10)) == [failed.id]
        assert await table.find(JobQuery(error="no reply", limit=10)) == [failed.id]
        assert await table.find(JobQuery(container="y", error="outside", limit=10)) == [forgotten.id]
        assert await table.find(JobQuery(status=UNFINISHED, limit=10)) == [unfinished.id]

    async def test_writes_of_many_jobs_may_overlap(self, table: JobTable) -> None:
        jobs = [make_job(data={"number": number}) for number in range(50)]

        async def write(job: Job) -> None:
            await table.add([job])
            await table.save(with_output(job))
            await table.save(succeeded(job))

        async with anyio.create_task_group() as tasks:
            for job in jobs:
                tasks.start_soon(write, job)
        kept = await table.get([job.id for job in jobs])
        assert [job.request for job in kept] == [job.request for job in jobs]
        assert {job.status for job in kept} == {JobStatus.SUCCESS}

    async def test_unfinished_answers_what_is_not_finished_oldest_first(self, table: JobTable) -> None:
        jobs = [make_job(client=f"client {n}", priority=n, destination=Location(n % 3)) for n in range(6)]
        await table.add(jobs[3:])
        await table.add(jobs[:3])
        await table.save(succeeded(jobs[1]))
        jobs[2] = replace(with_output(jobs[2], due="reverse"), not_before=time.time() + 60)
        await table.save(jobs[2])
        assert list(await table.unfinished()) == [Unfinished.of(job) for job in jobs if job is not jobs[1]]

    async def test_unfinished_of_an_empty_table_is_empty(self, table: JobTable) -> None:
        assert list(await table.unfinished()) == []


def _life_of(job: Job) -> Sequence[Job]:
    """Return every state of a job's life: an open step with failed attempts, its result, more of both, and the end."""
    tried = job.with_failure("echo", make_attempt(kind="connection", failure="refused"))
    tried_again = tried.with_failure("echo", make_attempt(kind="status", failure="HTTP status 503"))
    waiting = replace(tried_again, not_before=time.time() + 5)
    first = with_output(waiting, ODD_PAYLOAD, due="reverse")
    open = first.with_failure("reverse", make_attempt(kind="timeout", failure="no reply"))
    error = ContainerError(container="reverse", error="it never answered", kind="timeout")
    second = open.with_result(error, make_attempt(kind="timeout", failure="no reply"))
    return [tried, tried_again, waiting, first, open, second, second.finished(Outcome(JobStatus.FAILED), time.time())]
