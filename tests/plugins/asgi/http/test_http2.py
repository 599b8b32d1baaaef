"""HTTP/2, where the file asks for it: hypercorn's connections, and what a client can do to them."""

import asyncio
import gc
import logging
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from typing import Any

import anyio
import h2.events
import h2.exceptions
import h2.settings
import msgspec
import pytest
from components import functions, until
from connections import Http2, rest, waiters
from deadline_time import Time, stopped
from http_api import Api, RawConnection, asgi_call, serving

from nodekit import Mount, StoreFailed
from nodekit_asgi import AsgiApp, AsgiConfig, Limits
from nodekit_asgi.api import listing as asgi_listing
from nodekit_asgi.server import hypercorn_http2

pytestmark = pytest.mark.anyio

PREFACE = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"
SETTINGS = b"\0\0\0\4\0\0\0\0\0"


class Client(Http2):
    """A client that keeps what it receives, by stream."""

    def __init__(self, connection: RawConnection) -> None:
        super().__init__(connection)
        self.statuses: dict[int, str] = {}
        self.bodies: dict[int, bytes] = {}
        self.resets: dict[int, int] = {}
        self.ended: set[int] = set()
        self.takes = True

    async def receive(self) -> bool:
        """Receive once. Return False at the end of the connection."""
        async with asyncio.timeout(60):
            data = await self.connection.reader.read(1 << 16)
        for event in self.receive_data(data) if data else []:
            match event:
                case h2.events.ResponseReceived():
                    self.statuses[event.stream_id] = dict(event.headers)[":status"]
                case h2.events.DataReceived():
                    self.bodies[event.stream_id] = self.bodies.get(event.stream_id, b"") + event.data
                    if self.takes:
                        self.acknowledge_received_data(event.flow_controlled_length, event.stream_id)
                case h2.events.StreamEnded():
                    self.ended.add(event.stream_id)
                case h2.events.StreamReset():
                    self.resets[event.stream_id] = event.error_code
        await self.flush()
        return bool(data)

    async def answered(self, stream: int) -> tuple[str, bytes]:
        while stream not in self.ended:
            assert stream not in self.resets, self.resets
            assert await self.receive()
        return self.statuses[stream], self.bodies.get(stream, b"")

    async def upload(self, stream: int, path: str, body: bytes) -> None:
        head = {":method": "POST", ":scheme": "http", ":authority": "127.0.0.1", ":path": path}
        self.send_headers(stream, list(head.items()))
        while body:
            size = min(self.local_flow_control_window(stream), self.max_outbound_frame_size, len(body))
            if size:
                self.send_data(stream, body[:size], end_stream=size == len(body))
                body = body[size:]
                await self.flush()
            else:
                await self.receive()


def warnings(caplog: pytest.LogCaptureFixture) -> list[str]:
    """Return what is in the log beside what a node says of itself."""
    return [record.getMessage() for record in caplog.records if record.levelno >= logging.WARNING]


@pytest.fixture
def time(monkeypatch: pytest.MonkeyPatch) -> Time:
    return stopped(monkeypatch)


@asynccontextmanager
async def speaking(api: Api) -> AsyncIterator[Client]:
    async with api.raw() as connection:
        yield Client(connection)


def streams() -> Sequence[Any]:
    """Return the requests that the node knows of."""
    gc.collect()
    return [one for one in gc.get_objects() if isinstance(one, hypercorn_http2.Stream)]


async def large(data: Any) -> Any:
    return "x" * 10_000_000


# -- settings -----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("settings", "problem"),
    [
        ({"server": "uvicorn", "http2": True}, 'set server = "hypercorn"'),
        ({"trusted_proxies_http2": ["10.0.0.1"]}, "10.0.0.1 is not in trusted_proxies; list it there, too"),
        ({"trusted_proxies": ["10.0.0.0/24"], "trusted_proxies_http2": ["10.0.0.0/8"]}, "is not in trusted_proxies"),
        ({"trusted_proxies": ["::/0"], "trusted_proxies_http2": ["unix"]}, "unix is not in trusted_proxies"),
        ({"trusted_proxies_http2": ["proxy"]}, "expected an address or a network"),
    ],
)
def test_settings_that_contradict_each_other_are_refused(settings: dict[str, Any], problem: str) -> None:
    with pytest.raises(msgspec.ValidationError, match=problem):
        msgspec.convert(settings, AsgiConfig)


def test_a_proxy_may_be_named_by_address_where_its_network_is_trusted() -> None:
    named = {"trusted_proxies": ["10.0.0.0/8", "unix", "::1"], "trusted_proxies_http2": ["10.0.0.1", "unix", "::1/128"]}
    assert msgspec.convert(named, AsgiConfig).trusted_proxies_http2 == ("10.0.0.1", "unix", "::1/128")


