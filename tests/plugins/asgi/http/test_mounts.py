"""Pages of plugins, served by a transport below ``/-/<name>/``."""

from collections.abc import Awaitable, Callable, Sequence
from pathlib import Path
from typing import Any

import aiohttp
import anyio
import pytest
from components import make_node
from http_api import Api, asgi_call, both_servers, post, serving

from nodekit import Identity, Mount, TooManyRequests
from nodekit_asgi import AsgiApp, Limits
from nodekit_asgi.http import mounted as _mounted

pytestmark = pytest.mark.anyio

Send = Callable[[dict[str, Any]], Awaitable[None]]


class Pages:
    """A plugin whose applications show their requests, or do as they are told."""

    def __init__(self, *, public: bool = True) -> None:
        self.public = public
        self.scopes: list[dict[str, Any]] = []
        self.read = 0
        """Numbers of bytes of the received bodies."""
        self.errors: list[Exception] = []

    def nodekit_routes(self) -> Sequence[Mount]:
        return [Mount("shown", self.show, self.public), Mount("broken-off", self.break_off, self.public)]

    async def show(self, scope: Any, receive: Any, send: Send) -> None:
        self.scopes.append(scope)
        action = scope["path"].rpartition("/")[2]
        if action == "fails":
            raise KeyError("a secret inside")
        if action == "exits":
            raise SystemExit("a secret inside")
        if action == "silent":
            return
        if action != "deaf":
            try:
                await self.read_body(receive)
            except Exception as error:  # as some frameworks do
                self.errors.append(error)
                await self.reply(send, 500, b"sorry")
                return
        await self.reply(send, 207, f"{scope['method']} {scope['path']} {scope['query_string'].decode()}".encode())

    async def read_body(self, receive: Any) -> None:
        more = True
        while more:
            message = await receive()
            self.read += len(message.get("body", b""))
            more = message.get("more_body", False)

    async def reply(self, send: Send, status: int, body: bytes) -> None:
        headers = [(b"content-length", b"%d" % len(body)), (b"X-Request-Id", b"its-own"), (b"x-own", b"1")]
        await send({"type": "http.response.start", "status": status, "headers": headers})
        await send({"type": "http.response.body", "body": body})

    async def break_off(self, scope: Any, receive: Any, send: Send) -> None:
        await send({"type": "http.response.start", "status": 200, "headers": [(b"content-length", b"10")]})
        await send({"type": "http.response.body", "body": b"half", "more_body": True})
        raise KeyError("in the middle")


async def test_an_application_answers_below_its_name_whatever_the_method(server: str) -> None:
    async with serving(server, plugins=[Pages()]) as api:
        for path in ("/-/shown/", "/-/shown/a/b", "/-/shown//"):
            answer = await api.get(f"{path}?x=1&y=%20")
            assert (answer.status, answer.body) == (207, f"GET {path} x=1&y=%20".encode())
            assert answer.headers["X-Own"] == "1"
        assert (await api.call("PUT", "/-/shown/", data=b"x" * 1000)).body == b"PUT /-/shown/ "
        assert (await api.call("HEAD", "/-/shown/")).status == 207


async def test_paths_beside_the_mounts_are_404_like_everywhere(server: str) -> None:
    pages = Pages()
    async with serving(server, plugins=[pages]) as api:
        for path in ("/-/shown", "/-/", "/-", "/-/nope/", "/-/Shown/", "/shown/", "/x/-/shown/"):
            answer = await api.get(path)
            assert (answer.status, answer.error) == (404, "no such path"), path
    assert pages.scopes == []


async def test_what_holds_for_every_request_holds_for_mounts(server: str) -> None:
    pages = Pages()
    allowed = {"allowed_origins": ("https://app.example",)}
    async with serving(server, plugins=[pages], **allowed) as api:
        answer = await api.get("/-/shown/", headers={"X-Request-ID": "mine-7", "Origin": "https://app.example"})
        assert answer.headers.getall("X-Request-ID") == ["mine-7"]
        assert answer.headers["Access-Control-Allow-Origin"] == "https://app.example"
        assert (await api.get("/-/shown/", headers={"Host": "evil.example"})).status == 403
        assert (await api.get("/-/shown/", headers={"Origin": "https://evil.example"})).status == 403
        async with api.raw() as connection:
            chunked = b"0\r\n\r\n"
            await connection.send(post(chunked, "Content-Length: 5", "Transfer-Encoding: chunked", path="/-/shown/"))
            assert (await connection.answer()).status == 400
    assert len(pages.scopes) == 1


async def test_a_client_that_asks_too_often_has_to_wait_for_mounts_too(server: str) -> None:
    class Limiting:
        def nodekit_limit(self, identity: Identity) -> None:
            raise TooManyRequests("slower", retry_after_seconds=3)

    pages = Pages()
    async with serving(server, plugins=[pages, Limiting()]) as api:
        answer = await api.get("/-/shown/")
        assert (answer.status, answer.headers["Retry-After"]) == (429, "3")
    assert pages.scopes == []


# -- what an application sees ---------------------------------------------------------------------


