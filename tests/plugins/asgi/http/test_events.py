"""`GET /api/jobs/{id}/events`: the events of a job, sent as they happen."""

import asyncio
import gc
import io
import logging
import re
import tracemalloc
import weakref
from collections.abc import AsyncGenerator, AsyncIterator, Callable
from contextlib import asynccontextmanager
from typing import Any

import aiohttp
import anyio
import pytest
from components import Gate, SpiedStore, SwitchRunner, functions, settle_down, until
from connections import Http2, Traced, accepted, ask, leave, opened_while_it_drains, reset, waiters
from http_api import Api, RawConnection, both_servers, serving
from msgspec.structs import replace

from nodekit import Budget, Container, ContainerOutput, EmbeddedStore, Job, Step
from nodekit.testing.contracts.transports.http_jobs import SentEvent, sent_events
from nodekit_asgi import Limits
from nodekit_asgi.api.job_events import PIECE_BYTES
from nodekit_asgi.http import replies as _http
from nodekit_asgi.http import sending
from nodekit_asgi.http.messages import Disconnected, Reply, Request
from nodekit_asgi.http.replies import send_reply
from nodekit_memory import MemoryTable

pytestmark = pytest.mark.anyio


class Events:
    """The events of one stream, as they come."""

    def __init__(self, response: aiohttp.ClientResponse) -> None:
        self.status = response.status
        self._pieces, self._text, self._taken = response.content.iter_any(), b"", 0

    @property
    def comments(self) -> int:
        return self._text.count(b"\n:")

    async def next(self) -> SentEvent | None:
        """Return the next event, or None if the stream has ended properly."""
        with anyio.fail_after(20):
            while len(found := sent_events(self._text.decode(errors="replace"))) == self._taken:
                if not (piece := await anext(self._pieces, b"")):
                    assert self._text.endswith(b"\n\n")
                    return None
                self._text += piece
        self._taken += 1
        return found[self._taken - 1]

    async def rest(self) -> list[SentEvent]:
        found = []
        while (event := await self.next()) is not None:
            found.append(event)
        return found


@asynccontextmanager
async def events(api: Api, id: str, last: str | None = None) -> AsyncIterator[Events]:
    """Open the stream of a job's events."""
    headers = {} if last is None else {"Last-Event-ID": last}
    async with api.session.get(f"{api.url}/api/jobs/{id}/events", headers=headers) as response:
        yield Events(response)


async def all_events(api: Api, id: str, last: str | None = None) -> list[SentEvent]:
    async with events(api, id, last) as stream:
        return await stream.rest()


def named(told: list[SentEvent]) -> list[str]:
    return [event.name for event in told]


# -- what is told -------------------------------------------------------------------------------------


async def test_a_cancelled_job_tells_no_step_for_what_was_given_up(api: Api) -> None:
    id = await api.submit("echo", "gate")
    async with events(api, id) as stream:
        assert [await stream.next(), await stream.next()]
        job = (await api.call("DELETE", f"/api/jobs/{id}")).json
        (last,) = await stream.rest()
        assert (last.name, last.json) == ("finished", job)
        assert job["result"] == {"container": "gate", "error": "cancelled"}


async def test_data_is_split_at_every_newline_that_the_format_knows(server: str) -> None:
    payload = b'{"a":\r\n\r\n[1.50,\r"x\\r\\n\xe2\x80\xa8 \xc2\x85",\n\n\r 2] \r}'

    async def run(step: Step) -> ContainerOutput:
        return ContainerOutput(container=step.container, output=step.input.data)

    async with serving(server, runners=[SwitchRunner(Container(id="raw"), run=run)]) as api:
        id = (await api.post("/api/jobs", b'{"containers":["raw"],"data":' + payload + b"}")).json["id"]
        told = await all_events(api, id)
        assert named(told) == ["accepted", "step", "finished"]
        assert told[1].data.count("\n") == 7
        assert told[1].json == {"container": "raw", "output": {"a": [1.5, "x\r\n\u2028 \x85", 2]}}
        assert "1.50" in told[1].data
        assert told[2].json == (await api.get(f"/api/jobs?id={id}")).json[0]


# -- coming back --------------------------------------------------------------------------------------