# -- who is who ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("forwarded", ["192.0.2.1", None])
async def test_a_proxy_names_clients_over_http_2_only_if_it_is_trusted_to(forwarded: str | None) -> None:
    """A client could write HTTP/2 through a proxy of HTTP/1.1, and so name itself, or be the proxy."""
    headers = [] if forwarded is None else [(b"x-forwarded-for", forwarded.encode())]
    scope: Any = {"http_version": "2", "client": ("10.0.0.1", 1), "headers": headers}
    async with serving("hypercorn") as api:
        for limits, status in (
            (Limits(), 200),
            (Limits(trusted_proxies=("10.0.0.2",)), 200),
            (Limits(trusted_proxies=("10.0.0.0/8",)), 403),
            (Limits(trusted_proxies=("10.0.0.0/8",), trusted_proxies_http2=("10.0.0.2",)), 403),
            (Limits(trusted_proxies=("10.0.0.0/8",), trusted_proxies_http2=("10.0.0.0/16",)), 200),
        ):
            app = AsgiApp(api.node, limits)
            assert (await asgi_call(app, "/api/jobs", **scope))[0] == status, limits
            assert (await asgi_call(app, "/api/jobs", **{**scope, "http_version": "1.1"}))[0] == 200


async def test_a_trusted_proxy_names_the_client_over_http_2() -> None:
    trusted: Any = {"trusted_proxies": ("127.0.0.1",), "trusted_proxies_http2": ("127.0.0.1",)}
    async with serving("hypercorn", http2=True, **trusted) as api, speaking(api) as client:
        head = {":method": "GET", ":scheme": "http", ":authority": "127.0.0.1", ":path": "/api/jobs"}
        await api.submit("echo")
        client.send_headers(1, [*head.items(), ("x-forwarded-for", "192.0.2.1")], end_stream=True)
        client.send_headers(3, [*head.items()], end_stream=True)
        await client.flush()
        assert await client.answered(1) == ("200", b"[]")
        assert (await client.answered(3))[1] != b"[]"


# -- requests and replies -----------------------------------------------------------------------------


async def test_requests_large_and_small_are_answered_side_by_side() -> None:
    async with serving("hypercorn", http2=True, runners=[functions(large=large)]) as api:
        id = await api.submit("large")
        await api.results(id)
        async with speaking(api) as client:
            body = b'{"containers": ["large"], "data": {"text": "%s"}}' % (b"y" * 1_000_000)
            await client.request(1, "GET", f"/api/jobs?id={id}")
            await client.upload(3, "/api/jobs", body)
            await client.request(5, "HEAD", "/info")
            await client.request(7, "GET", "/nope")
            assert (await client.answered(5))[1] == b""
            assert (await client.answered(7))[0] == "404"
            assert (await client.answered(3))[0] == "200"
            status, reply = await client.answered(1)
            assert (status, msgspec.json.decode(reply)[0]["result"]["output"]) == ("200", "x" * 10_000_000)


async def medium(data: Any) -> Any:
    return "x" * 1_000_000


async def test_a_reply_waits_for_its_window_in_the_application() -> None:
    async with serving("hypercorn", http2=True, runners=[functions(medium=medium)]) as api:
        id = await api.submit("medium")
        await api.results(id)
        async with speaking(api) as client:
            client.takes = False
            for stream in range(1, 20, 2):
                await client.request(stream, "GET", f"/api/jobs?id={id}")
            await until(lambda: len(streams()) == 10 and any(stream.waits for stream in streams()))
            while client.outbound_flow_control_window and sum(map(len, client.bodies.values())) < 65535:
                await client.receive()
            assert sum(stream.sent for stream in streams()) == 65535
            client.takes = True
            client.increment_flow_control_window(1 << 28)
            for stream in range(1, 20, 2):
                client.increment_flow_control_window(1 << 28, stream)
            await client.flush()
            for stream in range(1, 20, 2):
                assert len((await client.answered(stream))[1]) > 1_000_000


class Deaf:
    """Mounts an application that replies when it is told to, and reads nothing."""

    def __init__(self) -> None:
        self.called, self.go_on = asyncio.Event(), asyncio.Event()

    def nodekit_routes(self) -> Sequence[Mount]:
        return [Mount("deaf", self.reply, True)]

    async def reply(self, scope: Any, receive: Any, send: Any) -> None:
        self.called.set()
        await self.go_on.wait()
        await send({"type": "http.response.start", "status": 207, "headers": [(b"connection", b"close")]})
        await send({"type": "http.response.body", "body": b"1"})


