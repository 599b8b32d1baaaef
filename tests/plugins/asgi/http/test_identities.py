"""Callers that a plugin identifies, over HTTP."""

from typing import Any

import pytest
from components import Gate, functions, make_node
from http_api import asgi_call, both_servers, serving

from nodekit import (
    ClientLimits,
    Connection,
    Forbidden,
    Identity,
    JobRequest,
    Mount,
    Refusal,
    TooManyRequests,
    Unauthorized,
)
from nodekit_asgi import AsgiApp

pytestmark = pytest.mark.anyio


class Tokens:
    """Identifies callers by a token: two tokens of one client, an operator, and a token that may do nothing."""

    def __init__(self) -> None:
        self.asked: list[Connection] = []
        self.admitted: list[JobRequest] = []

    async def nodekit_identify(self, connection: Connection) -> Identity | None:
        self.asked.append(connection)
        token = connection.headers.get("authorization", "").removeprefix("Bearer ")
        if token == "nothing":
            raise Forbidden("this token may do nothing")
        if token not in ("one", "other", "operator"):
            raise Unauthorized("a token is needed", challenge='Bearer realm="node"')
        client = "operator" if token == "operator" else "alice"
        return Identity(client=client, group="team", operator=token == "operator", address=connection.address)

    async def nodekit_admit(self, request: JobRequest) -> None:
        self.admitted.append(request)

    def nodekit_routes(self) -> list[Mount]:
        async def page(scope: Any, receive: Any, send: Any) -> None:
            body = scope["nodekit.identity"].client.encode()
            await send({"type": "http.response.start", "status": 200, "headers": []})
            await send({"type": "http.response.body", "body": body})

        return [Mount("me", page)]


def bearer(token: str) -> dict[str, str]:
    return {"Authorization": f"Bearer {token}"}


@both_servers
async def test_a_caller_without_a_token_is_told_how_to_say_who_it_is(server: str) -> None:
    async with serving(server, plugins=[Tokens()]) as api:
        for path in ("/info", "/api/jobs", "/-/me/", "/no/such/path"):
            answer = await api.get(path)
            assert (answer.status, answer.error) == (401, "a token is needed")
            assert answer.headers["WWW-Authenticate"] == 'Bearer realm="node"'
        answer = await api.get("/info", headers=bearer("nothing"))
        assert (answer.status, answer.error) == (403, "this token may do nothing")


@both_servers
async def test_probes_and_documentation_need_no_identity(server: str) -> None:
    tokens = Tokens()
    async with serving(server, plugins=[tokens]) as api:
        for path in ("/health", "/health/live", "/docs", "/openapi.json"):
            assert (await api.get(path)).status == 200
    assert tokens.asked == []


@both_servers
async def test_jobs_belong_to_the_identified_client_whatever_its_token(server: str) -> None:
    tokens = Tokens()
    async with serving(server, plugins=[tokens]) as api:
        submitted = await api.call(
            "POST", "/api/jobs", json={"containers": ["echo"], "data": {}}, headers=bearer("one")
        )
        id = submitted.json["id"]
        for token, found in (("one", [id]), ("other", [id]), ("operator", [])):
            assert (await api.get("/api/jobs", headers=bearer(token))).json == found
        assert (await api.get("/-/me/", headers=bearer("other"))).body == b"alice"
    [request] = tokens.admitted
    assert (request.client, request.group, request.address) == ("alice", "team", "127.0.0.1")


@both_servers
async def test_a_plugin_learns_what_the_transport_knows(server: str) -> None:
    tokens = Tokens()
    async with serving(server, plugins=[tokens]) as api:
        await api.get("/api/jobs/nothing", headers={**bearer("one"), "X-Twice": "a"})
        await api.get("/-/me/", headers=bearer("one"))
        await api.get("/no/such/path", headers=bearer("one"))
    first = tokens.asked[0]
    assert (first.transport, first.client, first.address, first.secure) == ("http", "127.0.0.1", "127.0.0.1", False)
    assert first.headers["x-twice"] == "a"
    assert [asked.operation for asked in tokens.asked] == ["GET /api/jobs/{id}", "GET /-/me/", ""]