async def test_a_client_that_comes_back_before_there_is_news_waits_for_it(api: Api) -> None:
    id = await api.submit("echo", "gate")
    async with events(api, id) as stream:
        await stream.next()
        last = await stream.next()
        assert last is not None
    async with events(api, id, last.id) as stream:
        assert stream.status == 200
        api.gate.opened.set()
        assert named(await stream.rest()) == ["step", "finished"]


# -- clients that go, and such as stay ----------------------------------------------------------------


@both_servers
@pytest.mark.parametrize("go", [leave, reset])
async def test_a_client_that_goes_is_noticed_at_once_and_leaves_nothing_behind(
    api: Api, go: Callable[[RawConnection], None]
) -> None:
    id = await api.submit("echo", "gate")
    before = accepted(api.address[1])
    for _ in range(5):
        async with api.raw() as connection:
            await connection.send(ask(f"/api/jobs/{id}/events"))
            await connection.reader.readuntil(b"event: step")
            assert (waiters(api), accepted(api.address[1])) == (1, before + 1)
            go(connection)
            await until(lambda: waiters(api) == 0)
            await until(lambda: accepted(api.address[1]) == before)
    api.gate.opened.set()
    (job,) = await api.results(id)
    assert job["status"] == "success"


@both_servers
@pytest.mark.parametrize("go", [leave, reset])
async def test_a_client_that_goes_without_having_read_what_it_was_sent_leaves_nothing_behind_either(
    api: Api, go: Callable[[RawConnection], None]
) -> None:
    body = b'{"containers":["echo","gate"],"data":{"text":"%s"}}' % (b"x" * 8_000_000)
    id = (await api.call("POST", "/api/jobs", data=io.BytesIO(body))).json["id"]
    await until(lambda: api.gate.running)
    before = accepted(api.address[1])
    async with api.raw() as connection:
        connection.reader._transport.pause_reading()  # type: ignore[attr-defined]
        await connection.send(ask(f"/api/jobs/{id}/events"))
        await until(lambda: waiters(api) == 1)
        await settle_down()
        go(connection)
        await until(lambda: waiters(api) == 0)
        await until(lambda: accepted(api.address[1]) == before)


async def test_what_a_reply_is_made_from_is_closed_with_it() -> None:
    gone, closed = anyio.Event(), anyio.Event()

    async def pieces() -> AsyncGenerator[bytes, None]:
        try:
            yield b"x"
        finally:
            closed.set()

    async def receive() -> dict[str, Any]:
        await gone.wait()
        return {"type": "http.disconnect"}

    async def send(message: dict[str, Any]) -> None:
        if message["type"] == "http.response.body":
            gone.set()
            await anyio.sleep_forever()

    held = pieces()
    request = Request({"method": "GET", "path": "/", "headers": []}, receive, Limits(), Budget(1 << 30))
    with pytest.raises(Disconnected):
        await send_reply(Reply(held, keep_alive=b":"), send, request, [])
    assert closed.is_set()


async def test_a_comment_never_stands_amid_an_event(monkeypatch: pytest.MonkeyPatch) -> None:
    """A large event is sent in parts, and its reader may need long for each."""
    monkeypatch.setattr(_http, "KEEP_ALIVE_SECONDS", 0.001)
    sent: list[bytes] = []

    async def pieces() -> AsyncGenerator[bytes, None]:
        for letter in (b"a", b"b"):
            yield b"<" + letter * 500_000 + b">"
            await until(lambda: sent[-1] == b":")

    async def send(message: dict[str, Any]) -> None:
        sent.append(message.get("body", b""))
        await anyio.sleep(0.005)

    async def receive() -> dict[str, Any]:
        await anyio.sleep_forever()
        raise AssertionError

    request = Request({"method": "GET", "path": "/", "headers": []}, receive, Limits(), Budget(1 << 30))
    await send_reply(Reply(pieces(), keep_alive=b":"), send, request, [])
    assert max(map(len, sent)) <= sending.PIECE_BYTES
    assert re.fullmatch(b":*<a{500000}>:+<b{500000}>:+", b"".join(sent))