async def test_the_scope_is_as_asgi_says_and_the_client_is_who_asks(server: str) -> None:
    pages = Pages()
    async with serving(server, plugins=[pages], trusted_proxies=("127.0.0.1",)) as api:
        await api.get("/-/shown/page")
        await api.get("/-/shown/page", headers={"X-Forwarded-For": "127.0.0.1, 203.0.113.7"})
    near, far = pages.scopes
    assert (near["root_path"], near["path"]) == ("/-/shown", "/-/shown/page")
    assert near["client"][0] == "127.0.0.1"
    assert near["client"][1] > 0
    assert far["client"] == ("203.0.113.7", 0)


@pytest.mark.parametrize("strips_path", [False, True])
async def test_a_node_that_is_mounted_itself_hands_on_the_whole_path(strips_path: bool) -> None:
    pages = Pages()
    node = make_node(plugins=[pages])
    scope = {"root_path": "/compute", "client": ("::ffff:192.0.2.1", 9), "state": {"kept": 1}}
    path = ("" if strips_path else "/compute") + "/-/shown/page"
    assert (await asgi_call(AsgiApp(node), path, **scope))[0] == 207
    (seen,) = pages.scopes
    assert (seen["root_path"], seen["path"]) == ("/compute/-/shown", "/compute/-/shown/page")
    assert (seen["client"], seen["state"]) == (("192.0.2.1", 9), {"kept": 1})


async def test_a_unix_sockets_client_has_no_address_and_may_call_what_is_not_public(
    server: str, tmp_path: Path
) -> None:
    path, pages = tmp_path / "node.sock", Pages(public=False)
    async with serving(server, bind=f"unix:{path}", plugins=[pages]):
        async with aiohttp.ClientSession(connector=aiohttp.UnixConnector(str(path))) as session:
            assert (await Api("http://anything", session).get("/-/shown/")).status == 207
    assert pages.scopes[0]["client"] is None


# -- what is not public ---------------------------------------------------------------------------


async def test_what_is_not_public_is_called_from_this_machine_only(server: str) -> None:
    pages = Pages(public=False)
    async with serving(server, plugins=[pages], trusted_proxies=("127.0.0.1",)) as api:
        assert (await api.get("/-/shown/")).status == 207
        for far in ("203.0.113.7", "127.0.0.1, 203.0.113.7", "2001:db8::1"):
            answer = await api.get("/-/shown/", headers={"X-Forwarded-For": far})
            assert answer.status == 403
            assert "not public" in answer.error
    assert len(pages.scopes) == 1


@pytest.mark.parametrize("trusted", [(), ("10.0.0.1",)])
@pytest.mark.parametrize(("public", "status"), [(False, 403), (True, 207)])
async def test_what_an_unknown_proxy_passes_on_does_not_come_from_this_machine(
    server: str, trusted: tuple[str, ...], public: bool, status: int
) -> None:
    async with serving(server, plugins=[Pages(public=public)], trusted_proxies=trusted) as api:
        for header in ("X-Forwarded-For", "X-Forwarded-Host", "Forwarded", "Via", "X-Real-IP"):
            assert (await api.get("/-/shown/", headers={header: "127.0.0.1"})).status == status, header


async def test_a_trusted_proxy_that_does_not_say_for_whom_passes_on_nothing_that_is_not_public(server: str) -> None:
    trusted = {"trusted_proxies": ("127.0.0.1",), "forwarded_header": "forwarded"}
    async with serving(server, plugins=[Pages(public=False)], **trusted) as api:
        assert (await api.get("/-/shown/", headers={"X-Forwarded-For": "203.0.113.7"})).status == 403
        near = {"Forwarded": "for=127.0.0.1", "X-Forwarded-Proto": "https"}
        assert (await api.get("/-/shown/", headers=near)).status == 207


@pytest.mark.parametrize(
    ("client", "host", "status"),
    [
        ("127.0.0.1", b"localhost:4000", 207),
        ("127.9.9.9", b"127.0.0.1", 207),
        ("::1", b"[::1]", 207),
        ("::ffff:127.0.0.1", b"node.example", 207),
        ("127.0.0.1", b"evil.example", 403),
        ("192.0.2.1", b"localhost", 403),
        ("::ffff:192.0.2.1", b"localhost", 403),
        ("no-address", b"localhost", 403),
        ("", b"anything", 207),
    ],
)
async def test_a_node_on_all_addresses_tells_its_own_machine_by_peer_and_name(
    client: str, host: bytes, status: int
) -> None:
    allowed = Limits(allowed_hosts=("node.example",)) if host == b"node.example" else Limits()
    app = AsgiApp(make_node(plugins=[Pages(public=False)]), allowed)
    assert (await asgi_call(app, "/-/shown/", client=(client, 1), headers=[(b"host", host)]))[0] == status


# -- bodies ---------------------------------------------------------------------------------------


