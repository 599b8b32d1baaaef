"""The end of a node closes every connection, also those that came in that moment or whose client does not read."""

import gc
import socket
from collections.abc import AsyncGenerator, Iterator
from contextlib import ExitStack, contextmanager
from typing import Any

import anyio
import anyio.to_thread
import pytest
import uvicorn
from components import functions
from http_api import Api, both_servers, post, serving

from nodekit_asgi.server import hypercorn_connections, listen, servers

pytestmark = pytest.mark.anyio

CLIENTS = 100
ENDLESS = post(b'{"containers": ["endless"], "data": {}}', path="/api/jobs/stream")


@pytest.fixture
def anyio_backend() -> str:
    return "asyncio"


@contextmanager
def connected(api: Api, count: int) -> Iterator[list[socket.socket]]:
    """Connect clients without a turn of the event loop, so that the node has not accepted them yet."""
    with ExitStack() as stack:
        yield [stack.enter_context(socket.create_connection(api.address, timeout=30)) for _ in range(count)]


def read_to_the_end(client: socket.socket) -> int:
    """Return the number of bytes until the connection is closed. Raise `TimeoutError` if it stays open."""
    received = 0
    try:
        while data := client.recv(1 << 16):
            received += len(data)
    except ConnectionResetError:
        pass
    return received


@both_servers
@pytest.mark.parametrize("turns", [0, 1, 2, 3])
async def test_clients_that_come_as_the_node_ends_are_not_left_waiting(
    server: str, turns: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def look_every_turn(self: uvicorn.Server) -> None:
        while not self.should_exit:
            await anyio.sleep(0)

    async def stop_accepting(listener: socket.socket) -> None:
        clients.extend(stack.enter_context(connected(api, CLIENTS)))
        for _ in range(turns):
            await anyio.sleep(0)
        await listen.stop_accepting(listener)

    monkeypatch.setattr(uvicorn.Server, "main_loop", look_every_turn)  # it looks every 0.1 s otherwise
    for module in (servers, hypercorn_connections):
        monkeypatch.setattr(module, "stop_accepting", stop_accepting)
    clients = list[socket.socket]()
    with ExitStack() as stack:
        async with serving(server) as api:
            await api.get("/health")
        assert len(clients) == CLIENTS
        for client in clients:
            await anyio.to_thread.run_sync(read_to_the_end, client)
    gc.collect()  # a connection that nobody closed fails this test, not a later one


async def endless(data: Any) -> AsyncGenerator[bytes, None]:
    while True:
        yield b"*" * (1 << 20)


@both_servers
async def test_a_client_that_does_not_read_is_cut_off_at_the_end(server: str, caplog: pytest.LogCaptureFixture) -> None:
    with ExitStack() as stack:
        async with serving(server, runners=[functions(endless=endless)], stop_seconds=0.2) as api:
            (client,) = stack.enter_context(connected(api, 1))
            client.sendall(ENDLESS)
            await anyio.to_thread.run_sync(client.recv, 1)
        assert await anyio.to_thread.run_sync(read_to_the_end, client) > 0
    assert not [record for record in caplog.records if record.name == "asyncio"]
