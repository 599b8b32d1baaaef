"""The proxy of the kit, between clients and a small server that sends back what it receives."""

import socket
import threading
from collections.abc import Iterator
from contextlib import suppress

import anyio
import pytest

from nodekit.testing import TcpProxy, no_leaks

SECONDS = 20.0
"""Limit for what must come."""
QUIET_SECONDS = 0.1
"""Time after which nothing more is expected."""


class Echo:
    """A server that sends back what it receives, and remembers it."""

    def __init__(self) -> None:
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.address: tuple[str, int] = self._listener.getsockname()
        self.received = bytearray()
        self.connections: list[socket.socket] = []
        self.ended = threading.Semaphore(0)
        """Released when a connection ends."""
        self._threads = [threading.Thread(target=self._accept)]
        self._threads[0].start()

    def _accept(self) -> None:
        with suppress(OSError):
            while True:
                connection, _ = self._listener.accept()
                self.connections.append(connection)
                thread = threading.Thread(target=self._serve, args=(connection,))
                self._threads.append(thread)
                thread.start()

    def _serve(self, connection: socket.socket) -> None:
        with connection, suppress(OSError):
            while chunk := connection.recv(1024):
                self.received += chunk
                connection.sendall(chunk)
        self.ended.release()

    def close(self) -> None:
        self._listener.shutdown(socket.SHUT_RDWR)
        self._listener.close()
        for connection in self.connections:
            with suppress(OSError):
                connection.shutdown(socket.SHUT_RDWR)
        for thread in self._threads:
            thread.join(SECONDS)


@pytest.fixture
def echo() -> Iterator[Echo]:
    echo = Echo()
    yield echo
    echo.close()


@pytest.fixture
def proxy(echo: Echo) -> Iterator[TcpProxy]:
    with TcpProxy(*echo.address) as proxy:
        yield proxy


@pytest.fixture
def client(proxy: TcpProxy) -> Iterator[socket.socket]:
    """Give a connection that has been used."""
    with connected(proxy) as client:
        assert echoed(client, b"hello")
        yield client


def connected(proxy: TcpProxy) -> socket.socket:
    return socket.create_connection(proxy.address, SECONDS)


def echoed(client: socket.socket, data: bytes) -> bool:
    """Return True if what is sent comes back, False if the connection is reset or closed instead."""
    with suppress(ConnectionError):
        client.sendall(data)
        return received(client, len(data)) == data
    return False


def received(client: socket.socket, count: int) -> bytes:
    data = b""
    while len(data) < count and (chunk := client.recv(count - len(data))):
        data += chunk
    return data


def silent(client: socket.socket) -> bool:
    """Return True if nothing comes: no data, no end, no error."""
    client.settimeout(QUIET_SECONDS)
    try:
        client.recv(1)
    except TimeoutError:
        return True
    finally:
        client.settimeout(SECONDS)
    return False


def works(proxy: TcpProxy) -> bool:
    """Return True if a new connection works."""
    with connected(proxy) as client:
        return echoed(client, b"new")


def test_it_carries_much_in_both_directions_and_for_many_clients(proxy: TcpProxy) -> None:
    data = bytes(range(256)) * 20_000
    with connected(proxy) as one, connected(proxy) as other:
        sender = threading.Thread(target=one.sendall, args=(data,))
        sender.start()
        assert echoed(other, b"other")
        assert received(one, len(data)) == data
        sender.join(SECONDS)


def test_the_end_of_one_direction_is_carried(client: socket.socket, echo: Echo) -> None:
    client.sendall(b"last words")
    client.shutdown(socket.SHUT_WR)
    assert received(client, 100) == b"last words"
    assert echo.ended.acquire(timeout=SECONDS)


def test_a_connection_that_the_engine_resets_is_reset_for_its_client(client: socket.socket, echo: Echo) -> None:
    echo.connections[0].setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, b"\1\0\0\0\0\0\0\0")
    echo.connections[0].shutdown(socket.SHUT_RD)  # wakes its thread, which closes it
    with suppress(ConnectionResetError):
        assert client.recv(1) == b""


def test_dropped_connections_are_reset_on_both_sides_and_new_ones_work(
    proxy: TcpProxy, client: socket.socket, echo: Echo
) -> None:
    proxy.drop()
    with pytest.raises(ConnectionResetError):
        client.recv(1)
    assert echo.ended.acquire(timeout=SECONDS)
    assert works(proxy)


