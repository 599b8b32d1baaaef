"""Connections past the limit wait in the backlog; nothing fails, and nothing spins."""

import asyncio
import errno
import logging
import select
import socket
from pathlib import Path
from typing import Any

import anyio
import pytest
from components import functions, until
from connections import descriptors
from http_api import Api, RawConnection, both_servers, serving
from served import serve

from nodekit_asgi.server import bounded_listener
from nodekit_asgi.server.bounded_listener import BoundedListener
from nodekit_asgi.server.listen import listen

pytestmark = pytest.mark.anyio

REQUEST = b"GET /info HTTP/1.1\r\nHost: localhost\r\n\r\n"


@pytest.fixture
def anyio_backend() -> str:
    return "asyncio"


def readable(listener: socket.socket) -> bool:
    """Return True if an event loop would be told to accept a connection."""
    return bool(select.select([listener.fileno()], [], [], 0)[0])


def test_a_listener_lets_in_so_many_and_one_more_for_each_that_goes() -> None:
    with BoundedListener(listen("127.0.0.1:0"), 2) as listener:
        assert not readable(listener)
        clients = [socket.create_connection(listener.getsockname()) for _ in range(3)]
        first, _ = listener.accept()
        second, _ = listener.accept()
        assert first.proto == socket.IPPROTO_TCP  # asyncio sets TCP_NODELAY only then
        assert readable(listener)
        with pytest.raises(BlockingIOError):
            listener.accept()
        assert not readable(listener)
        first.close()
        first.close()
        assert readable(listener)
        third, _ = listener.accept()
        with pytest.raises(BlockingIOError):
            listener.accept()
        for some in (*clients, second, third):
            some.close()
        assert listener.open == 0
    assert listener.fileno() == -1


def test_clients_do_not_wait_behind_many_connections_of_one_that_has_too_many() -> None:
    with BoundedListener(listen("127.0.0.1:0"), 99, most_each=1) as listener:
        address = listener.getsockname()
        greedy = [socket.create_connection(address, source_address=("127.0.0.2", 0)) for _ in range(30)]
        other = socket.create_connection(address)
        accepted = [listener.accept() for _ in range(2)]
        assert [name[0] for _, name in accepted] == ["127.0.0.2", "127.0.0.1"]
        for some in (*greedy, other, *(connection for connection, _ in accepted)):
            some.close()


