"""Promises that tables and stores share: `add`, `get`, `find` and `delete`."""

from collections.abc import AsyncIterator, Sequence

import anyio
import anyio.lowlevel
import msgspec
import pytest
from msgspec.structs import replace

from nodekit import (
    FINISHED,
    UNFINISHED,
    ContainerError,
    Job,
    JobFields,
    JobId,
    JobQuery,
    JobStatus,
    JobStore,
    JobTable,
    Location,
    Outcome,
)
from nodekit.testing.builders.jobs import make_job, make_retry
from nodekit.testing.contracts.stores.sharing import Sharing
from nodekit.testing.leaks.detectors import no_leaks, unblocked_loop

ODD_PAYLOAD = msgspec.Raw('{"n": 1%s, "n":-0.0, "z" : [1E400,"\\u00e9 é"] }'.encode() % (b"0" * 77))
"""JSON with a 256-bit number, a repeated key, odd spaces, an exponent beyond a double, and a letter in two
notations."""
_ODD_TEXTS = (
    ("100%", "100 of them"),
    ("a_b", "aXb"),
    ("*", "anything"),
    ("[xy]", "x or y"),
    ("'; --", "none"),
    ("Timed out", "timed out"),
    ("é", "e\u0301"),
    ("e\u0301", "é"),
    ("\x00tail", "tail"),
    ("two\nlines", "two lines"),
)
"""Pairs of different texts that are equal as patterns, in queries, without case, or up to a zero byte."""


