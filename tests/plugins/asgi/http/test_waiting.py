"""Replies that wait for jobs: `Prefer: wait=N` when submitting, `wait=N` when asking."""

import asyncio
import gc
import weakref
from collections.abc import Callable
from typing import Any

import aiohttp
import pytest
from components import SpiedStore, until
from connections import Http2, Traced, accepted, ask, leave, opened_while_it_drains, reset, waiters
from http_api import Answer, Api, RawConnection, both_servers, post, serving

from nodekit import Job, JobRequest

pytestmark = pytest.mark.anyio

GATE = {"containers": ["gate"], "data": {"n": 1}}


async def test_a_wait_is_cut_to_what_the_node_allows_and_the_reply_says_so(server: str) -> None:
    async with serving(server, max_wait_seconds=1) as api:
        answer = await api.post("/api/jobs", GATE, headers={"Prefer": "wait=5000000"})
        assert (answer.status, answer.headers["Preference-Applied"]) == (202, "wait=1")
        path = f"/api/jobs?id={answer.json['id']}&wait="
        answers = await asyncio.gather(
            *(api.get(path + seconds) for seconds in ("9" * 400 + ".5", "1.5e%2B308", "1E9999", "1e-7"))
        )
        assert [answer.json[0]["status"] for answer in answers] == ["running"] * 4


async def test_a_store_that_fails_while_a_client_waits_does_not_keep_the_id_from_it(server: str) -> None:
    store = SpiedStore()
    async with serving(server, node={"store": store}) as api:
        id = await api.submit("gate")
        store.failures["get"] = 99
        answer = await api.post("/api/jobs", GATE, headers={"Prefer": "wait=30"})
        assert (answer.status, set(answer.json)) == (202, {"id"})
        assert (await api.get(f"/api/jobs?id={id}&wait=30")).status == 503


async def test_nobody_waits_for_what_is_there_or_will_never_be(api: Api, monkeypatch: pytest.MonkeyPatch) -> None:
    async def wait(*given: Any, **more: Any) -> Any:
        raise AssertionError("it waits")

    finished, running = await api.submit("fail"), await api.submit("gate")
    await api.results(finished)
    monkeypatch.setattr(api.node, "wait", wait)
    assert (await api.get(f"/api/jobs?id={finished}&wait=60")).json[0]["status"] == "failed"
    for nothing in ("0", "0.0", "00"):
        assert (await api.get(f"/api/jobs?id={running}&wait={nothing}")).json[0]["status"] == "running"
    assert (await api.get("/api/jobs?id=01900000-0000-7000-8000-000000000000&id=x&wait=60")).status == 404
    async with api.as_other_client() as other:
        assert (await other.get(f"/api/jobs?id={running}&wait=60")).status == 404
    assert (await api.get("/api/jobs?pending=true&wait=60")).json == [running]


@both_servers
async def test_a_body_where_none_belongs_is_read_within_its_limits(server: str) -> None:
    async with serving(server, max_body_bytes=100) as api:
        id = await api.submit("gate")
        for size, status in ((100, 200), (101, 413)):
            answer = await api.call("GET", f"/api/jobs?id={id}&wait=0.01", data=b"x" * size)
            assert answer.status == status


# -- clients that go ----------------------------------------------------------------------------------


@both_servers
@pytest.mark.parametrize("go", [leave, reset])
@pytest.mark.parametrize("method", ["POST", "GET"])
async def test_a_client_that_goes_waits_no_longer_and_holds_nothing(
    api: Api, method: str, go: Callable[[RawConnection], None]
) -> None:
    id = await api.submit("gate")
    before = accepted(api.address[1])
    data = post(b'{"containers":["gate"],"data":{}}', "Prefer: wait=60")
    data = data if method == "POST" else ask(f"/api/jobs?id={id}&wait=60")
    for _ in range(5):
        async with api.raw() as connection:
            await connection.send(data)
            await until(lambda: waiters(api) == 1)
            assert accepted(api.address[1]) == before + 1
            go(connection)
            await until(lambda: waiters(api) == 0)
            await until(lambda: accepted(api.address[1]) == before)
    api.gate.opened.set()
    ids = (await api.get("/api/jobs")).json
    assert len(ids) == (6 if method == "POST" else 1)
    assert {job["status"] for job in await api.results(*ids)} == {"success"}


