"""A node that is killed: nothing that it accepted is lost, nothing that it stored is done again."""

import asyncio
import signal
import sqlite3
from collections import Counter
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, closing
from pathlib import Path

import aiohttp
import pytest
from aiohttp import web
from http_api import Api
from parts import until
from served import serve, started

from nodekit.testing import make_job, succeeded
from nodekit_sqlite import SqliteTable

pytestmark = pytest.mark.anyio

JOBS = 500
STEPS = 3
MEGABYTE = 1024 * 1024

NODE_FILE = """
[node]
concurrency = 100
drain_seconds = 5

[store]
use = "sqlite"
path = "jobs.db"

[[runners]]
use = "remote"
{containers}

[[transports]]
use = "asgi"
bind = "127.0.0.1:0"
server = "{server}"
"""


@pytest.fixture
def anyio_backend() -> str:
    return "asyncio"


class Services:
    """Containers that count their calls by idempotency key and add one to a number."""

    def __init__(self) -> None:
        self.calls: Counter[str] = Counter()
        self.urls: list[str] = []

    async def answer(self, request: web.Request) -> web.Response:
        self.calls[request.headers["Idempotency-Key"]] += 1
        data = (await request.json())["data"]
        await asyncio.sleep(0.01)
        return web.json_response({"n": data["n"] + 1})


@asynccontextmanager
async def services() -> AsyncIterator[Services]:
    all_of_them = Services()
    app = web.Application()
    app.router.add_post("/{name}/service_output", all_of_them.answer)
    runner = web.AppRunner(app, handler_cancellation=False)
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", 0).start()
    port = runner.addresses[0][1]
    all_of_them.urls = [f"http://127.0.0.1:{port}/{number}" for number in range(STEPS)]
    try:
        yield all_of_them
    finally:
        await runner.cleanup()


def node_file(folder: Path, urls: list[str], server: str = "hypercorn") -> Path:
    containers = "".join(f'[[runners.containers]]\nid = "c{n}"\nurl = "{url}"\n' for n, url in enumerate(urls))
    file = folder / "node.toml"
    file.write_text(NODE_FILE.format(containers=containers, server=server))
    return file


def stored_steps(database: Path) -> set[str]:
    """The idempotency keys of the steps whose result is in the file."""
    query = (
        "SELECT id, records.number FROM records JOIN jobs ON job = jobs.number WHERE done = 1 AND records.number > 0"
    )
    with closing(sqlite3.connect(database)) as connection:
        return {f"{id}:{number - 1}" for id, number in connection.execute(query)}


async def submit_all(api: Api) -> list[str]:
    ids: list[str] = []
    for first in range(0, JOBS, 100):
        items = [{"containers": [f"c{n}" for n in range(STEPS)], "data": {"n": first + n}} for n in range(100)]
        ids += [item["id"] for item in (await api.post("/api/jobs/batch", items)).json]
    return ids


@pytest.mark.parametrize("after_calls", [150, 900])
async def test_500_jobs_in_flight_survive_kill_9_and_no_stored_step_is_called_again(
    tmp_path: Path, after_calls: int
) -> None:
    async with services() as containers:
        file = node_file(tmp_path, containers.urls)
        async with serve(file) as (served, api):
            ids = await submit_all(api)
            assert len(set(ids)) == JOBS
            await until(lambda: containers.calls.total() >= after_calls)
            served.signal(signal.SIGKILL)
            assert await served.ended() == -signal.SIGKILL
        stored = stored_steps(tmp_path / "jobs.db")
        assert 0 < len(stored) < JOBS * STEPS
        async with serve(file) as (served, api):
            known: list[str] = []
            for first in range(0, JOBS, 100):
                query = "&".join(f"id={id}" for id in ids[first : first + 100])
                known += [job["id"] for job in (await api.get(f"/api/jobs?{query}")).json]
            assert known == ids
            jobs = await api.results(*ids)
            assert (await api.get("/api/jobs")).json == ids
            assert (await api.submit("c0", n=0)) > ids[-1]
            served.signal(signal.SIGTERM)
            assert await served.ended() == 0
    assert {job["status"] for job in jobs} == {"success"}
    assert [job["result"]["output"]["n"] for job in jobs] == [n + STEPS for n in range(JOBS)]
    assert {key: containers.calls[key] for key in stored} == dict.fromkeys(stored, 1)
    keys = {f"{id}:{step}" for id in ids for step in range(STEPS)}
    assert keys <= containers.calls.keys()
    assert max(containers.calls.values()) <= 2  # at least once; a second time only what was under way