async def test_a_stream_of_http_2_that_is_reset_leaves_nothing_behind(api2: Api) -> None:
    id = await api2.submit("gate")
    async with api2.raw() as connection:
        client = Http2(connection)
        await client.request(1, "GET", f"/api/jobs/{id}/events")
        await connection.reader.readuntil(b"event: accepted")
        await until(lambda: waiters(api2) == 1)
        client.reset_stream(1)
        await client.flush()
        await until(lambda: waiters(api2) == 0)


@both_servers
async def test_after_the_stream_the_connection_goes_on(api: Api) -> None:
    id = await api.submit("echo")
    await api.results(id)
    async with api.raw() as connection:
        for _ in range(3):
            await connection.send(ask(f"/api/jobs/{id}/events"))
            head = await connection.reader.readuntil(b"\r\n\r\n")
            assert b"chunked" in head.lower()
            await connection.reader.readuntil(b"event: finished")
            await connection.reader.readuntil(b"\r\n0\r\n\r\n")


async def test_a_quiet_stream_is_kept_alive_by_comments(api: Api, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(_http, "KEEP_ALIVE_SECONDS", 0.01)
    id = await api.submit("gate")
    async with events(api, id) as stream:
        task = asyncio.create_task(stream.rest())
        await until(lambda: stream.comments > 10)
        assert not task.done()
        api.gate.opened.set()
        assert named(await task) == ["accepted", "step", "finished"]


class RecentJobs(SpiedStore):
    """Returns copies of jobs that nothing else refers to."""

    def __init__(self) -> None:
        super().__init__()
        self.traces: list[weakref.ref[Traced]] = []

    async def get(self, ids: Any, **asked: Any) -> list[Job]:
        copies = []
        for job in await super().get(ids, **asked):
            self.traces.append(weakref.ref(owner := Traced(job.client)))
            copies.append(replace(job, request=replace(job.request, client=owner)))
        return copies

    @property
    def held(self) -> int:
        gc.collect()
        return sum(trace() is not None for trace in self.traces)


async def test_a_stream_holds_no_job_while_nothing_happens(server: str) -> None:
    store = RecentJobs()
    async with serving(server, node={"store": store}) as api:
        id = await api.submit("echo", "gate")
        async with events(api, id) as stream:
            assert [await stream.next(), await stream.next()]
            await settle_down()
            assert store.held == 0
            api.gate.opened.set()
            assert named(await stream.rest()) == ["step", "finished"]


@both_servers
async def test_a_reader_that_is_slow_makes_the_node_hold_nothing_and_reads_it_all_in_the_end(server: str) -> None:
    store, steps, large = RecentJobs(), 20, b'"' + b"x" * (1 << 20) + b'"'

    async def run(step: Step) -> ContainerOutput:
        return ContainerOutput(container=step.container, output=type(step.input.data)(large))

    async with serving(server, runners=[SwitchRunner(Container(id="large"), run=run)], node={"store": store}) as api:
        id = await api.submit(*["large"] * steps)
        await api.results(id)
        async with api.raw() as connection:
            connection.reader._transport.pause_reading()  # type: ignore[attr-defined]
            await connection.send(ask(f"/api/jobs/{id}/events", "Connection: close"))
            await until_quiet(store)
            await until(lambda: store.held == 0)
            reads = store.calls["steps"]
            connection.reader._transport.resume_reading()  # type: ignore[attr-defined]
            with anyio.fail_after(60):
                whole = await connection.reader.read()
            assert whole.count(b"event: step") == steps
            assert store.calls["steps"] - reads > steps / 2  # jobs were not read while the client did not read


async def test_what_was_told_is_not_held_while_nothing_happens(api: Api) -> None:
    body = b'{"containers":["echo","gate"],"data":{"text":"%s"}}' % (b"x" * 8_000_000)
    id = (await api.call("POST", "/api/jobs", data=io.BytesIO(body))).json["id"]
    await until(lambda: api.gate.running)
    del body
    async with api.raw() as connection:
        tracemalloc.start()
        try:
            await connection.send(ask(f"/api/jobs/{id}/events"))
            size = 0
            while size < 8_000_000:
                size += len(await connection.reader.read(1 << 16))
            await settle_down()
            gc.collect()
            held, most = tracemalloc.get_traced_memory()
        finally:
            tracemalloc.stop()
    assert most > 8_000_000  # it was there
    assert held < 2_000_000


async def until_quiet(store: SpiedStore) -> None:
    """Wait until no read has happened for a while."""
    await until(lambda: store.calls["steps"] > 1)
    before = -1
    while store.calls["steps"] != before:
        before = store.calls["steps"]
        await asyncio.sleep(0.3)


async def test_small_events_come_together_and_large_ones_one_by_one(server: str) -> None:
    store = SpiedStore()
    async with serving(server, node={"store": store}) as api:
        small = await api.submit(*["echo"] * 50, n=1)
        large = await api.submit(*["echo"] * 4, text="x" * PIECE_BYTES)
        await api.results(small, large)
        for id, events_told, reads in ((small, 52, 2), (large, 6, 5)):
            before = store.calls["steps"]
            assert len(await all_events(api, id)) == events_told
            assert store.calls["steps"] - before == reads, "the last read finds no more steps"


# -- nodes and stores that fail -----------------------------------------------------------------------


@both_servers
async def test_when_the_node_stops_a_stream_ends_properly_and_goes_on_at_the_next_one(server: str) -> None:
    gate, table = Gate(), MemoryTable()
    settings = {"server": server, "runners": [functions(gate=gate)]}
    async with aiohttp.ClientSession() as session:
        async with serving(**settings, node={"store": EmbeddedStore(table)}) as served:
            api = Api(served.url, session, served.node, gate)
            id = await api.submit("echo", "gate")
            stream = asyncio.create_task(all_events(api, id))
            await until(lambda: waiters(api) == 1 and gate.running)
        told = await stream
        assert named(told) == ["accepted", "step"]
        gate.opened.set()
        async with serving(**settings, node={"store": EmbeddedStore(table)}) as served:
            assert named(await all_events(served, id, told[-1].id)) == ["step", "finished"]


@both_servers
async def test_a_node_that_drains_tells_the_end(server: str) -> None:
    gate = Gate()
    async with aiohttp.ClientSession() as session:
        async with serving(server, runners=[functions(gate=gate)], node={"drain_seconds": 30}) as served:
            api = Api(served.url, session, served.node, gate)
            id = await api.submit("gate")
            stream = asyncio.create_task(all_events(api, id))
            await until(lambda: waiters(api) == 1 and gate.running)
            opening = opened_while_it_drains(api)
        await opening
        assert named(await stream) == ["accepted", "step", "finished"]


async def test_a_store_that_fails_ends_the_stream_so_that_the_client_comes_back(
    server: str, caplog: pytest.LogCaptureFixture
) -> None:
    store = SpiedStore()
    async with serving(server, node={"store": store}) as api:
        id = await api.submit("gate")
        store.failures["get"] = 1
        assert (await api.get(f"/api/jobs/{id}/events")).status == 503
        async with events(api, id) as stream:
            assert await stream.next()
            with caplog.at_level(logging.ERROR, "nodekit.http"):
                store.failures["get"] = 1
                api.gate.opened.set()
                assert await stream.rest() == []
        assert "its stream of events ends early: the disk is full" in caplog.text
        assert named(await all_events(api, id)) == ["accepted", "step", "finished"]


@both_servers
@pytest.mark.parametrize(("drain_seconds", "ends"), [(30, True), (0.05, False)], ids=["in time", "not in time"])
async def test_streams_of_events_end_when_the_node_has_drained_and_not_only_when_it_is_left(
    server: str, drain_seconds: float, ends: bool
) -> None:
    gate = Gate()
    async with serving(server, runners=[functions(gate=gate)], node={"drain_seconds": drain_seconds}) as api:
        id = await api.submit("gate")
        await until(lambda: gate.running)
        async with api.session.get(f"{api.url}/api/jobs/{id}/events") as events, anyio.create_task_group() as tasks:
            tasks.start_soon(api.node.drain)
            await until(lambda: api.node._admission.open is False)
            if ends:
                gate.opened.set()
            with anyio.fail_after(20):
                assert (b"event: finished" in await events.read()) is ends
        answer = await api.post("/api/jobs", {"containers": ["gate"], "data": {}})
        assert (answer.status, "draining" in answer.error) == (503, True)