@both_servers
async def test_status_reports_are_taken_from_an_operator(server: str) -> None:
    async with serving(server, plugins=[Tokens()]) as api:
        submitted = await api.call(
            "POST", "/api/jobs", json={"containers": ["gate"], "data": {}}, headers=bearer("one")
        )
        report = {"id": submitted.json["id"], "status": "success", "containers": ["gate"], "data": {"a": 1}}
        assert (await api.call("PUT", "/api/status", json=report, headers=bearer("other"))).status == 403
        assert (await api.call("PUT", "/api/status", json=report, headers=bearer("operator"))).status == 200


@both_servers
async def test_who_is_identified_comes_before_limits_and_these_before_the_rest(server: str) -> None:
    class Closed:
        def nodekit_limit(self, identity: Identity) -> None:
            raise TooManyRequests(f"not {identity.client}", retry_after_seconds=1)

        async def nodekit_admit(self, request: JobRequest) -> None:
            raise Refusal("never asked")

    async with serving(server, plugins=[Tokens(), Closed()]) as api:
        assert (await api.get("/no/such/path")).status == 401
        answer = await api.call("POST", "/api/jobs", json={}, headers=bearer("one"))
        assert (answer.status, answer.error) == (429, "not alice")


@both_servers
async def test_a_plugin_that_breaks_answers_500_and_lets_nobody_in(server: str) -> None:
    class Breaks:
        async def nodekit_identify(self, connection: Connection) -> Identity | None:
            raise KeyError(connection.headers["no-such-header"])

    async with serving(server, plugins=[Breaks()]) as api:
        answer = await api.get("/info")
        assert (answer.status, answer.error) == (500, "internal error")
        assert (await api.get("/health")).status == 200


async def test_addresses_of_one_network_share_the_limit_of_a_client() -> None:
    limits = ClientLimits(max_pending=2)
    async with make_node(functions(gate=Gate()), each_client=limits, drain_seconds=0) as node:
        app, body = AsgiApp(node), b'{"containers": ["gate"], "data": {}}'
        senders = [f"2001:db8::{number}" for number in (1, 2, 3)] + ["2001:db8:0:1::1"]
        statuses = [(await asgi_call(app, "/api/jobs", body, client=(sender, 1)))[0] for sender in senders]
        assert statuses == [200, 200, 429, 200]
        groups = ("2001:db8::/64", "2001:db8:0:1::/64")
        assert (await node.pending(groups)).groups == {
            "2001:db8::/64": 2,
            "2001:db8:0:1::/64": 1,
        }


@pytest.mark.parametrize(
    ("header", "headers", "secure"),
    [
        ("x-forwarded-for", {"X-Forwarded-For": "192.0.2.1", "X-Forwarded-Proto": "https"}, True),
        ("x-forwarded-for", {"X-Forwarded-For": "192.0.2.1", "X-Forwarded-Proto": "https, http"}, False),
        ("x-forwarded-for", {"X-Forwarded-For": "192.0.2.1", "X-Forwarded-Proto": "http"}, False),
        ("x-forwarded-for", {"X-Forwarded-For": "192.0.2.1"}, False),
        ("x-forwarded-for", {"X-Forwarded-Proto": "https"}, False),
        ("x-forwarded-for", {"X-Forwarded-For": "192.0.2.1", "Forwarded": "for=192.0.2.1;proto=https"}, False),
        ("forwarded", {"Forwarded": "for=192.0.2.1;proto=https"}, True),
        ("forwarded", {"Forwarded": 'proto=https;for=192.0.2.2, for=192.0.2.1;Proto="HTTPS"'}, True),
        ("forwarded", {"Forwarded": "for=192.0.2.2;proto=https, for=192.0.2.1"}, False),
        ("forwarded", {"Forwarded": 'for=192.0.2.1;host="a\\"b, c";proto=https'}, True),
        ("forwarded", {"Forwarded": "for=192.0.2.1", "X-Forwarded-Proto": "https"}, False),
    ],
)
async def test_a_trusted_proxy_says_if_its_client_came_securely(
    header: str, headers: dict[str, str], secure: bool
) -> None:
    plugin = Tokens()
    async with serving("hypercorn", plugins=[plugin], trusted_proxies=("127.0.0.0/8",), forwarded_header=header) as api:
        assert (await api.get("/info", headers={**bearer("one"), **headers})).status == 200
        assert [connection.secure for connection in plugin.asked] == [secure]
    plugin = Tokens()
    async with serving("hypercorn", plugins=[plugin]) as api:
        await api.get("/info", headers={**bearer("one"), **headers})
        assert [connection.secure for connection in plugin.asked] == [False], "nobody else is believed"
