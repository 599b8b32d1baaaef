"""Rules for every request, whatever its route."""

import contextlib
import socket
import stat
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import aiohttp
import pytest
from components import make_node
from connections import connections
from http_api import Api, asgi_call, asgi_sent, both_servers, serving

from nodekit import JobQuery, Mount, NodekitError, StoreFailed
from nodekit_asgi import AsgiApp, Limits
from nodekit_asgi.api import listing as asgi_listing
from nodekit_asgi.api.routes import ROUTES

pytestmark = pytest.mark.anyio

OK = b'{"containers":["echo"],"data":{}}'


# -- errors are JSON ----------------------------------------------------------------------------------


async def test_a_crash_is_500_that_shows_the_request_id_on_the_log_line(
    api: Api, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    async def crash(request: Any, node: Any) -> Any:
        raise KeyError("a secret inside")

    monkeypatch.setitem(ROUTES["/info"], "GET", crash)  # type: ignore[arg-type]
    answer = await api.get("/info")
    assert answer.status == 500
    request_id = answer.json["params"]["request_id"]
    assert any(request_id in record.getMessage() for record in caplog.records)


@both_servers
async def test_a_listing_that_fails_midway_is_logged_and_cut_off(
    api: Api, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    await api.submit("echo")
    monkeypatch.setattr(asgi_listing, "SLICE", 1)
    page = api.node.page

    async def fails_later(query: JobQuery) -> Any:
        if query.after is not None:
            raise StoreFailed("the disk is gone")
        return await page(query)

    monkeypatch.setattr(api.node, "page", fails_later)
    with pytest.raises(aiohttp.ClientError):
        await api.get("/api/jobs", headers={"X-Request-ID": "mine-8"})
    assert "GET /api/jobs failed while replying (request mine-8)" in caplog.messages
    assert "the disk is gone" in caplog.text


# -- browsers -----------------------------------------------------------------------------------------


async def test_other_hosts_and_origins_are_let_in_by_name(server: str) -> None:
    allowed = {"allowed_hosts": ("node.example",), "allowed_origins": ("https://app.example",)}
    async with serving(server, **allowed) as api:
        assert (await api.get("/info", headers={"Host": "node.example:8080"})).status == 200
        assert (await api.get("/info", headers={"Host": "evil.example"})).status == 403
        answer = await api.get("/info", headers={"Origin": "https://app.example"})
        assert (answer.status, answer.headers["Access-Control-Allow-Origin"]) == (200, "https://app.example")
        assert {"preference-applied", "retry-after", "link"} <= {
            name.strip() for name in answer.headers["Access-Control-Expose-Headers"].split(",")
        }
        assert (await api.get("/info", headers={"Origin": "https://evil.example"})).status == 403
        preflight = await api.call("OPTIONS", "/api/jobs", headers={"Origin": "https://app.example"})
        assert preflight.status == 204
        assert "POST" in preflight.headers["Access-Control-Allow-Methods"]


# -- who asks -----------------------------------------------------------------------------------------


@both_servers
async def test_listening_on_all_addresses_mapped_clients_are_ipv4_clients(server: str) -> None:
    async with serving(server, bind="[::]:0") as api:
        api.url = f"http://127.0.0.1:{api.url.rpartition(':')[2]}"
        answer = await api.post("/api/jobs", {"containers": ["near"], "data": {}})
        assert answer.status == 200
        far = await api.post("/api/jobs", {"containers": ["far"], "data": {}})
        assert far.json["params"] == {"container": "far", "address": "127.0.0.1"}


@both_servers
async def test_a_unix_socket_serves_clients_without_an_address(server: str, tmp_path: Path) -> None:
    path = tmp_path / "node.sock"
    async with serving(server, bind=f"unix:{path}") as api:
        assert api.url == f"unix:{path}"
        assert stat.S_ISSOCK(path.stat().st_mode)
        async with aiohttp.ClientSession(connector=aiohttp.UnixConnector(str(path))) as session:
            local = Api("http://anything", session)
            id = await local.submit("echo", n=1)
            (job,) = await local.results(id)
            assert job["status"] == "success"
            refused = await local.post("/api/jobs", {"containers": ["near"], "data": {}})
            assert refused.error == "Container not allowed for address"
            assert (await local.get("/api/jobs")).json == [id]
    assert not path.exists()


async def test_a_socket_left_behind_by_a_killed_node_is_no_obstacle(server: str, tmp_path: Path) -> None:
    path = tmp_path / "node.sock"
    with socket.socket(socket.AF_UNIX) as dead:
        dead.bind(str(path))
    async with serving(server, bind=f"unix:{path}"):
        assert path.exists()


async def test_a_socket_of_a_live_node_is_not_taken_from_it(server: str, tmp_path: Path) -> None:
    path = tmp_path / "node.sock"
    async with serving(server, bind=f"unix:{path}"):
        with pytest.raises(
            NodekitError, match=r"node\.sock: Address already in use; another transport of this process has it"
        ):
            await serving(server, bind=f"unix:{path}").__aenter__()
        async with aiohttp.ClientSession(connector=aiohttp.UnixConnector(str(path))) as session:
            assert (await Api("http://anything", session).get("/info")).status == 200


async def test_a_node_removes_no_socket_but_its_own(server: str, tmp_path: Path) -> None:
    path = tmp_path / "node.sock"
    async with serving(server, bind=f"unix:{path}"):
        path.unlink()
    async with serving(server, bind=f"unix:{path}"):
        path.rename(tmp_path / "moved.sock")
        path.write_text("somebody else's")
    assert path.read_text() == "somebody else's"


# -- connections --------------------------------------------------------------------------------------


async def test_small_replies_do_not_wait_for_an_acknowledgement(api: Api) -> None:
    async with api.raw() as connection:
        await connection.send(b"GET /info HTTP/1.1\r\nHost: localhost\r\n\r\n")
        await connection.answer()
        (no_delay,) = [one.getsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY) for one in connections(api.address[1])]
    assert no_delay


@both_servers
async def test_one_connection_carries_more_than_a_thousand_requests(api: Api) -> None:
    async with api.raw() as connection:
        for _ in range(1100):
            await connection.send(b"GET /info HTTP/1.1\r\nHost: localhost\r\n\r\n")
            assert (await connection.answer()).status == 200


@both_servers
@pytest.mark.parametrize("head", ["GET /info HTTP/1.1\r\nX: {}", "GET /{} HTTP/1.1\r\nX: 1"], ids=["header", "target"])
async def test_a_head_above_64_kib_is_refused_however_it_arrives(api: Api, head: str) -> None:
    async with api.raw() as connection:
        await connection.send(f"{head.format('a' * 66_000)}\r\nHost: localhost\r\n\r\n".encode())
        assert (await connection.answer()).status == 431


@both_servers
async def test_a_flood_of_headers_is_431(api: Api) -> None:
    async with api.raw() as connection:
        flood = "".join(f"X-{n}: {'x' * 100}\r\n" for n in range(5000))
        with contextlib.suppress(ConnectionError):
            await connection.send(b"GET /info HTTP/1.1\r\nHost: localhost\r\n" + flood.encode())
        assert (await connection.answer()).status == 431
    assert (await api.get("/info")).status == 200


# -- mounted elsewhere --------------------------------------------------------------------------------


@pytest.mark.parametrize("strips_path", [False, True])
async def test_the_app_can_be_mounted_by_a_host_that_holds_the_node(strips_path: bool) -> None:
    """In ASGI, `path` contains `root_path`; older hosts strip it."""
    async with make_node() as node:
        app = AsgiApp(node, Limits(max_batch=2))
        prefix = "" if strips_path else "/compute"
        scope = {"root_path": "/compute"}
        status, body = await asgi_call(app, f"{prefix}/api/jobs", OK, client=("192.0.2.1", 1), **scope)
        assert status == 200
        (id,) = await node.find(JobQuery(client="192.0.2.1"))
        assert id.encode() in body
        await node.wait([id])
        assert (await asgi_call(app, f"{prefix}/api/jobs/batch", b"[1,2,3]", **scope))[0] == 413
        assert (await asgi_call(app, "/compute/nope", **scope))[0] == 404


async def test_a_length_that_a_host_lets_through_unread_is_400_and_named() -> None:
    async with make_node() as node:
        for length in (b"abc", b"", b"-1", b"+1", b"1.0"):
            status, body = await asgi_call(AsgiApp(node), "/api/jobs", OK, headers=[(b"content-length", length)])
            assert (status, b"Content-Length" in body) == (400, True), length


@pytest.mark.parametrize("path", ["/info", "/-/shown/"])
async def test_the_app_takes_part_in_a_hosts_lifespan_and_refuses_websockets(path: str) -> None:
    """Pages of plugins get nothing of them."""

    class Pages:
        def nodekit_routes(self) -> Sequence[Mount]:
            async def page(scope: Any, receive: Any, send: Any) -> None:
                raise AssertionError("it is handed on")

            return [Mount("shown", page)]

    async with make_node(plugins=[Pages()]) as node:
        app = AsgiApp(node)
        messages = [{"type": "lifespan.startup"}, {"type": "lifespan.shutdown"}]
        sent = await asgi_sent(app, {"type": "lifespan"}, *messages) + await asgi_sent(
            app, {"type": "websocket", "path": path}
        )
    told = ["lifespan.startup.complete", "lifespan.shutdown.complete", "websocket.close"]
    assert [message["type"] for message in sent] == told
