"""Damage of the file of the store `sqlite`: it fails the jobs that it hit; no answer differs from what was stored."""

import os
import shutil
import sqlite3
from collections.abc import Awaitable, Callable, Sequence
from contextlib import closing
from pathlib import Path
from random import Random
from typing import Any, NamedTuple

import pytest
from chance import SEED, each_run
from components import echo, functions, until_is
from damage import PAGE, Damage
from msgspec.structs import replace

from nodekit import (
    UNFINISHED,
    UNSUCCESSFUL,
    ContainerError,
    EmbeddedStore,
    Job,
    JobFields,
    JobFinished,
    JobQuery,
    JobStatus,
    Location,
    Node,
    NodeLimits,
    Outcome,
    Refusal,
    StoreFailed,
)
from nodekit.testing import make_job, make_node, make_request, with_output
from nodekit_sqlite import SqliteStore, SqliteTable
from nodekit_sqlite._damage import CURE, DAMAGED

pytestmark = pytest.mark.anyio

FAILED = Outcome(JobStatus.FAILED, ContainerError(container="echo", error="no"))


@pytest.fixture
def anyio_backend() -> str:
    return "asyncio"


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "jobs.db"


def store(path: Path) -> SqliteStore:
    return SqliteStore(path, synchronous="NORMAL", min_free_bytes=0)


def is_damaged(job: Job) -> bool:
    return job.status is JobStatus.FAILED and job.error is not None and job.error.error == DAMAGED


def write(path: Path, statement: str, *values: Any) -> None:
    """Change the file without its checksums."""
    with closing(sqlite3.connect(path, isolation_level=None)) as connection:
        assert connection.execute(statement, values).rowcount > 0