class Keeping(Sharing):
    """Tests of tables and stores about what they keep."""

    async def test_add_answers_what_it_kept(self, keeper: JobTable | JobStore) -> None:
        jobs = [make_job(), make_job("reverse", "echo", client="bob", priority=0)]
        assert await keeper.add(jobs) == jobs
        assert await keeper.get([job.id for job in jobs]) == jobs

    async def test_add_of_nothing_keeps_nothing(self, keeper: JobTable | JobStore) -> None:
        assert await keeper.add([]) == []
        assert await keeper.find(JobQuery(limit=10)) == []

    async def test_add_of_a_known_id_answers_the_job_that_is_there(self, keeper: JobTable | JobStore) -> None:
        first = make_job(data={"first": True})
        await keeper.add([first])
        assert await keeper.add([make_job(id=first.id, data={"first": False})]) == [first]
        assert await keeper.get([first.id]) == [first]

    async def test_add_of_a_known_idempotency_key_answers_the_job_that_is_there(
        self, keeper: JobTable | JobStore
    ) -> None:
        first = make_job(idempotency_key="k", body_digest="d")
        await keeper.add([first])
        assert await keeper.add([make_job(idempotency_key="k", body_digest="e")]) == [first]
        assert await keeper.find(JobQuery(limit=10)) == [first.id]

    async def test_an_idempotency_key_holds_within_one_add_too(self, keeper: JobTable | JobStore) -> None:
        first, other, again = make_job(idempotency_key="k"), make_job(), make_job(idempotency_key="k")
        assert await keeper.add([first, other, again]) == [first, other, first]
        assert await keeper.find(JobQuery(limit=10)) == [first.id, other.id]

    async def test_idempotency_keys_belong_to_a_client(self, keeper: JobTable | JobStore) -> None:
        jobs = [make_job(idempotency_key="k", client=client) for client in ("alice", "bob")]
        assert await keeper.add(jobs) == jobs
        assert await keeper.find(JobQuery(idempotency_key="k", limit=10)) == _ids(jobs)

    async def test_jobs_without_a_key_are_never_taken_for_one_another(self, keeper: JobTable | JobStore) -> None:
        jobs = [make_job(data={"same": True}) for _ in range(3)]
        assert await keeper.add(jobs) == jobs

    async def test_add_answers_known_and_new_jobs_in_the_order_asked(self, keeper: JobTable | JobStore) -> None:
        known, keyed, new = make_job(), make_job(idempotency_key="k"), make_job()
        await keeper.add([known, keyed])
        assert await keeper.add([new, make_job(idempotency_key="k"), known]) == [new, keyed, known]
        assert await keeper.get([new.id]) == [new]

    async def test_of_adds_with_one_key_at_the_same_time_one_is_kept(self, keeper: JobTable | JobStore) -> None:
        kept: list[Job] = []

        async def add() -> None:
            kept.extend(await keeper.add([make_job(idempotency_key="k")]))

        async with anyio.create_task_group() as tasks:
            for _ in range(20):
                tasks.start_soon(add)
        assert len(kept) == 20
        assert await keeper.find(JobQuery(limit=30)) == [kept[0].id]
        assert {job.id for job in kept} == {kept[0].id}

    async def test_add_keeps_the_steps_that_a_job_begins_with(self, keeper: JobTable | JobStore) -> None:
        jobs = [make_job(), make_retry(ODD_PAYLOAD)]
        assert await keeper.add(jobs) == jobs
        assert await keeper.get(_ids(jobs)) == jobs

    async def test_payloads_come_back_byte_for_byte(self, keeper: JobTable | JobStore) -> None:
        jobs = [make_job(data=ODD_PAYLOAD), make_job(data={"large": "x" * 1_000_000})]
        await keeper.add(jobs)
        kept = await keeper.get(_ids(jobs))
        assert [bytes(job.request.data) for job in kept] == [bytes(job.request.data) for job in jobs]

    async def test_get_answers_in_the_order_asked_each_once(self, keeper: JobTable | JobStore) -> None:
        jobs = [make_job() for _ in range(3)]
        await keeper.add(jobs)
        a, b, c = _ids(jobs)
        assert _ids(await keeper.get([c, a, c, b, a])) == [c, a, b]
        assert await keeper.get([]) == []

    async def test_get_leaves_out_unknown_jobs_and_those_of_other_clients(self, keeper: JobTable | JobStore) -> None:
        mine, other = make_job(client="alice"), make_job(client="bob")
        await keeper.add([mine, other])
        ids = [other.id, make_job().id, mine.id, "no id at all"]
        assert _ids(await keeper.get(ids)) == [other.id, mine.id]
        assert _ids(await keeper.get(ids, client="alice")) == [mine.id]
        assert await keeper.get(ids, client="carol") == []

    async def test_get_reads_the_parts_of_a_job_that_are_asked_for(self, keeper: JobTable | JobStore) -> None:
        """It may leave out only what is not asked for."""
        jobs = [make_retry(ODD_PAYLOAD), make_job(priority=1, destination=Location.ONCHAIN)]
        await keeper.add(jobs)
        await self.finish(keeper, jobs[0])
        whole = await keeper.get(_ids(jobs))
        some = JobFields.STATE, JobFields.RECORDS, JobFields.STEPS, JobFields.RUN, JobFields.ALL
        for fields in (*JobFields, *some, JobFields.REQUEST | JobFields.LAST_STEP):
            for job, read in zip(whole, await keeper.get(_ids(jobs), fields=fields), strict=True):
                request = job.request if JobFields.REQUEST in fields else read.request
                steps = job.steps if JobFields.STEPS in fields else read.steps
                assert read == replace(read, request=request, steps=steps), f"a part of {fields} is missing"
                assert job == replace(read, request=job.request, steps=job.steps)
                assert _request_facts(read) == _request_facts(job)
                if JobFields.LAST_STEP in fields:
                    assert read.steps[-1:] == job.steps[-1:], "the last step is missing"
                if JobFields.RECORDS in fields:
                    least = job.without_earlier_outputs()
                    assert replace(read, request=job.request).without_earlier_outputs() == least, "a step is missing"

    async def test_get_takes_thousands_of_ids(self, keeper: JobTable | JobStore) -> None:
        jobs = [make_job() for _ in range(1500)]
        await keeper.add(jobs)
        assert _ids(await keeper.get(_ids(jobs)[::-1])) == _ids(jobs)[::-1]

    async def test_find_answers_oldest_first_and_in_pages(self, keeper: JobTable | JobStore) -> None:
        jobs = [make_job() for _ in range(7)]
        for job in jobs[::2] + jobs[1::2]:
            await keeper.add([job])
        assert await keeper.find(JobQuery(limit=100)) == _ids(jobs)
        pages: list[list[JobId]] = []
        after: JobId | None = None
        while page := await keeper.find(JobQuery(after=after, limit=3)):
            assert after is None or page[-1] > after, (
                f"`find(after={after!r})` answers that job again, not those behind it"
            )
            assert len(pages) < len(jobs), f"there are {len(jobs)} jobs, and no last page: {pages}"
            pages.append(page)
            after = page[-1]
        assert pages == [_ids(jobs)[:3], _ids(jobs)[3:6], _ids(jobs)[6:]]

    async def test_find_goes_on_behind_an_id_that_is_not_there(self, keeper: JobTable | JobStore) -> None:
        older, missing, newer = make_job(), make_job(), make_job()
        await keeper.add([older, newer])
        assert await keeper.find(JobQuery(after=missing.id, limit=10)) == [newer.id]

    async def test_newest_is_the_reverse_of_oldest(self, keeper: JobTable | JobStore) -> None:
        ids = _ids(await keeper.add([make_job(client=client) for client in ("alice", "bob") * 3]))
        assert await keeper.find(JobQuery(order="newest", limit=10)) == ids[::-1]
        assert await keeper.find(JobQuery(order="newest", after=ids[4], limit=2)) == [ids[3], ids[2]]
        assert await keeper.find(JobQuery(order="newest", after=make_job().id, limit=1)) == [ids[5]]
        assert await keeper.find(JobQuery(order="newest", client="bob", after=ids[3], limit=10)) == [ids[1]]
        assert await keeper.find(JobQuery(order="newest", after=ids[4], before=ids[1], limit=10)) == ids[3:1:-1]
        assert await keeper.find(JobQuery(after=ids[1], before=ids[4], limit=10)) == ids[2:4]

    async def test_the_order_finished_has_finished_jobs_as_they_ended(self, keeper: JobTable | JobStore) -> None:
        jobs = await keeper.add([make_job(client=client) for client in ("alice", "bob") * 3])
        query = JobQuery(order="finished", limit=10)
        assert await keeper.find(query) == []
        a, b, c, d, e, _ = jobs
        for job in (d, a, e):
            await self.finish(keeper, job)
        assert await keeper.find(query) == _ids([d, a, e])
        await self.finish(keeper, b, Outcome(JobStatus.FAILED))
        assert await keeper.find(replace(query, client="bob")) == _ids([d, b])
        assert await keeper.find(replace(query, status=[JobStatus.FAILED])) == [b.id]
        assert await keeper.find(replace(query, status=UNFINISHED)) == []
        pages: list[list[JobId]] = []
        page = replace(query, limit=2)
        while ids := await keeper.find(page):
            pages.append(ids)
            assert len(pages) < 4, f"the cursor does not lead on: {pages}"
            [last] = await keeper.get(ids[-1:], fields=JobFields.STATE)
            page = replace(page, after=page.cursor(last))
        assert pages == [_ids([d, a]), _ids([e, b])]
        await keeper.delete(_ids([d, a, e, b]))
        await self.finish(keeper, c)
        assert await keeper.find(page) == [c.id], "what finishes later comes behind the cursor of a job that is deleted"
        [last] = await keeper.get([c.id])
        assert await keeper.find(replace(query, after=query.cursor(last))) == []
        assert await keeper.find(replace(query, before=query.cursor(last))) == []

    async def test_find_by_client_finds_that_clients_jobs_only(self, keeper: JobTable | JobStore) -> None:
        clients = ["alice", "bob", "alice' OR '1'='1", "ålice", "alice%"]
        jobs = {client: [make_job(client=client) for _ in range(2)] for client in clients}
        await keeper.add([job for some in jobs.values() for job in some])
        for client, some in jobs.items():
            assert await keeper.find(JobQuery(client=client, limit=10)) == _ids(some)
            assert await keeper.find(JobQuery(client=client, after=some[0].id, limit=10)) == [some[1].id]
        assert await keeper.find(JobQuery(client="carol", limit=10)) == []

    async def test_find_by_status_finds_jobs_as_they_are_now(self, keeper: JobTable | JobStore) -> None:
        jobs = [make_job() for _ in range(4)]
        await keeper.add(jobs)
        await self.finish(keeper, jobs[1])
        [finished] = await keeper.get([jobs[1].id])
        assert finished.status.finished
        assert await keeper.find(JobQuery(status={finished.status}, limit=10)) == [jobs[1].id]
        assert await keeper.find(JobQuery(status=FINISHED, limit=10)) == [jobs[1].id]
        assert await keeper.find(JobQuery(status=UNFINISHED, limit=10)) == [jobs[0].id, jobs[2].id, jobs[3].id]
        assert await keeper.find(JobQuery(status=UNFINISHED, client="alice", after=jobs[0].id, limit=1)) == [jobs[2].id]
        assert await keeper.find(JobQuery(status=list(JobStatus), limit=10)) == _ids(jobs)
        assert await keeper.find(JobQuery(status=[], limit=10)) == []

    async def test_find_by_key_matches_all_that_is_given(self, keeper: JobTable | JobStore) -> None:
        jobs = [make_job(client=c, idempotency_key=k) for c in ("alice", "bob") for k in ("k", "l", None)]
        await keeper.add(jobs)
        assert await keeper.find(JobQuery(client="bob", idempotency_key="l", limit=10)) == [jobs[4].id]
        assert await keeper.find(JobQuery(idempotency_key="k", after=jobs[0].id, limit=10)) == [jobs[3].id]
        assert await keeper.find(JobQuery(client="bob", idempotency_key="m", limit=10)) == []
        assert await keeper.find(JobQuery(client="bob", idempotency_key="k", status=FINISHED, limit=10)) == []

    async def test_find_by_error_finds_jobs_that_ended_with_it(self, keeper: JobTable | JobStore) -> None:
        jobs = await self.failed(keeper)
        a, b, c, d, e, _ = _ids(jobs)
        assert await keeper.find(JobQuery(container="x", limit=10)) == [a, b, d]
        assert await keeper.find(JobQuery(error="timed", limit=10)) == [a, c]
        assert await keeper.find(JobQuery(container="x", error="timed", limit=10)) == [a]
        assert await keeper.find(JobQuery(error="", limit=10)) == [a, b, c, d, e]
        assert await keeper.find(JobQuery(container="X", limit=10)) == []
        assert await keeper.find(JobQuery(container="", limit=10)) == []
        assert await keeper.find(JobQuery(status=[JobStatus.FAILED], container="x", limit=10)) == [a, b]
        assert await keeper.find(JobQuery(status=FINISHED, container="x", error="cancel", limit=10)) == [d]
        assert await keeper.find(JobQuery(status=UNFINISHED, container="x", limit=10)) == []
        assert await keeper.find(JobQuery(status=[], container="x", error="timed", limit=10)) == []
        assert await keeper.find(JobQuery(container="x", after=a, limit=1)) == [b]
        assert await keeper.find(JobQuery(client="bob", error="t", limit=10)) == [c]
        assert await keeper.find(JobQuery(client="alice", status=[JobStatus.FAILED], limit=10)) == [a, b, e]

    async def test_errors_are_looked_for_by_their_texts_as_they_are(self, keeper: JobTable | JobStore) -> None:
        for text, other in _ODD_TEXTS:
            jobs = [make_job(), make_job()]
            await keeper.add(jobs)
            for job, error in zip(jobs, (other, f"before {text} after"), strict=True):
                await self.finish(keeper, job, Outcome(JobStatus.FAILED, ContainerError(container=text, error=error)))
            assert await keeper.find(JobQuery(container=text, error=text, limit=10)) == [jobs[1].id]
            assert await keeper.find(JobQuery(container=text, limit=10)) == _ids(jobs)

    async def failed(self, keeper: JobTable | JobStore) -> list[Job]:
        """Add five jobs that fail or are cancelled, and one that succeeds."""
        ends: list[tuple[JobStatus, str, str]] = [
            (JobStatus.FAILED, "x", "timed out"),
            (JobStatus.FAILED, "x", "TIMED OUT"),
            (JobStatus.FAILED, "xx", "it timed out"),
            (JobStatus.CANCELLED, "x", "cancelled"),
            (JobStatus.FAILED, "y", "died"),
        ]
        jobs = [make_job("x", client="bob" if container == "xx" else "alice") for _, container, _ in ends]
        jobs.append(make_job("x"))
        await keeper.add(jobs)
        for job, (status, container, error) in zip(jobs, ends, strict=False):
            await self.finish(keeper, job, Outcome(status, ContainerError(container=container, error=error)))
        await self.finish(keeper, jobs[-1])
        return jobs

    async def test_delete_forgets_finished_jobs_only(self, keeper: JobTable | JobStore) -> None:
        jobs = [make_job() for _ in range(4)]
        await keeper.add(jobs)
        await self.finish(keeper, jobs[0])
        await self.finish(keeper, jobs[2])
        a, b, c, d = _ids(jobs)
        assert await keeper.delete([a, b, a, make_job().id]) == 1
        assert await keeper.find(JobQuery(limit=10)) == [b, c, d]
        assert _ids(await keeper.get([a, b, c, d])) == [b, c, d]
        assert await keeper.delete([a]) == 0
        assert await keeper.delete([]) == 0

    async def test_a_deleted_job_frees_its_idempotency_key(self, keeper: JobTable | JobStore) -> None:
        old, new = make_job(idempotency_key="k"), make_job(idempotency_key="k")
        await keeper.add([old])
        await self.finish(keeper, old)
        assert _ids(await keeper.add([new])) == [old.id]
        await keeper.delete([old.id])
        assert await keeper.add([new]) == [new]
        assert await keeper.find(JobQuery(idempotency_key="k", limit=10)) == [new.id]

    @pytest.fixture
    async def nothing_left(self) -> AsyncIterator[None]:
        """Fail the test at its end if the keeper left something behind. Request it before the keeper, so that it ends
        last."""
        async with no_leaks():
            yield

    async def test_nothing_is_left_of_one_that_was_left(self, nothing_left: None, keeper: JobTable | JobStore) -> None:
        await keeper.add([job := make_job()])
        await self.finish(keeper, job)
        assert await keeper.find(JobQuery(limit=10)) == [job.id]

    async def test_keeping_much_does_not_block_the_event_loop(self, keeper: JobTable | JobStore) -> None:
        async with unblocked_loop():
            jobs = [make_job(data={"text": "x" * 20_000}) for _ in range(300)]
            await keeper.add(jobs)
            await self.finish(keeper, jobs[0])
            await keeper.get(_ids(jobs))
            await anyio.lowlevel.checkpoint()


def _request_facts(job: Job) -> tuple[str, int, Location, Location]:
    """Return the fields of a request that are always read."""
    return job.client, job.request.priority, job.request.origin, job.request.destination


def _ids(jobs: Sequence[Job]) -> list[JobId]:
    return [job.id for job in jobs]
