"""The sockets of this machine as the kernel knows them: whose they are."""

import errno
import os
import re
import socket
import struct
import sys
from collections.abc import Collection, Iterator
from contextlib import suppress
from pathlib import Path
from typing import NamedTuple, Self, TypeAlias

from nodekit_remote import listening_places

Address: TypeAlias = tuple[str, int]

ESTABLISHED, SYN_RECEIVED, LISTEN = 1, 3, 10
"""States of a TCP socket. A server may put off that a connection is established until it has received a byte."""

_SOCK_DIAG = 4
_BY_FAMILY = 20
_REQUEST = 1
_ERROR = 2
_ANY_COOKIE = b"\xff" * 8
_SOCKET = re.compile(r"socket:\[(\d+)\]")


class Socket(NamedTuple):
    """A TCP socket. One that no process has accepted yet has neither user nor inode."""

    state: int
    user: int
    inode: int


class SocketTable:
    """The kernel's table of TCP sockets. Only Linux shows it: elsewhere, `is_shown` is False and nothing can be asked.

    It is asked by `sock_diag(7)`, in some ten microseconds. A kernel without that has its tables in files, which take
    milliseconds to read.
    """

    def __init__(self) -> None:
        self.is_shown = sys.platform == "linux"
        self._kernel: socket.socket | None = None

    def __enter__(self) -> Self:
        """Connect to the kernel, so that no descriptor is needed later."""
        if self.is_shown:
            with suppress(OSError):
                self._kernel = socket.socket(socket.AF_NETLINK, socket.SOCK_DGRAM, _SOCK_DIAG)
                self._kernel.settimeout(1.0)  # it answers at once
                self._try()
        return self

    def __exit__(self, *error: object) -> None:
        self._close()

    def find(self, own: Address, peer: Address | None = None) -> Socket | None:
        """Return the socket with these two addresses, or the one that listens for such a connection. None: neither.

        The addresses are of one family, IPv4 or IPv6.
        """
        own = own[:2]  # those of IPv6 have more
        peer = peer[:2] if peer is not None else ("::" if ":" in own[0] else "0.0.0.0", 0)  # noqa: S104 - nobody
        if self._kernel is not None:
            return self._ask(self._kernel, own, peer)
        return _from_tables(own, peer)

    def _try(self) -> None:
        """Ask about a socket that exists."""
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            probe.listen(1)
            try:
                found = self.find(probe.getsockname())
            except OSError:
                found = None
            if found is None:
                self._close()

    def _close(self) -> None:
        if self._kernel is not None:
            self._kernel.close()
            self._kernel = None

    def _ask(self, kernel: socket.socket, own: Address, peer: Address) -> Socket | None:
        """Have the kernel look a socket up as it would for a packet."""
        ports = struct.pack("!HH", own[1], peer[1])
        addresses = b"".join(_packed(host).ljust(16, b"\0") for host, _ in (own, peer))
        request = struct.pack("=BBBBI", _family(own[0]), socket.IPPROTO_TCP, 0, 0, 0xFFFFFFFF)
        request += ports + addresses + struct.pack("=I", 0) + _ANY_COOKIE
        kernel.send(struct.pack("=IHHII", 16 + len(request), _BY_FAMILY, _REQUEST, 0, 0) + request)
        answer = kernel.recv(1 << 12)
        if struct.unpack_from("=H", answer, 4)[0] != _ERROR:
            return Socket(answer[17], *struct.unpack_from("=II", answer, 16 + 64))
        number = -struct.unpack_from("=i", answer, 16)[0]
        if number == errno.ENOENT:
            return None
        raise OSError(number, os.strerror(number))


def _from_tables(own: Address, peer: Address) -> Socket | None:
    """Look for a socket in the kernel's tables, where it answers no questions. The best match counts."""
    found: dict[tuple[str, str], Socket] = {}
    for name in ("tcp", "tcp6"):
        with suppress(FileNotFoundError):
            for line in Path(f"/proc/net/{name}").read_text(encoding="ascii").splitlines()[1:]:
                _, local, remote, state, _, _, _, user, _, inode, *_ = line.split()
                found.setdefault((local, remote), Socket(int(state, 16), int(user), int(inode)))
    nobody = ["00000000:0000", f"{'0' * 32}:0000"]
    any_host = [f"00000000:{own[1]:04X}", f"{'0' * 32}:{own[1]:04X}"]
    pairs = [(local, remote) for local, remote in zip(_shown(own), _shown(peer), strict=True)]
    pairs += [(local, remote) for local in [*_shown(own), *any_host] for remote in nobody]
    return next((found[pair] for pair in pairs if pair in found), None)


def _family(host: str) -> int:
    return socket.AF_INET6 if ":" in host else socket.AF_INET


def _packed(host: str) -> bytes:
    return socket.inet_pton(_family(host), host.partition("%")[0])


def _shown(address: Address) -> list[str]:
    """Return an address as the tables show it: of IPv4 also as it is mapped to IPv6."""
    if ":" in address[0]:
        return [f"{''.join(f'{word:08X}' for word in struct.unpack('=4I', _packed(address[0])))}:{address[1]:04X}"]
    host = f"{struct.unpack('=I', socket.inet_aton(address[0]))[0]:08X}"
    mapped = f"{'0' * 16}{struct.unpack('=I', bytes((0, 0, 255, 255)))[0]:08X}"
    return [f"{host}:{address[1]:04X}", f"{mapped}{host}:{address[1]:04X}"]


def places_of(pids: Collection[int]) -> list[str]:
    """Return where the processes listen for TCP, such as ``127.0.0.1:8000``, as far as they show it."""
    places: set[str] = set()
    for pid in pids:
        with suppress(OSError):
            found = (_SOCKET.fullmatch(link) for link in _links(pid))
            inodes = {int(socket[1]) for socket in found if socket}
            for name in ("tcp", "tcp6"):
                with suppress(FileNotFoundError):
                    tables = Path(f"/proc/{pid}/net/{name}").read_text(encoding="ascii")
                    places.update(listening_places(tables, inodes))
    return sorted(places)


def holds(pids: Collection[int], inode: int) -> bool | None:
    """Return True if one of the processes has the socket open; None if one of them may have it and does not say."""
    said: bool | None = False
    for pid in pids:
        try:
            if f"socket:[{inode}]" in set(_links(pid)):
                return True
        except PermissionError:
            said = None
        except OSError:  # it has ended
            continue
    return said


def _links(pid: int) -> Iterator[str]:
    folder = f"/proc/{pid}/fd"
    for name in os.listdir(folder):
        with suppress(FileNotFoundError):
            yield os.readlink(f"{folder}/{name}")