def test_half_open_connections_stay_open_and_carry_nothing_even_after_healing(
    proxy: TcpProxy, client: socket.socket, echo: Echo
) -> None:
    proxy.half_open()
    client.sendall(b"lost")
    echo.connections[0].sendall(b"lost too")
    assert silent(client)
    assert works(proxy)
    proxy.heal()
    proxy.drop()
    assert silent(client)
    assert bytes(echo.received) == b"hellonew"
    assert echo.ended.acquire(timeout=SECONDS)  # the new one
    assert not echo.ended.acquire(timeout=QUIET_SECONDS)


def test_a_proxy_that_hangs_accepts_connections_and_carries_everything_once_it_is_healed(
    proxy: TcpProxy, client: socket.socket, echo: Echo
) -> None:
    proxy.hang()
    with connected(proxy) as new:
        client.sendall(b"old")
        new.sendall(b"new")
        assert silent(client)
        assert silent(new)
        assert bytes(echo.received) == b"hello"
        proxy.heal()
        assert received(client, 3) == b"old"
        assert received(new, 3) == b"new"


def test_what_the_engine_sends_is_held_back_while_the_proxy_hangs(
    proxy: TcpProxy, client: socket.socket, echo: Echo
) -> None:
    proxy.hang()
    echo.connections[0].sendall(b"news")
    echo.connections[0].shutdown(socket.SHUT_RDWR)
    assert silent(client)
    proxy.heal()
    assert received(client, 100) == b"news"


def test_a_slow_proxy_delays_each_direction(proxy: TcpProxy, client: socket.socket, echo: Echo) -> None:
    proxy.slow(4 * QUIET_SECONDS)
    client.sendall(b"slow")
    assert silent(client)
    assert bytes(echo.received) == b"hello"
    assert received(client, 4) == b"slow"
    proxy.slow(1000)
    client.sendall(b"slower")
    assert silent(client)
    proxy.heal()
    assert received(client, 6) == b"slower"


def test_a_proxy_that_refuses_resets_connections_and_takes_none_until_it_is_healed(
    proxy: TcpProxy, client: socket.socket, echo: Echo
) -> None:
    for _ in range(3):
        proxy.refuse()
        proxy.refuse()
        with pytest.raises(ConnectionRefusedError):
            connected(proxy)
        proxy.heal()
        assert works(proxy)
    assert not echoed(client, b"gone")
    assert echo.ended.acquire(timeout=SECONDS)


def test_one_fault_replaces_another(proxy: TcpProxy) -> None:
    proxy.refuse()
    proxy.hang()
    with connected(proxy) as client:
        client.sendall(b"held back")
        assert silent(client)
        proxy.slow(0.01)
        assert received(client, 9) == b"held back"


def test_requests_reach_the_engine_while_its_answers_are_cut(
    proxy: TcpProxy, client: socket.socket, echo: Echo
) -> None:
    proxy.cut_answers()
    assert silent(client)
    assert not echoed(client, b"done")
    assert not works(proxy)
    assert bytes(echo.received) == b"hellodonenew"
    proxy.heal()
    assert works(proxy)


def test_a_client_of_an_engine_that_is_not_there_is_reset() -> None:
    with socket.socket() as nobody:
        nobody.bind(("127.0.0.1", 0))
        with TcpProxy(*nobody.getsockname()) as proxy, suppress(ConnectionResetError):  # it may be reset at once
            with connected(proxy) as client:
                assert not echoed(client, b"hello")


@pytest.mark.anyio
@pytest.mark.parametrize("anyio_backend", ["asyncio", "trio"])
async def test_it_leaves_nothing_behind_and_serves_every_event_loop(echo: Echo) -> None:
    async with no_leaks():
        with TcpProxy(*echo.address) as proxy:
            streams = [await anyio.connect_tcp(*proxy.address) for _ in range(3)]
            for stream in streams:
                await stream.send(b"hello")
                with anyio.fail_after(SECONDS):
                    assert await stream.receive() == b"hello"
            proxy.half_open()
            streams.append(await anyio.connect_tcp(*proxy.address))
            proxy.hang()
            await streams[-1].send(b"hello")
        for stream in streams:
            await stream.aclose()
        with anyio.fail_after(SECONDS):
            await anyio.to_thread.run_sync(_all_ended, echo)
    with pytest.raises(OSError, match=r"refused|failed"):
        await anyio.connect_tcp(*proxy.address)


def _all_ended(echo: Echo) -> None:
    for _ in echo.connections:
        assert echo.ended.acquire(timeout=SECONDS)