@pytest.mark.parametrize("error", [errno.EMFILE, errno.ENFILE, errno.ENOBUFS, errno.ENOMEM])
async def test_a_process_without_descriptors_waits_and_tries_again(
    error: int, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """Others than connections may take them, so it does not wait for connections to close only."""

    def none_left(self: socket.socket) -> None:
        raise OSError(error, "none left")

    monkeypatch.setattr(bounded_listener, "RETRY_SECONDS", 0.01)
    with BoundedListener(listen("127.0.0.1:0"), 9) as listener:
        clients = [socket.create_connection(listener.getsockname()) for _ in range(2)]
        with monkeypatch.context() as patch:
            patch.setattr(socket.socket, "accept", none_left)
            for _ in range(5):
                with pytest.raises(BlockingIOError):
                    listener.accept()
                assert not readable(listener)
                await until(lambda: readable(listener))
        first, _ = listener.accept()
        second, _ = listener.accept()
        for some in (*clients, first, second):
            some.close()
    assert caplog.text.count("no descriptor left") == 1


@both_servers
async def test_a_node_that_runs_out_of_descriptors_says_so_once_and_recovers(server: str, tmp_path: Path) -> None:
    """Its file allows more connections than the system does."""
    file = tmp_path / "node.toml"
    limits = "max_connections = 9999\nmax_client_connections = 9999"
    file.write_text(
        f'[store]\nuse = "memory"\n[[transports]]\nuse = "asgi"\nbind = "127.0.0.1:0"\nserver = "{server}"\n{limits}'
    )
    async with serve(file, open_files=60) as (served, api):
        clients = [await connection(api) for _ in range(200)]
        await until(lambda: "no descriptor left" in served.log)
        for one in clients:
            one.writer.close()
        assert (await api.get("/info")).status == 200
        assert served.log.count("no descriptor left") == 1
        assert "Traceback" not in served.log


@both_servers
async def test_a_client_past_the_limit_waits_until_another_goes(server: str, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.WARNING)
    async with serving(server, max_connections=3, max_client_connections=3) as api:
        held = [await connection(api) for _ in range(3)]
        for some in held:
            await some.send(REQUEST)
            assert (await some.answer()).status == 200
        late = await connection(api)
        await late.send(REQUEST)
        await until(lambda: "as many as there may be" in caplog.text)
        held[0].writer.close()
        assert (await late.answer()).status == 200
        for some in (*held, late):
            some.writer.close()
    assert caplog.text.count("further clients wait") == 1


async def connected_from(address: str, api: Api) -> RawConnection:
    return RawConnection(*await asyncio.open_connection(*api.address, local_addr=(address, 0)))


async def is_served(client: RawConnection) -> bool:
    """Send a request; return False if the node has closed the connection."""
    try:
        await client.send(REQUEST)
        return (await client.answer()).status == 200
    except (ConnectionError, asyncio.IncompleteReadError):
        return False


@both_servers
async def test_one_client_leaves_connections_for_others(server: str, caplog: pytest.LogCaptureFixture) -> None:
    async with serving(server, max_connections=8) as api:
        greedy = [await connected_from("127.0.0.2", api) for _ in range(12)]
        assert [await is_served(one) for one in greedy] == [True] * 6 + [False] * 6
        others = [await connected_from(f"127.0.0.{number}", api) for number in (3, 4)]
        assert [await is_served(one) for one in others] == [True, True]
        greedy[0].writer.close()
        with anyio.fail_after(60):
            while not await is_served(again := await connected_from("127.0.0.2", api)):
                again.writer.close()
        for one in (*greedy, *others, again):
            one.writer.close()
    assert caplog.text.count("127.0.0.2 has 6 open connections") == 1


@both_servers
async def test_a_trusted_proxy_may_have_all_connections(server: str) -> None:
    async with serving(server, max_connections=6, trusted_proxies=("127.0.0.2",)) as api:
        proxied = [await connected_from("127.0.0.2", api) for _ in range(6)]
        assert [await is_served(one) for one in proxied] == [True] * 6
        for one in proxied:
            one.writer.close()


@both_servers
async def test_a_connection_whose_client_has_gone_is_closed_at_once(server: str) -> None:
    async with serving(server) as api:
        before = descriptors()
        idle, asking, waiting = [await connection(api) for _ in range(3)]
        for some in (idle, waiting):
            await some.send(REQUEST)
            assert (await some.answer()).status == 200
        await asking.send(REQUEST[:20])
        assert descriptors() > before
        for some in (idle, asking, waiting):
            some.writer.close()
        await until(lambda: descriptors() == before)


@both_servers
async def test_a_client_that_does_not_read_its_reply_does_not_keep_the_node_from_ending(server: str) -> None:
    async def large(data: Any) -> Any:
        return "x" * 12_000_000

    with anyio.fail_after(60):
        async with serving(server, runners=[functions(large=large)], stop_seconds=0.2) as api:
            id = await api.submit("large")
            await api.results(id)
            deaf = socket.socket()
            deaf.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
            deaf.connect(api.address)
            deaf.sendall(f"GET /api/jobs?id={id} HTTP/1.1\r\nHost: localhost\r\n\r\n".encode())
            await asyncio.to_thread(deaf.recv, 100)
    deaf.close()


@both_servers
@pytest.mark.parametrize("anyio_backend", [("asyncio", {"use_uvloop": True})], ids=["uvloop"])
async def test_a_loop_that_takes_the_descriptor_itself_is_served_without_a_limit(server: str) -> None:
    async with serving(server, max_connections=2) as api:
        held = [await connection(api) for _ in range(3)]
        for some in held:
            await some.send(REQUEST)
            assert (await some.answer()).status == 200
            some.writer.close()


async def connection(api: Api) -> RawConnection:
    return RawConnection(*await asyncio.open_connection(*api.address))