async def test_a_body_that_nobody_reads_is_not_in_the_way_of_other_requests() -> None:
    deaf = Deaf()
    async with serving("hypercorn", http2=True, plugins=[deaf]) as api, speaking(api) as client:
        head = {":method": "POST", ":scheme": "http", ":authority": "127.0.0.1", ":path": "/-/deaf/"}
        client.send_headers(1, list(head.items()))
        await client.flush()
        await deaf.called.wait()
        for _ in range(3000):  # more pieces than a queue holds
            client.send_data(1, b"xy")
        await client.flush()
        for stream in (3, 5, 7):
            await client.request(stream, "GET", "/info")
            assert (await client.answered(stream))[0] == "200"
        deaf.go_on.set()
        client.end_stream(1)
        assert await client.answered(1) == ("207", b"1")


async def test_a_reply_that_breaks_off_is_reset(api2: Api, monkeypatch: pytest.MonkeyPatch) -> None:
    await api2.submit("echo")
    monkeypatch.setattr(asgi_listing, "SLICE", 1)
    page = api2.node.page

    async def fails_later(query: Any) -> Any:
        if query.after is not None:
            raise StoreFailed("the disk is gone")
        return await page(query)

    monkeypatch.setattr(api2.node, "page", fails_later)
    async with speaking(api2) as client:
        await client.request(1, "GET", "/api/jobs")
        while 1 not in client.resets:
            assert await client.receive()
        assert 1 not in client.ended