async def test_jobs_accepted_while_the_node_is_killed_are_there_if_their_ids_were_given_out(tmp_path: Path) -> None:
    async with services() as containers:
        file = node_file(tmp_path, containers.urls)
        given: list[str] = []
        async with serve(file) as (served, api):

            async def keep_submitting() -> None:
                try:
                    while True:
                        given.append(await api.submit("c0", n=1))
                except (aiohttp.ClientError, OSError):
                    return  # the node is dead

            senders = [asyncio.create_task(keep_submitting()) for _ in range(8)]
            await until(lambda: len(given) >= 100)
            served.signal(signal.SIGKILL)
            await served.ended()
            await asyncio.gather(*senders)
        async with serve(file) as (_, api):
            jobs = await api.results(*given)
    assert [job["id"] for job in jobs] == given
    assert {job["status"] for job in jobs} == {"success"}


async def test_a_second_node_on_the_same_file_is_refused_and_harms_nothing(tmp_path: Path) -> None:
    async with services() as containers:
        file = node_file(tmp_path, containers.urls)
        async with serve(file) as (_, api):
            id = await api.submit("c0", n=1)
            async with started("serve", file, folder=tmp_path) as second:
                assert await second.ended() == 1
                assert "held by another node" in second.log
                assert "Traceback" not in second.log
            (job,) = await api.results(id)
            assert job["status"] == "success"


# -- memory -------------------------------------------------------------------------------------------


async def resident(file: Path, listed: int) -> int:
    async with serve(file) as (served, api):
        for _ in range(3):
            assert len((await api.get("/api/jobs")).json) == listed
            assert len((await api.get("/api/jobs?pending=false&limit=1000")).json) == min(listed, 1000)
            await api.get("/info")
            await api.get("/health")
        return served.resident_bytes


@pytest.mark.parametrize("server", ["hypercorn", "uvicorn"])
async def test_an_idle_node_is_small_and_does_not_grow_with_the_jobs_it_keeps(tmp_path: Path, server: str) -> None:
    file = node_file(tmp_path, [], server)
    empty = await resident(file, 0)
    count = 50_000
    async with SqliteTable(tmp_path / "jobs.db", synchronous="NORMAL") as table:
        for _ in range(0, count, 2000):
            await table.add([succeeded(make_job("c0", client="127.0.0.1", data={"n": "x" * 200})) for _ in range(2000)])
    full = await resident(file, count)
    print(f"{server}: {empty / MEGABYTE:.0f} MB with no job, {full / MEGABYTE:.0f} MB with {count}")
    assert empty < 60 * MEGABYTE
    assert full < empty + 12 * MEGABYTE


@pytest.mark.parametrize("server", ["hypercorn", "uvicorn"])
@pytest.mark.parametrize("framing", ["Content-Length: 209715200", "Transfer-Encoding: chunked"])
async def test_200_megabytes_are_413_and_leave_memory_as_it_was(tmp_path: Path, server: str, framing: str) -> None:
    file = node_file(tmp_path, [], server)
    piece = b"x" * MEGABYTE
    framed = piece if framing.startswith("Content") else b"%x\r\n%s\r\n" % (len(piece), piece)
    async with serve(file) as (served, api):
        await api.get("/info")
        before = most = served.resident_bytes
        for _ in range(2):
            async with api.raw() as connection:
                head = f"POST /api/jobs HTTP/1.1\r\nHost: localhost\r\n{framing}\r\n\r\n"
                await connection.send(head.encode() + framed)
                try:
                    for _ in range(199):
                        await connection.send(framed)
                        most = max(most, served.resident_bytes)
                except ConnectionError:
                    pass  # it may stop listening; the reply is there all the same
                answer = await connection.answer()
                assert (answer.status, bool(answer.error)) == (413, True)
        assert (await api.get("/health")).status == 200
        assert most < before + 80 * MEGABYTE  # the body that is let in is 16 MiB, in pieces and then whole