def zero_page(path: Path, content: bytes) -> None:
    """Overwrite the page that has some content."""
    data = path.read_bytes()
    assert content in data
    with path.open("r+b") as file:
        file.seek(data.index(content) // PAGE * PAGE)
        file.write(bytes(PAGE))


OF_JOB = "place >> 24 = (SELECT number FROM jobs WHERE id = ?)"
RECORD = f"UPDATE records SET body = CAST(replace(body, 'x', 'y') AS BLOB) WHERE place & 7 = 0 AND {OF_JOB}"
RESULT = f"UPDATE records SET body = CAST(replace(body, 'o', 'p') AS BLOB) WHERE place & 7 = 1 AND {OF_JOB}"


# -- any damage ----------------------------------------------------------------------------------


def retry_of(old: Job) -> Job:
    request = old.request.again(address=None, priority=None, idempotency_key=None, body_digest=None)
    return replace(replace(make_job(), request=request).retrying(old, "failed"), due="echo")


async def fill(path: Path) -> Sequence[Job]:
    """Write jobs of three clients in every state, small and large, some of them retries that share payloads."""
    jobs: list[Job] = []
    chance = Random(3)
    async with SqliteTable(path, synchronous="NORMAL") as table:
        for n in range(120):
            data = {"n": n, "x": "y" * chance.choice([10, 300, 3_000, 20_000])}
            job = make_job("echo", "echo", data=data, client=chance.choice(["alice", "bob", "carol"]))
            await table.add([job])
            for size in (10, 500, 9000)[: n % 3]:
                await table.save(job := with_output(job, "o" * size))
            if n % 4:
                end = FAILED if n % 4 == 1 else Outcome(JobStatus.SUCCESS)
                await table.save(job := replace(job.finished(end, 17.0), finish_number=1000 + n))
            jobs.append(job)
            if job.status is JobStatus.FAILED and job.steps:
                await table.add([again := retry_of(job)])
                jobs.append(again)
        await table.storage("a").put("k", b"v" * 100)
    return jobs


class Filled(NamedTuple):
    path: Path
    jobs: Sequence[Job]


@pytest.fixture(scope="module")
def filled(tmp_path_factory: pytest.TempPathFactory) -> Filled:
    import anyio  # this fixture is not of one test's loop

    path = tmp_path_factory.mktemp("filled") / "jobs.db"
    return Filled(path, anyio.run(fill, path))


QUERIES = (
    JobQuery(),
    JobQuery(client="alice", order="newest"),
    JobQuery(order="finished"),
    JobQuery(client="bob", order="finished", status=[JobStatus.SUCCESS]),
    JobQuery(status=UNFINISHED),
    JobQuery(status=UNSUCCESSFUL, container="echo", error="n"),
)


@pytest.mark.parametrize("seed", range(SEED, SEED + each_run(12, 200)))
async def test_no_answer_differs_from_what_was_stored_whatever_is_damaged(
    filled: Filled, path: Path, seed: int
) -> None:
    shutil.copy(filled.path, path)
    Damage(path, Random(seed))
    table = SqliteTable(path, synchronous="NORMAL")
    try:
        await table.__aenter__()
    except StoreFailed as error:
        assert "database" in str(error) or CURE in str(error)  # noqa: PT017 - it need not be raised
        return
    try:
        lists = await check_answers(table, filled.jobs)
        if not table.damages.problems():
            assert lists == [query.choose(filled.jobs) for query in QUERIES]
            assert [one.id for one in await table.unfinished()] == [j.id for j in filled.jobs if not j.status.finished]
        await all_the_same(lambda: table.add([make_job()]))
        finished = [job.id for job in filled.jobs if job.status.finished]
        await all_the_same(lambda: table.delete(finished))
    finally:
        await table.__aexit__(None, None, None)


async def check_answers(table: SqliteTable, jobs: Sequence[Job]) -> list[list[str]]:
    """Check that each job is as it was stored, or is damaged. Return the answers to `QUERIES`."""
    ids, missing = [job.id for job in jobs], 0
    for client in (None, "alice"):
        found = {job.id: job for job in await table.get(ids, client=client)}
        for job in jobs:
            if job.id in found and not is_damaged(found[job.id]):
                assert found[job.id] == job
                assert client in (None, job.client)
            missing += job.id not in found and client in (None, job.client)
    for job in await table.get(ids, fields=JobFields.STATE):
        known = jobs[ids.index(job.id)]
        assert is_damaged(job) or (job.status, job.outcome, job.due) == (known.status, known.outcome, known.due)
    for id, size in (await table.sizes(ids)).items():
        assert size in (0, jobs[ids.index(id)].payload_bytes)
    for job in jobs[:20]:
        steps = await all_the_same(lambda job=job: table.steps(job.id, 0, 1 << 30))
        assert steps is None or tuple(steps) == job.steps or missing
    record = await all_the_same(lambda: table.storage("a").get("k"))
    assert record is None or record.value == b"v" * 100
    lists = [await all_the_same(lambda query=query: table.find(query)) or [] for query in QUERIES]
    assert not missing or table.damages.problems(), "a job is missing, and nobody says why"
    return lists


async def all_the_same(call: Callable[[], Awaitable[Any]]) -> Any:
    """Return an answer, or None if there is none because of the damage."""
    try:
        return await call()
    except StoreFailed as error:
        assert str(error)  # noqa: PT017 - it need not be raised
        return None


# -- one damaged job among others ----------------------------------------------------------------


async def left_behind(path: Path, *data: str, **fields: Any) -> list[Job]:
    """Write jobs that nobody has run yet."""
    jobs = [make_job("echo", data={"text": text}, **fields) for text in data]
    async with SqliteTable(path) as table:
        await table.add(jobs)
    return jobs


async def count(found: Sequence[object]) -> int:
    return len(found)


@pytest.mark.parametrize(
    "damage",
    [
        pytest.param(lambda path, job: write(path, RECORD, job.id), id="data"),
        pytest.param(lambda path, job: write(path, f"DELETE FROM records WHERE {OF_JOB}", job.id), id="no data"),
        pytest.param(lambda path, job: write(path, "UPDATE jobs SET state = '{}' WHERE id = ?", job.id), id="state"),
        pytest.param(lambda path, job: write(path, "UPDATE jobs SET size = 'x' WHERE id = ?", job.id), id="size"),
        pytest.param(
            lambda path, job: write(path, "UPDATE jobs SET request = x'ff' WHERE id = ?", job.id), id="request"
        ),
        pytest.param(
            lambda path, job: write(path, "UPDATE jobs SET client = CAST(x'ff' AS TEXT) WHERE id = ?", job.id),
            id="client",
        ),
        pytest.param(
            lambda path, job: write(
                path, "UPDATE jobs SET request = CAST(replace(request, 'echo', 'fail') AS BLOB) WHERE id = ?", job.id
            ),
            id="another request",
        ),
        pytest.param(lambda path, job: zero_page(path, b"x" * 3000), id="page"),
    ],
)
async def test_a_damaged_job_fails_with_a_text_and_others_run(path: Path, damage: Callable[[Path, Job], None]) -> None:
    one, bad, other = jobs = await left_behind(path, "one", "x" * 9000, "other")
    damage(path, bad)
    ended: list[Job] = []

    class Observer:
        def nodekit_observe(self, event: object) -> None:
            if isinstance(event, JobFinished):
                ended.append(event.job)

    async with make_node(store=store(path), plugins=[Observer()]) as node:
        found = await node.wait([job.id for job in jobs])
        assert [job.status for job in found] == ["success", "failed", "success"]
        assert is_damaged(found[1])
        health = await node.health()
        assert health.healthy
        assert f"1 job is damaged in the store and failed ({bad.id}); {CURE}" in " ".join(health.reasons)
        assert (await node.pending()).total == 0
        await until_is(lambda: count(ended), 3)  # the end of the damaged one is found beside those of the others
    assert sorted(job.id for job in ended) == sorted([one.id, bad.id, other.id])
    async with make_node(store=store(path)) as node:  # its end was stored
        assert await node.find(JobQuery(status=UNFINISHED)) == []
        assert is_damaged((await node.fetch([bad.id]))[0])
        assert await node.delete([bad.id]) == 1


async def test_a_damaged_stream_and_a_damaged_job_that_is_cancelled_end_as_well(path: Path) -> None:
    request = make_request(data={"text": "x" * 100})
    streamed = replace(make_job(), request=replace(request, destination=Location.STREAM), due="echo")
    waiting = replace(make_job(), request=make_request("down", data={"text": "xx"}), due="down")
    async with SqliteTable(path) as table:
        await table.add([streamed, waiting])
    for job in (streamed, waiting):
        write(path, RECORD, job.id)
    async with make_node(store=store(path)) as node:
        assert await node.cancel(waiting.id)
        assert all(map(is_damaged, await node.wait([streamed.id, waiting.id])))
        assert (await node.pending()).total == 0
        assert await node.find(JobQuery(status=UNFINISHED)) == []


async def finished(path: Path, **fields: Any) -> list[Job]:
    """Run three jobs to their end."""
    async with make_node(store=store(path)) as node:
        requests = [make_request(data={"text": text}, **fields) for text in ("one o", "xo" * 1000, "other o")]
        ids = [(await node.submit(request)).id for request in requests]
        return await node.wait(ids)


@pytest.mark.parametrize(
    "damage",
    [
        pytest.param(lambda path, job: write(path, RESULT, job.id), id="result"),
        pytest.param(lambda path, job: write(path, "UPDATE jobs SET status = 'failed' WHERE id = ?", job.id), id="row"),
        pytest.param(
            lambda path, job: write(path, f"DELETE FROM records WHERE place & 7 = 1 AND {OF_JOB}", job.id),
            id="no result",
        ),
        pytest.param(
            lambda path, job: write(path, "UPDATE jobs SET client = 'mallory' WHERE id = ?", job.id), id="client"
        ),
    ],
)
async def test_a_damaged_result_is_a_failure_and_others_are_read_listed_and_deleted(
    path: Path, damage: Callable[[Path, Job], None]
) -> None:
    one, bad, other = await finished(path)
    ids = [one.id, bad.id, other.id]
    damage(path, bad)
    async with make_node(store=store(path)) as node:
        found = await node.fetch(ids, client=one.client)
        assert [found[0], found[2]] == [one, other]
        assert is_damaged(found[1])
        assert await node.find(JobQuery(order="finished")) == ids
        assert (await node.page(JobQuery(limit=10))).ids == ids
        assert set(await node.sizes(ids)) == {*ids}
        async with SqliteStore(path).view() as view:
            assert [job.id for job in await view.get(ids, fields=JobFields.STATE)] == ids
    assert await store(path).compact() >= 0
    async with make_node(store=store(path), limits=NodeLimits(keep_finished_jobs=1)) as node:
        await until_is(lambda: node.find(JobQuery()), [other.id])
        async with SqliteStore(path).view() as view:
            assert await view.expire(finished_before=None, keep=0, limit=100) == 1


async def test_others_learn_nothing_of_a_damaged_job(path: Path) -> None:
    _, bad, _ = await finished(path, client="alice")
    write(path, RESULT, bad.id)
    async with make_node(store=store(path)) as node:
        assert await node.fetch([bad.id], client="mallory") == []
        (job,) = await node.fetch([bad.id], client="alice")
        assert "xo" not in repr(job.error)


async def test_records_that_are_swapped_are_found(path: Path) -> None:
    one, other = await left_behind(path, "one", "other")
    write(path, "UPDATE records SET place = -place")
    write(path, "UPDATE records SET place = (SELECT sum(number) << 24 FROM jobs) + place")
    async with SqliteTable(path) as table:
        assert [*map(is_damaged, await table.get([one.id, other.id]))] == [True, True]


async def test_a_body_that_a_retry_shares_is_checked_too(path: Path) -> None:
    old = with_output(make_job("echo", "echo", data={"text": "x" * 100}), "o" * 100).finished(FAILED, 17.0)
    again = retry_of(old)
    async with SqliteTable(path) as table:
        await table.add([old, again])
    write(path, RESULT, old.id)
    async with SqliteTable(path) as table:
        assert [*map(is_damaged, await table.get([old.id, again.id]))] == [True, True]
        with pytest.raises(StoreFailed, match="damaged"):
            await table.steps(again.id, 0, 1 << 20)
        assert not any(map(is_damaged, await table.get([old.id, again.id], fields=JobFields.STATE)))


async def test_a_damaged_job_is_retried_only_with_its_own_data(path: Path) -> None:
    _, bad, worse = await finished(path)
    write(path, RESULT, bad.id)
    write(path, f"UPDATE records SET body = x'00' WHERE place & 7 = 0 AND {OF_JOB}", worse.id)
    async with make_node(store=store(path)) as node:
        again = await node.retry(bad.id)
        assert again is not None
        [ended] = await node.wait([again.id])
        assert ended.request.data == bad.request.data
        assert ended.status is JobStatus.SUCCESS
        with pytest.raises(Refusal):
            await node.retry(worse.id)


async def test_a_record_of_a_plugin_that_is_damaged_is_not_given_to_it(path: Path) -> None:
    async with SqliteTable(path) as table:
        await table.storage("a").put("k", b"value")
        await table.storage("a").put("l", b"other")
    write(path, "UPDATE plugin_records SET value = x'00' WHERE key = 'k'")
    async with SqliteTable(path) as table:
        records = table.storage("a")
        with pytest.raises(StoreFailed, match="'k' of 'a' is damaged"):
            await records.get("k")
        with pytest.raises(StoreFailed, match="'k' of 'a' is damaged"):
            await records.scan()
        assert (await records.get("l")).value == b"other"  # type: ignore[union-attr]
        await records.put("k", b"new")
        for _ in range(10):  # in each of the threads that read
            assert len(await records.scan()) == 2


async def test_a_damaged_number_of_the_newest_job_is_not_built_upon(path: Path) -> None:
    await left_behind(path, "one")
    write(path, "UPDATE sqlite_sequence SET seq = 1 << 61 WHERE name = 'jobs'")
    async with SqliteTable(path) as table:
        with pytest.raises(StoreFailed, match=r"number of the newest job is damaged; restore a backup"):
            await table.add([make_job()])


async def test_a_read_that_fails_leaves_none_in_the_past(path: Path) -> None:
    """A statement that is cut short would keep its connection in an old transaction."""
    one, bad = await left_behind(path, "one", "two")
    async with SqliteTable(path) as table:
        await table.save(with_output(bad, "o" * 100))
    write(path, RESULT, bad.id)
    failed: list[StoreFailed] = []  # their tracebacks hold what they came through
    async with SqliteTable(path) as table:
        for _ in range(10):
            try:
                await table.steps(bad.id, 0, 1 << 20)
            except StoreFailed as error:
                failed.append(error)
            await table.get([one.id, bad.id])
        assert len(failed) == 10
        await table.save(newer := with_output(one))
        for _ in range(10):
            assert await table.get([one.id]) == [newer]


def rows_of(path: Path, job: Job) -> tuple[list[int], list[int]]:
    """Return the places in the file where the id of a job stands in its row, and where it stands in indexes."""
    data, id = path.read_bytes(), job.id.encode()
    places = [at for at in range(len(data)) if data.startswith(id, at)]
    in_row = [at for at in places if data.startswith(id + job.client.encode(), at)]
    return in_row, [at for at in places if at not in in_row]


async def test_indexes_that_are_damaged_are_built_anew(path: Path, caplog: pytest.LogCaptureFixture) -> None:
    jobs = await left_behind(path, *(f"text {n}" for n in range(300)))
    for job in jobs[::50]:
        _, places = rows_of(path, job)
        assert places
        with path.open("r+b") as file:
            for at in places:
                file.seek(at)
                file.write(b"9")
    async with SqliteTable(path) as table:
        assert await table.get([job.id for job in jobs]) == jobs
        assert await table.find(JobQuery()) == [job.id for job in jobs]
        assert [one.id for one in await table.unfinished()] == [job.id for job in jobs]
    assert "built anew" in caplog.text


async def test_a_file_in_which_no_job_could_be_finished_is_refused_with_the_part_and_the_cure(path: Path) -> None:
    """A node on it would accept jobs, and whoever waits for them would wait for ever."""
    async with SqliteTable(path) as table:
        await table.add([replace(make_job().finished(FAILED, 17.0), finish_number=n + 1) for n in range(100)])
        await table.add([make_job() for _ in range(10)])
    with closing(sqlite3.connect(path)) as connection:
        parts = "SELECT name, rootpage, type FROM sqlite_master WHERE type = 'index' AND tbl_name = 'jobs'"
        found = connection.execute(f"{parts} OR name IN ('usage', 'sqlite_sequence')").fetchall()
    assert len(found) > 6
    whole = path.read_bytes()
    for name, page, kind in found:
        path.write_bytes(whole)
        with path.open("r+b") as file:
            file.seek((page - 1) * PAGE)
            file.write(bytes(byte ^ 0x55 for byte in whole[(page - 1) * PAGE : page * PAGE]))
        with pytest.raises(StoreFailed) as raised:
            await SqliteTable(path).__aenter__()
        assert f"the {kind} `{name}` of the database is damaged" in str(raised.value)
        assert CURE in str(raised.value)


async def test_jobs_are_found_and_deleted_although_a_page_of_the_table_cannot_be_read(path: Path) -> None:
    jobs = [replace(make_job().finished(FAILED, 17.0), finish_number=n + 1) for n in range(300)]
    async with SqliteTable(path) as table:
        await table.add(jobs)
    (at, *_), _ = rows_of(path, jobs[150])
    with path.open("r+b") as file:
        file.seek(at // PAGE * PAGE)
        file.write(bytes(PAGE))
    ids = [job.id for job in jobs]
    async with SqliteTable(path) as table:
        assert await table.find(JobQuery(error="no")) == ids, "those on the page, too: reading them says what they are"
        read = await table.get(ids)
        damaged = sum(map(is_damaged, read))
        assert 0 < damaged < 50
        assert len(read) == 300
        found = await table.find(JobQuery(order="finished", status=UNSUCCESSFUL))
        assert len(found) == 300 - damaged
        assert await table.delete(found) > 240, "all but neighbours of the page, which SQLite has to change with it"
        assert await table.add([new := make_job()]) == [new]


async def test_a_job_that_cannot_be_deleted_stays_and_others_are_deleted(path: Path) -> None:
    jobs = [make_job(data=text * 9000).finished(FAILED, 17.0) for text in "axb"]
    async with SqliteTable(path) as table:
        await table.add(jobs)
    zero_page(path, b"x" * 3000)
    async with SqliteTable(path) as table:
        assert await table.delete([job.id for job in jobs]) in (2, 3)
        assert [job.id for job in await table.get([jobs[0].id, jobs[2].id])] == []


async def test_a_job_that_is_not_in_the_file_any_more_holds_up_nothing(path: Path) -> None:
    """The file does not have it, and the node has it in its queue: it ends there, so that nobody waits for it."""

    class Forgetful(SqliteTable):
        async def get(self, ids: Sequence[str], **options: Any) -> list[Job]:
            return [job for job in await super().get(ids, **options) if job.id != gone.id]

    gone, other = await left_behind(path, "gone", "other")
    async with make_node(store=EmbeddedStore(Forgetful(path)), runners=[functions(echo=echo)]) as node:
        await node.wait([gone.id, other.id])
        await until_is(lambda: pending(node), 0)
        assert (await node.fetch([other.id]))[0].status is JobStatus.SUCCESS


async def pending(node: Node) -> int:
    return (await node.pending()).total


async def test_a_file_in_which_nothing_can_be_read_is_refused_with_a_cure(path: Path) -> None:
    await left_behind(path, "one")
    with path.open("r+b") as file:
        file.seek(PAGE)
        file.write(os.urandom(path.stat().st_size - PAGE))
    with pytest.raises(StoreFailed, match="malformed; restore a backup"):
        await SqliteTable(path).__aenter__()
    with pytest.raises(StoreFailed, match="restore a backup"):
        await SqliteStore(path).compact()