@both_servers
@pytest.mark.parametrize("framing", ["Content-Length: 2000", "Transfer-Encoding: chunked"])
async def test_a_body_over_the_limit_is_413_whatever_the_application_makes_of_it(server: str, framing: str) -> None:
    pages = Pages()
    body = b"x" * 2000 if "Length" in framing else b"1f4\r\n%s\r\n" % (b"x" * 500) * 4 + b"0\r\n\r\n"
    async with serving(server, plugins=[pages], max_body_bytes=1000) as api:
        async with api.raw() as connection:
            await connection.send(post(body, framing, path="/-/shown/"))
            answer = await connection.answer()
            assert (answer.status, answer.error) == (413, "the body is larger than 1000 bytes")
        assert (await api.call("PUT", "/-/shown/", data=b"x" * 1000)).status == 207
    assert pages.read <= 2000


@both_servers
async def test_a_body_that_does_not_come_is_408(server: str) -> None:
    async with serving(server, plugins=[Pages()], body_seconds=0.3) as api:
        for path in ("/-/shown/", "/api/jobs"):
            async with api.raw() as connection:
                await connection.send(post(b"half", "Content-Length: 100", path=path))
                assert (await connection.answer()).status == 408, path


@both_servers
async def test_an_application_that_leaves_the_body_unread_gets_its_reply_through(server: str) -> None:
    async with serving(server, plugins=[Pages()], max_body_bytes=1 << 28) as api:
        for _ in range(3):
            async with api.raw() as connection:
                await connection.send(post(bytes(8_000_000), path="/-/shown/deaf"))
                assert (await connection.answer()).status == 207


# -- failures -------------------------------------------------------------------------------------


async def test_an_application_that_fails_is_500_that_shows_nothing_but_the_request_id_on_the_log_line(
    server: str, caplog: pytest.LogCaptureFixture
) -> None:
    async with serving(server, plugins=[Pages()]) as api:
        for action in ("fails", "silent", "exits"):
            caplog.clear()
            answer = await api.get(f"/-/shown/{action}")
            assert (answer.status, answer.error) == (500, "internal error")
            assert answer.headers["X-Request-ID"] == answer.json["params"]["request_id"]
            assert b"secret" not in answer.body
            assert (await api.get("/-/shown/")).status == 207
            (record,) = [record for record in caplog.records if record.levelname == "ERROR"]
            assert answer.json["params"]["request_id"] in record.getMessage()
            assert f"GET /-/shown/{action}" in record.getMessage()
            assert record.exc_info


@both_servers
async def test_an_application_that_fails_in_mid_reply_is_cut_off(server: str, caplog: pytest.LogCaptureFixture) -> None:
    async with serving(server, plugins=[Pages()]) as api:
        with pytest.raises(aiohttp.ClientError):
            await api.get("/-/broken-off/", headers={"X-Request-ID": "mine-8"})
        assert (await api.get("/health")).status == 200
    (record,) = [record for record in caplog.records if record.name == "nodekit.http" and record.levelname == "ERROR"]
    assert record.getMessage() == "GET /-/broken-off/ failed while replying (request mine-8)"
    assert "in the middle" in caplog.text


class Hanging:
    """A plugin whose application never replies."""

    held = 0

    def nodekit_routes(self) -> Sequence[Mount]:
        async def app(scope: Any, receive: Any, send: Send) -> None:
            self.held += 1
            try:
                await anyio.sleep_forever()
            finally:
                self.held -= 1

        return [Mount("hanging", app)]


@both_servers
@pytest.mark.parametrize("body", [b"", b"x" * 1000], ids=["no body", "a body"])
async def test_an_application_that_hangs_holds_no_connection_of_a_client_that_has_gone(
    server: str, body: bytes, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(_mounted, "GONE_SECONDS", 0.1)
    hanging = Hanging()
    async with serving(server, plugins=[hanging], max_connections=3, max_client_connections=3) as api:
        for _ in range(5):
            async with api.raw() as connection:
                await connection.send(post(body, f"Content-Length: {len(body)}", path="/-/hanging/"))
                with anyio.move_on_after(0.1):
                    await connection.answer()
        with anyio.fail_after(60):
            assert (await api.get("/health")).status == 200
            while hanging.held:
                await anyio.sleep(0.01)


@both_servers
async def test_what_an_application_does_after_its_reply_is_not_cut_short(
    server: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(_mounted, "GONE_SECONDS", 0.01)
    done = anyio.Event()

    class Later:
        def nodekit_routes(self) -> Sequence[Mount]:
            async def app(scope: Any, receive: Any, send: Send) -> None:
                await send({"type": "http.response.start", "status": 204})
                await send({"type": "http.response.body"})
                await anyio.sleep(0.3)
                done.set()

            return [Mount("later", app)]

    async with serving(server, plugins=[Later()]) as api:
        assert (await api.get("/-/later/", headers={"Connection": "close"})).status == 204
        with anyio.fail_after(60):
            await done.wait()


@both_servers
async def test_an_application_gets_no_way_around_the_limits_of_its_body(server: str) -> None:
    pages = Pages()
    async with serving(server, plugins=[pages]) as api:
        assert (await api.post("/-/shown/", b"text")).status == 207
    assert not [name for name in pages.scopes[0]["extensions"] if name.startswith("nodekit.")]
