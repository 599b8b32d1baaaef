"""Identity of clients in another ASGI server: the app takes it from that server's connection scope."""

import json
from collections.abc import Sequence
from typing import Any

import pytest
from components import SwitchRunner, make_node
from http_api import asgi_call

from nodekit import AsgiApplication, Container, JobQuery, Mount, Node
from nodekit_asgi import AsgiApp, Limits
from nodekit_guardian import Guardian, rules

pytestmark = pytest.mark.anyio

EVERYBODY = ("0.0.0.0/0", "::/0")
ADDRESSES = [
    *("127.0.0.1", "192.0.2.1", "::1", "2001:db8::1", "2001:DB8::A", "::ffff:192.0.2.2", "::FFFF:C000:203"),
    *("fe80::1%eth0", "fe80::1%eth1"),
]
TEXTS = [
    *("unix", "name:unix", "Unix", "name:", "alice", "Alice", "testclient", "localhost", " ", " 127.0.0.1"),
    "127.0.0.1 ",
    *("127.0.0.1:80", "[::1]", "[::1]:80", "::1%", "192.0.2.256", "192.0.2", "fe80::1%eth0%eth1", "\x00", "²", "None"),
    *("unix:/run/node.sock", "name:127.0.0.1", "name:name:unix", "::ffff:alice"),
]
NOBODY = [None, (), ("", 0), (None, None), ("", None), [None, 0]]


async def ask(app: Any, path: str, client: Any, body: bytes = b"", method: str = "", **headers: str) -> tuple[int, Any]:
    """Call the app as its server would; return the status, and the JSON of the reply."""
    lines = [(name.replace("_", "-").encode(), value.encode()) for name, value in headers.items()]
    named = {"method": method} if method else {}
    status, answer = await asgi_call(app, path, body, client=client, headers=lines, **named)
    return status, json.loads(answer) if answer else None


async def submit(app: AsgiApp, client: Any, container: str = "open") -> tuple[int, Any]:
    body = json.dumps({"containers": [container], "data": {}}).encode()
    return await ask(app, "/api/jobs", client, body)


def guarded() -> Node:
    allowed = rules(allowed_ips=EVERYBODY)
    containers = [Container(id="open"), Container(id="addressed", rules=allowed)]
    return make_node(SwitchRunner(*containers, up=["open", "addressed"]), plugins=[Guardian(), Pages()])


class Pages:
    """Mounts a public application and one for the node's own machine; records who called."""

    def __init__(self) -> None:
        self.clients: list[Any] = []

    def nodekit_routes(self) -> Sequence[Mount]:
        page: AsgiApplication = self.show
        return [Mount("open", page, True), Mount("here", page, False)]

    async def show(self, scope: Any, receive: Any, send: Any) -> None:
        self.clients.append(scope["client"])
        await send({"type": "http.response.start", "status": 200, "headers": []})
        await send({"type": "http.response.body", "body": b"1"})


async def test_each_client_reads_its_own_jobs_and_those_of_nobody_else() -> None:
    clients = [("", 0), *((host, 0) for host in [*ADDRESSES, *TEXTS])]
    async with guarded() as node:
        app = AsgiApp(node)
        jobs = {client: (await submit(app, client))[1]["id"] for client in clients}
        for client in clients:
            assert (await ask(app, "/api/jobs", client))[1] == [jobs[client]], client


@pytest.mark.parametrize("nobody", NOBODY)
async def test_only_a_client_without_any_address_is_the_one_of_unix_sockets(nobody: Any) -> None:
    async with guarded() as node:
        app = AsgiApp(node)
        _, job = await submit(app, nobody)
        assert await node.find(JobQuery(client="unix")) == [job["id"]]
        for host in [*ADDRESSES, *TEXTS]:
            assert (await ask(app, "/api/jobs", (host, 0)))[1] == [], host


@pytest.mark.parametrize(
    ("one", "other"),
    [
        ("192.0.2.1", "::ffff:192.0.2.1"),
        ("192.0.2.1", "::FFFF:C000:0201"),
        ("2001:db8::a", "2001:DB8:0:0::A"),
        ("fe80::1%eth0", "FE80:0::1%eth0"),
        ("alice", "alice"),
    ],
)
async def test_spellings_of_one_address_are_one_client_whatever_the_port(one: str, other: str) -> None:
    async with guarded() as node:
        app = AsgiApp(node)
        _, job = await submit(app, (one, 1))
        assert (await ask(app, "/api/jobs", (other, 2)))[1] == [job["id"]]


@pytest.mark.parametrize("host", TEXTS)
async def test_a_text_that_is_no_address_matches_none_that_a_node_names(host: str) -> None:
    limits = Limits(trusted_proxies=(*EVERYBODY, "unix"), status_networks=EVERYBODY)
    report = json.dumps({"id": "0" * 32, "status": "running", "containers": ["open"]}).encode()
    async with guarded() as node:
        app = AsgiApp(node, limits)
        status, answer = await submit(app, (host, 0), "addressed")
        assert (status, answer["error"]) == (400, "Container not allowed for address")
        assert (await ask(app, "/api/status", (host, 0), report, "PUT"))[0] == 403
        assert (await ask(app, "/-/here/", (host, 0)))[0] == 403
        _, job = await submit(app, ("192.0.2.7", 0))
        assert (await ask(app, "/api/jobs", (host, 0), x_forwarded_for="192.0.2.7"))[1] == [], job


@pytest.mark.parametrize("host", ADDRESSES)
async def test_an_address_matches_the_networks_that_it_is_in(host: str) -> None:
    async with guarded() as node:
        assert (await submit(AsgiApp(node), (host, 0), "addressed"))[0] == 200


@pytest.mark.parametrize(
    ("client", "seen"),
    [
        (("alice", 7), ("alice", 7)),
        (("unix", 0), ("unix", 0)),
        (("::FFFF:192.0.2.1", 7), ("192.0.2.1", 7)),
        (("", 0), None),
        (None, None),
    ],
)
async def test_a_mounted_application_sees_the_client_as_its_server_says(client: Any, seen: Any) -> None:
    pages = Pages()
    assert (await ask(AsgiApp(make_node(plugins=[pages])), "/-/open/", client))[0] == 200
    assert pages.clients == [seen]


@pytest.mark.parametrize("host", [b"\x7f\x00\x00\x01", 2130706433, True, ["127.0.0.1"], 0, b""])
async def test_what_is_no_text_is_no_address_and_no_unix_socket_either(host: Any) -> None:
    async with guarded() as node:
        app = AsgiApp(node)
        status, answer = await submit(app, (host, 0), "addressed")
        assert (status, answer["error"]) == (400, "Container not allowed for address")
        await submit(app, (host, 0))
        assert await node.find(JobQuery(client="unix")) == await node.find(JobQuery(client="127.0.0.1")) == []
