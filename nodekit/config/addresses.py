"""Addresses that the components of a node file listen at, by the keys of their settings. Nothing is bound."""

import os
from collections.abc import Iterable, Iterator
from ipaddress import IPv6Address, ip_address
from itertools import combinations, islice
from pathlib import Path
from typing import NamedTuple

from nodekit.config.findings import Configured
from nodekit.config.paths import resolved_path
from nodekit.errors import Problem

ADDRESS_KEYS = ("bind", "listen")
"""Names of settings that say where a component listens: ``host:port`` or ``unix:path``."""
MOST_ADDRESSES = 300
"""Number of addresses of which each is compared with each, so that every file is checked in a moment."""


class _Place(NamedTuple):
    """A place to listen at: a host and a port, or the path of a unix socket without a port."""

    host: str
    port: int | None


class _Setting(NamedTuple):
    """A setting that names a place. With a key for the port alone, it may be that of a server somewhere else."""

    where: str
    text: str
    place: _Place
    listens: bool


def clashing_addresses(components: Iterable[Configured], folder: Path) -> Iterator[Problem]:
    """Yield a problem for each address that cannot be listened at beside that of a component before it.

    Paths of unix sockets are relative to `folder`. Port 0 is another port each time. An address that is none is left to
    its component.
    """
    found = (setting for one in components for setting in _settings(one, folder))
    clashing: set[str] = set()
    for one, other in combinations(islice(found, MOST_ADDRESSES), 2):
        is_new = other.where not in clashing and (one.listens or other.listens)
        if is_new and _overlap(one.place, other.place):
            clashing.add(other.where)
            another = "path" if other.place.port is None else "port"
            text = f"{other.text} is taken: {one.where} is {one.text}; write another {another} in one of the two"
            yield Problem(other.where, text)


def _settings(one: Configured, folder: Path) -> Iterator[_Setting]:
    for key in ADDRESS_KEYS:
        text = getattr(one.config, key, None)
        if isinstance(text, str) and (place := _place(text, folder)) is not None:
            yield _Setting(f"{one.where}.{key}", text, place, listens=True)
    host, port = getattr(one.config, "host", None), getattr(one.config, "port", None)
    if one.kind == "transport" and isinstance(host, str) and isinstance(port, int) and port:
        text = f"[{host}]:{port}" if ":" in host else f"{host}:{port}"
        yield _Setting(f"{one.where}.port", text, _Place(_address(host.lower()), port), listens=False)


def _overlap(one: _Place, other: _Place) -> bool:
    if one.port != other.port:
        return False
    return one.host == other.host or _includes(one, other) or _includes(other, one)


def _includes(one: _Place, other: _Place) -> bool:
    """Return True if `one` is a port of all addresses. That of IPv6 takes the port of IPv4, too, as Linux has it."""
    return one.port is not None and (one.host == "::" or (one.host == "0.0.0.0" and ":" not in other.host))  # noqa: S104


def _place(text: str, folder: Path) -> _Place | None:
    if text.startswith("unix:"):
        try:
            return _Place(os.path.realpath(resolved_path(text.removeprefix("unix:"), folder)), None)
        except ValueError:
            return None
    host, _, port = text.rpartition(":")
    if not host or not port.isascii() or not port.isdecimal() or not 0 < int(port[:6]) < 1 << 16:
        return None
    return _Place(_address(host.removeprefix("[").removesuffix("]").lower()), int(port))


def _address(host: str) -> str:
    """Return an address in one form, also that of ``localhost``. Other names are left: they may need a network."""
    if host == "localhost":
        import socket  # it is heavy for an import of nodekit

        try:
            host = str(socket.getaddrinfo(host, None, type=socket.SOCK_STREAM)[0][4][0])
        except OSError:
            return host
    try:
        address = ip_address(host)
    except ValueError:
        return host
    mapped = address.ipv4_mapped if isinstance(address, IPv6Address) else None
    return str(mapped or address)