async def test_a_reply_before_the_end_of_the_body_ends_the_request(api2: Api, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("nodekit_asgi.http.messages.LINGER_SECONDS", 0.05)
    async with speaking(api2) as client:
        head = {":method": "POST", ":scheme": "http", ":authority": "127.0.0.1", ":path": "/nope"}
        client.send_headers(1, [*head.items(), ("content-length", "1000000")])
        client.send_data(1, b"x" * 1000)
        await client.flush()
        assert (await client.answered(1))[0] == "404"
        while 1 not in client.resets:
            await client.receive()
        assert client.resets[1] == 0
        await client.request(3, "GET", "/info")
        assert (await client.answered(3))[0] == "200"


@pytest.mark.parametrize(
    ("headers", "status"),
    [
        ([(":method", "CONNECT"), (":authority", "127.0.0.1")], "405"),
        ([(f"x{n}", "1") for n in range(300)], "431"),
    ],
)
async def test_what_no_application_sees_is_refused(api2: Api, headers: list[tuple[str, str]], status: str) -> None:
    head = [(":method", "GET"), (":scheme", "http"), (":authority", "127.0.0.1"), (":path", "/info")]
    async with speaking(api2) as client:
        sent = headers if headers[0][0] == ":method" else [*head, *headers]
        client.config.validate_outbound_headers = False
        client.send_headers(1, sent, end_stream=True)
        await client.flush()
        assert (await client.answered(1))[0] == status
        await client.request(3, "GET", "/info")
        assert (await client.answered(3))[0] == "200"


# -- floods -------------------------------------------------------------------------------------------


async def test_requests_that_are_given_up_at_once_leave_nothing_behind(
    api2: Api, caplog: pytest.LogCaptureFixture
) -> None:
    id = await api2.submit("gate")
    async with speaking(api2) as client:
        for stream in range(1, 4001, 2):
            await client.request(stream, "GET", f"/api/jobs?id={id}&wait=60")
            client.reset_stream(stream)
        await client.flush()
        await until(lambda: not streams() and waiters(api2) == 0)
        stream = 5001
        await client.request(stream, "GET", "/info")
        while stream not in client.ended:
            await client.receive()
            if stream in client.resets:  # some of those before have not ended yet
                stream += 2
                await client.request(stream, "GET", "/info")
        assert client.statuses[stream] == "200"
    assert not warnings(caplog)


async def test_more_requests_at_once_than_allowed_end_the_connection(api2: Api) -> None:
    id = await api2.submit("gate")
    async with speaking(api2) as client:
        for stream in range(1, 2 * hypercorn_http2.MAX_STREAMS + 3, 2):
            await client.request(stream, "GET", f"/api/jobs?id={id}&wait=60")
        while await client.receive():
            pass
    await until(lambda: waiters(api2) == 0)
    assert (await api2.get("/info")).status == 200


ENDLESS = {
    "settings": SETTINGS,
    "pings": b"\0\0\x08\6\0\0\0\0\0" + bytes(8),
    "priorities": b"\0\0\5\2\0\0\0\0\3" + b"\0\0\0\0\x10",
    "unknown frames": b"\0\0\1\xee\0\0\0\0\0x",
}


@pytest.mark.parametrize("kind", ENDLESS)
async def test_frames_of_no_use_cost_no_memory(api2: Api, kind: str) -> None:
    async with speaking(api2) as client:
        await client.request(1, "GET", "/info")
        answered = asyncio.create_task(client.answered(1))
        for _ in range(50):
            await client.connection.send(ENDLESS[kind] * 1000)
        assert (await answered)[0] == "200"
        await client.request(3, "GET", "/info")
        assert (await client.answered(3))[0] == "200"


@pytest.mark.parametrize(("wanted", "size"), [(1 << 30, 4096), (5000, 4096), (4096, 4096), (100, 100), (0, 0)])
async def test_headers_of_replies_are_remembered_within_bounds(api2: Api, wanted: int, size: int) -> None:
    async with speaking(api2) as client:
        client.update_settings({h2.settings.SettingCodes.HEADER_TABLE_SIZE: wanted})
        for stream in range(1, 101, 2):
            client.increment_flow_control_window(1000)
            await client.request(stream, "GET", "/info")
            assert (await client.answered(stream))[0] == "200"
        gc.collect()
        (connection,) = [one for one in gc.get_objects() if isinstance(one, hypercorn_http2.Connection)]
        assert connection.encoder.header_table_size == size
        assert len(connection.encoder.table_size_changes) <= 2


HOSTILE = {
    "no preface": b"PRI * HTTP/2.0\r\n\r\nXX\r\n\r\n",
    "no settings": PREFACE + b"\0\0\4\1\4\0\0\0\1abcd",
    "bad headers": PREFACE + SETTINGS + b"\0\0\4\1\4\0\0\0\1\xff\xff\xff\xff",
    "data on no stream": PREFACE + SETTINGS + b"\0\0\1\0\0\0\0\0\1x",
    "a frame too large": PREFACE + SETTINGS + b"\xff\xff\xff\1\4\0\0\0\1" + b"x" * 20_000,
    "continuations": PREFACE + SETTINGS + b"\0\0\1\1\0\0\0\0\1\x82" + b"\0\0\1\x09\0\0\0\0\1\x84" * 100,
    "a window of zero": PREFACE + SETTINGS + b"\0\0\4\x08\0\0\0\0\0\0\0\0\0",
    "garbage": PREFACE + b"GET / HTTP/1.1\r\n\r\n" * 100,
}


@pytest.mark.parametrize("kind", HOSTILE)
async def test_malformed_frames_end_the_connection_and_leave_no_line_in_the_log(
    kind: str, time: Time, caplog: pytest.LogCaptureFixture
) -> None:
    async with serving("hypercorn", http2=True) as api:
        async with api.raw() as connection:
            await connection.send(HOSTILE[kind])
            await rest(connection)  # at once: no time passes
        assert (await api.get("/info")).status == 200
    assert not warnings(caplog)


async def test_headers_beyond_all_bounds_end_the_connection(api2: Api, caplog: pytest.LogCaptureFixture) -> None:
    async with speaking(api2) as client:
        head = [(":method", "GET"), (":scheme", "http"), (":authority", "127.0.0.1"), (":path", "/info")]
        client.send_headers(1, [*head, ("x", "1" * 100_000)], end_stream=True)
        await client.flush()
        while await client.receive():
            pass
    assert not warnings(caplog)


# -- deadlines ----------------------------------------------------------------------------------------

SLOW = {
    "the beginning of a preface": PREFACE[:20],
    "no settings": PREFACE,
    "nothing after the settings": PREFACE + SETTINGS,
    "half of a frame's head": PREFACE + SETTINGS + b"\0\0\4",
    "half of a frame": PREFACE + SETTINGS + b"\0\0\4\1\4\0\0\0\1ab",
    "half of the headers": PREFACE + SETTINGS + b"\0\0\1\1\0\0\0\0\1\x82",
    "pings": PREFACE + SETTINGS + b"\0\0\x08\6\0\0\0\0\0" + bytes(8),
}


@pytest.mark.parametrize("kind", SLOW)
async def test_who_sends_no_request_is_cut_off(kind: str, time: Time) -> None:
    async with serving("hypercorn", http2=True) as api, api.raw() as connection:
        await connection.send(SLOW[kind])
        await anyio.sleep(0)
        await time.pass_until_closed(connection)


async def test_a_reader_whose_window_stays_closed_is_cut_off_and_others_on_its_connection_are_not(
    time: Time,
) -> None:
    async with serving("hypercorn", http2=True, runners=[functions(large=large)]) as api:
        id = await api.submit("large")
        await api.results(id)
        async with speaking(api) as client:
            client.takes = False
            client.increment_flow_control_window(1 << 28)
            await client.request(1, "GET", f"/api/jobs?id={id}")
            await until(lambda: any(stream.waits for stream in streams()))
            other = 1
            while 1 not in client.resets:
                time.pass_by(1)
                other += 2
                await client.request(other, "GET", "/info")
                while other not in client.ended:
                    assert await client.receive()
        await until(lambda: not streams())
