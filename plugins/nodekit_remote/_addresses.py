"""The way from a name to a socket: lookups off the event loop, and several addresses tried side by side."""

import asyncio
import errno
import socket
from contextlib import suppress
from dataclasses import dataclass
from typing import Any, TypeAlias

import anyio

from nodekit_remote._loopback import LOOPBACK

DNS_SECONDS = 30
"""Time for which the addresses of a name are known."""
MOST_NAMES = 1000
"""Maximum number of names that are known."""
STAGGER_SECONDS = 0.25
"""Time after which the next address is tried, too (RFC 8305)."""

Address: TypeAlias = tuple[socket.AddressFamily, Any]
"""The family, and the address as `socket.connect` takes it."""

NO_DESCRIPTOR = (errno.EMFILE, errno.ENFILE)


@dataclass(slots=True)
class _Known:
    addresses: list[Address]
    until: float


class Resolver:
    """The addresses of names. It knows both of ``localhost`` (RFC 6761). Many systems know one of them only."""

    def __init__(self) -> None:
        self._known: dict[tuple[str, int], _Known] = {}
        self._asked: dict[tuple[str, int], asyncio.Future[list[Address]]] = {}

    async def resolve(self, host: str, port: int) -> list[Address]:
        """Return the addresses of a name, in turn a different one first. Raise `OSError` if there is none."""
        if host.rstrip(".") == "localhost":
            return [(family, (address, port)) for address, family in LOOPBACK]
        with suppress(OSError):
            return _addresses(host, port, socket.AI_NUMERICHOST | socket.AI_NUMERICSERV)
        loop = asyncio.get_running_loop()
        known = self._known.get((host, port))
        if known is None or known.until < loop.time():
            known = _Known(await self._look_up(host, port), loop.time() + DNS_SECONDS)
            if len(self._known) >= MOST_NAMES:
                self._known.clear()
            self._known[host, port] = known
        else:
            known.addresses.append(known.addresses.pop(0))
        return list(known.addresses)

    def forget(self, host: str, port: int) -> None:
        """Look the name up again next time, because nothing answers at its addresses."""
        self._known.pop((host, port), None)

    async def _look_up(self, host: str, port: int) -> list[Address]:
        """Ask the system. Those who ask for one name meanwhile share the answer."""
        lookup = self._asked.get((host, port))
        if lookup is None:
            loop = asyncio.get_running_loop()
            lookup = self._asked[host, port] = loop.run_in_executor(None, _addresses, host, port, socket.AI_ADDRCONFIG)
            lookup.add_done_callback(lambda _: self._asked.pop((host, port), None))
        return list(await asyncio.shield(lookup))  # one that gives up must not end the others' lookup


def _addresses(host: str, port: int, flags: int) -> list[Address]:
    try:
        found = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM, flags=flags)
    except UnicodeError as error:
        raise OSError(errno.EINVAL, f"{host!r} is no name of a host") from error
    return _by_turns([(family, address) for family, _, _, _, address in found])


def _by_turns(addresses: list[Address]) -> list[Address]:
    """Return the addresses so that families alternate, beginning with the first one's (RFC 8305)."""
    first = [one for one in addresses if one[0] == addresses[0][0]]
    others = [one for one in addresses if one[0] != addresses[0][0]]
    mixed = [one for pair in zip(first, others, strict=False) for one in pair]
    return mixed + first[len(others) :] + others[len(first) :]


async def connected_socket(addresses: list[Address]) -> socket.socket:
    """Connect to the address that answers first. Raise `OSError` if none does.

    The next one is tried as soon as an attempt fails, or if it takes long.
    """
    if len(addresses) == 1:
        return await _connect(addresses[0])
    sockets: list[socket.socket] = []
    errors: list[OSError] = []
    try:
        await _race(addresses, sockets, errors)
    except BaseException:
        for one in sockets:
            one.close()
        raise
    for late in sockets[1:]:
        late.close()
    if sockets:
        return sockets[0]
    raise next((error for error in errors if error.errno in NO_DESCRIPTOR), errors[0])


async def _race(addresses: list[Address], sockets: list[socket.socket], errors: list[OSError]) -> None:
    """Fill the lists with what comes of the attempts, until one succeeds."""

    async def attempt(address: Address, failed: anyio.Event) -> None:
        try:
            sockets.append(await _connect(address))
            tasks.cancel_scope.cancel()
        except OSError as error:
            errors.append(error)
            failed.set()

    async with anyio.create_task_group() as tasks:
        for address in addresses:
            failed = anyio.Event()
            tasks.start_soon(attempt, address, failed)
            with anyio.move_on_after(STAGGER_SECONDS):
                await failed.wait()


async def _connect(address: Address) -> socket.socket:
    family, place = address
    made = socket.socket(family, socket.SOCK_STREAM)
    try:
        made.setblocking(False)
        made.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        await asyncio.get_running_loop().sock_connect(made, place)
        if made.getsockname()[:2] == place[:2]:  # nobody listens, and the system gave it the very port
            raise ConnectionRefusedError(errno.ECONNREFUSED, "connection refused")
    except BaseException:
        made.close()
        raise
    return made