@both_servers
async def test_what_one_client_leaves_behind_ends_no_other_wait(api: Api) -> None:
    id = await api.submit("gate")
    stays = asyncio.create_task(api.get(f"/api/jobs?id={id}&wait=60"))
    async with api.raw() as connection:
        await connection.send(ask(f"/api/jobs?id={id}&wait=60"))
        await until(lambda: waiters(api) == 2)
    await until(lambda: waiters(api) == 1)
    api.gate.opened.set()
    assert (await stays).json[0]["status"] == "success"


@both_servers
async def test_after_a_wait_the_connection_goes_on(api: Api) -> None:
    id = await api.submit("gate")
    async with api.raw() as connection:
        for _ in range(3):
            await connection.send(ask(f"/api/jobs?id={id}&wait=0.05"))
            assert (await connection.answer()).status == 200
        await connection.send(post(b'{"containers":["echo"],"data":{}}', "Prefer: wait=30"))
        assert (await connection.answer()).json["status"] == "success"
        await connection.send(ask(f"/api/jobs?id={id}&wait=0.05") + ask("/info"))
        assert (await connection.answer()).json[0]["status"] == "running"
        assert "version" in (await connection.answer()).json


@pytest.mark.parametrize("go", ["reset", "goaway", "close"])
async def test_a_stream_of_http_2_that_ends_waits_no_longer(api2: Api, go: str) -> None:
    id = await api2.submit("gate")
    async with api2.raw() as connection:
        client = Http2(connection)
        for stream in (1, 3):
            await client.request(stream, "GET", f"/api/jobs?id={id}&wait=60")
        await until(lambda: waiters(api2) == 2)
        if go == "reset":
            client.reset_stream(1)
            await client.flush()
            await until(lambda: waiters(api2) == 1)
            api2.gate.opened.set()
            assert await client.replied() == (3, "200")
            return
        if go == "goaway":
            client.close_connection()
            await client.flush()
        leave(connection)
        await until(lambda: waiters(api2) == 0)


@pytest.mark.parametrize("method", ["POST", "GET"])
async def test_who_waits_keeps_no_job_in_memory(api: Api, monkeypatch: pytest.MonkeyPatch, method: str) -> None:
    id = await api.submit("gate")
    traces: list[weakref.ref[Traced]] = []
    left: list[object] = []

    def job() -> Job:
        traces.append(weakref.ref(container := Traced("gate")))
        return Job(id=id, request=JobRequest.of(container, data={}), accepted_at=0)

    async def submit(request: JobRequest) -> Job:
        return job()

    async def fetch(ids: Any, **more: Any) -> list[Job]:
        return [job()]

    async def wait(ids: Any, **more: Any) -> list[Job]:
        gc.collect()
        left.extend(trace() for trace in traces)
        return []

    for replaced in (submit, fetch, wait):
        monkeypatch.setattr(api.node, replaced.__name__, replaced)
    if method == "POST":
        await api.post("/api/jobs", GATE, headers={"Prefer": "wait=60"})
    else:
        await api.get(f"/api/jobs?id={id}&wait=60")
    assert left == [None]


# -- nodes that go ------------------------------------------------------------------------------------


async def asked_while_it_ends(
    server: str, *, drain_seconds: float, then: Callable[[Api], "asyncio.Task[None]"] | None = None
) -> tuple[Answer, Answer]:
    """Submit a job and wait for it while the node drains; return both answers."""
    async with aiohttp.ClientSession() as session:
        async with serving(server, node={"drain_seconds": drain_seconds}) as served:
            api = Api(served.url, session, served.node, served.gate)
            id = await api.submit("gate")
            submitted = asyncio.create_task(api.post("/api/jobs", GATE, headers={"Prefer": "wait=60"}))
            asked = asyncio.create_task(api.get(f"/api/jobs?id={id}&wait=60"))
            await until(lambda: waiters(api) == 2 and api.gate.running == 2)
            task = then(api) if then else None
        if task is not None:
            await task
        return await submitted, await asked


@both_servers
async def test_who_waits_for_a_job_that_a_stopping_node_gives_back_gets_what_is_known(server: str) -> None:
    submitted, asked = await asked_while_it_ends(server, drain_seconds=0)
    assert (submitted.status, set(submitted.json)) == (202, {"id"})
    assert submitted.headers["Preference-Applied"] == "wait=60"
    assert (asked.status, asked.json[0]["status"]) == (200, "running")


@both_servers
async def test_who_waits_while_a_node_drains_gets_the_result(server: str) -> None:
    submitted, asked = await asked_while_it_ends(server, drain_seconds=30, then=opened_while_it_drains)
    assert (submitted.status, submitted.json["status"]) == (200, "success")
    assert (asked.status, asked.json[0]["status"]) == (200, "success")
