"""Names and addresses: lookups that are shared and kept, and several addresses tried side by side."""

import errno
import resource
import socket
import threading
from collections.abc import Iterator
from types import SimpleNamespace
from typing import Any

import anyio
import pytest

from nodekit_remote import _addresses
from nodekit_remote._addresses import Address, Resolver, connected_socket

pytestmark = pytest.mark.anyio

ONE = (socket.AF_INET, socket.SOCK_STREAM, 6, "", ("192.0.2.1", 80))
TWO = (socket.AF_INET, socket.SOCK_STREAM, 6, "", ("192.0.2.2", 80))
SIX = (socket.AF_INET6, socket.SOCK_STREAM, 6, "", ("2001:db8::1", 80, 0, 0))


@pytest.fixture(params=["asyncio", "uvloop"])
def anyio_backend(request: pytest.FixtureRequest) -> Any:
    return "asyncio", {"use_uvloop": request.param == "uvloop"}


class Names:
    """The names of the system. Lookups wait until `answer` is set."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, *found: Any) -> None:
        self.asked: list[str] = []
        self.answer = threading.Event()
        self._found: tuple[Any, ...] = found
        self._usual = socket.getaddrinfo
        monkeypatch.setattr(_addresses.socket, "getaddrinfo", self._look_up)

    def _look_up(self, host: str, port: int, **more: Any) -> list[Any]:
        if more.get("flags", 0) & socket.AI_NUMERICHOST or not host.endswith(".test"):
            return list(self._usual(host, port, **more))
        self.asked.append(host)
        self.answer.wait(60)
        if not self._found:
            raise socket.gaierror(socket.EAI_NONAME, "Name or service not known")
        return list(self._found)


async def test_addresses_need_no_lookup(monkeypatch: pytest.MonkeyPatch) -> None:
    names = Names(monkeypatch)
    resolver = Resolver()
    assert await resolver.resolve("127.0.0.1", 80) == [(socket.AF_INET, ("127.0.0.1", 80))]
    assert await resolver.resolve("::1", 80) == [(socket.AF_INET6, ("::1", 80, 0, 0))]
    assert [address[0] for _, address in await resolver.resolve("localhost", 80)] == ["127.0.0.1", "::1"]
    assert names.asked == []


async def test_those_who_ask_for_one_name_share_the_lookup_and_one_may_leave(monkeypatch: pytest.MonkeyPatch) -> None:
    names, resolver, found = Names(monkeypatch, ONE), Resolver(), []

    async def ask() -> None:
        found.append(await resolver.resolve("a.test", 80))

    async with anyio.create_task_group() as tasks:
        with anyio.CancelScope() as leaves:
            async with anyio.create_task_group() as leaving:
                leaving.start_soon(ask)
                while not names.asked:
                    await anyio.sleep(0.01)
                leaves.cancel()
        for _ in range(3):
            tasks.start_soon(ask)
        await anyio.wait_all_tasks_blocked()
        names.answer.set()
    assert found == [[(socket.AF_INET, ("192.0.2.1", 80))]] * 3
    assert names.asked == ["a.test"]


async def test_addresses_are_kept_for_a_while_and_take_turns(monkeypatch: pytest.MonkeyPatch) -> None:
    names, resolver = Names(monkeypatch, ONE, TWO), Resolver()
    names.answer.set()
    first = [(await resolver.resolve("a.test", 80))[0][1][0] for _ in range(4)]
    assert first == ["192.0.2.1", "192.0.2.2", "192.0.2.1", "192.0.2.2"]
    assert len(names.asked) == 1
    resolver.forget("a.test", 80)
    await resolver.resolve("a.test", 80)
    monkeypatch.setattr(_addresses, "DNS_SECONDS", -1)
    resolver.forget("a.test", 80)
    for _ in range(2):
        await resolver.resolve("a.test", 80)
    assert len(names.asked) == 4


async def test_names_that_are_not_known_are_not_kept(monkeypatch: pytest.MonkeyPatch) -> None:
    names, resolver = Names(monkeypatch), Resolver()
    names.answer.set()
    for _ in range(2):
        with pytest.raises(socket.gaierror, match="Name or service not known"):
            await resolver.resolve("a.test", 80)
    assert len(names.asked) == 2


async def test_the_number_of_kept_names_has_a_limit(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(_addresses, "MOST_NAMES", 3)
    Names(monkeypatch, ONE).answer.set()
    resolver = Resolver()
    for number in range(20):
        await resolver.resolve(f"{number}.test", 80)
    assert len(resolver._known) <= 3


async def test_families_alternate(monkeypatch: pytest.MonkeyPatch) -> None:
    Names(monkeypatch, SIX, SIX, SIX, ONE).answer.set()
    families = [family for family, _ in await Resolver().resolve("a.test", 80)]
    assert families == [socket.AF_INET6, socket.AF_INET, socket.AF_INET6, socket.AF_INET6]


@pytest.mark.parametrize("host", ["a" * 300 + ".test", "a..test", "\udce9.test"])
async def test_what_is_no_name_is_an_error_of_the_system(host: str) -> None:
    with pytest.raises(OSError, match=r"is no name of a host|not known|label"):
        await Resolver().resolve(host, 80)


# -- connecting ---------------------------------------------------------------------------------------


@pytest.fixture
def listens() -> Iterator[Address]:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        yield socket.AF_INET, listener.getsockname()


@pytest.fixture
def hangs() -> Iterator[Address]:
    """Yield an address at which connecting takes for ever: nobody accepts, and the queue is full."""
    with socket.socket() as listener, socket.socket() as first:
        listener.bind(("127.0.0.1", 0))
        listener.listen(0)
        first.connect(listener.getsockname())
        yield socket.AF_INET, listener.getsockname()


@pytest.fixture
def refuses(free_tcp_port: int) -> Address:
    return socket.AF_INET, ("127.0.0.1", free_tcp_port)


async def test_an_address_that_hangs_or_refuses_does_not_keep_from_the_next(
    hangs: Address, refuses: Address, listens: Address
) -> None:
    for addresses in ([hangs, refuses, listens], [refuses, listens, hangs], [listens, hangs], [listens]):
        with anyio.fail_after(60):
            connected = await connected_socket(addresses)
        with connected:
            assert connected.getpeername() == listens[1]
            assert connected.getsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY)


async def test_if_all_refuse_so_does_the_whole(refuses: Address) -> None:
    for addresses in ([refuses], [refuses, refuses, refuses]):
        with pytest.raises(ConnectionRefusedError):
            await connected_socket(addresses)


async def test_no_descriptor_is_told_before_all_that_refuses(refuses: Address) -> None:
    limits = resource.getrlimit(resource.RLIMIT_NOFILE)
    with socket.socket() as last:
        last.bind(("127.0.0.1", 0))
        resource.setrlimit(resource.RLIMIT_NOFILE, (last.fileno(), limits[1]))
        try:
            with pytest.raises(OSError, match="Too many open files") as raised:
                await connected_socket([refuses, refuses])
        finally:
            resource.setrlimit(resource.RLIMIT_NOFILE, limits)
    assert raised.value.errno == errno.EMFILE


async def test_who_gives_up_leaves_no_socket(hangs: Address) -> None:
    for addresses in ([hangs], [hangs, hangs]):
        with anyio.move_on_after(0.01) as scope:
            await connected_socket(addresses)
        assert scope.cancelled_caught  # an open socket would be a warning, and warnings are errors


async def test_a_connection_to_itself_is_none(monkeypatch: pytest.MonkeyPatch, free_tcp_port: int) -> None:
    def bound(family: int, kind: int) -> socket.socket:
        """Make a socket with the port that is called, as the system does if it is one of those that it gives out."""
        made = socket.socket(family, kind)
        made.bind(("127.0.0.1", free_tcp_port))
        return made

    monkeypatch.setattr(_addresses, "socket", SimpleNamespace(**{**vars(socket), "socket": bound}))
    with pytest.raises(ConnectionRefusedError):
        await connected_socket([(socket.AF_INET, ("127.0.0.1", free_tcp_port))])
