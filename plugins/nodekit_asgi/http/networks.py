"""Addresses and networks, as settings name them. An IPv4 address mapped into IPv6 counts as IPv4."""

from collections.abc import Iterable, Sequence
from functools import lru_cache
from ipaddress import IPv4Network, IPv6Address, IPv6Network, ip_address, ip_network
from typing import Any

UNIX = "unix"
"""The name of all peers of a unix socket, which have no address."""

_NAMED = "name:"
"""Prefix of the name of a peer without an address. No address begins with it, and neither does ``unix``."""

_MAPPED = IPv6Network("::ffff:0:0/96")


def check_networks(name: str, networks: Iterable[str]) -> None:
    """Raise `ValueError`, which names the setting, for texts that are neither an address nor a network."""
    wrong: list[str] = []
    for text in networks:
        try:
            ip_network(text)
        except ValueError as error:
            wrong.append(str(error))
    if wrong:
        raise ValueError(f"{name}: {'; '.join(wrong)}; expected an address or a network such as 10.0.0.0/8")


@lru_cache(1024)
def unmapped(address: str) -> str | None:
    """Return an address in its normal form. Return None if the text is not an address."""
    try:
        parsed = ip_address(address)
    except ValueError:
        return None
    return str((parsed.ipv4_mapped or parsed) if isinstance(parsed, IPv6Address) else parsed)


def peer_name(client: Any) -> str:
    """Return the name of the peer in an ASGI scope's ``client``: its address in normal form, or `UNIX` without one.

    A text that is not an address, such as ``testclient``, is a peer of its own: ``name:testclient``.
    """
    host = client[0] if client else None
    if host is None or host == "":
        return UNIX
    return unmapped(str(host)) or f"{_NAMED}{host}"  # a number or bytes could be taken for an address


@lru_cache(1024)
def in_networks(client: str, networks: tuple[str, ...]) -> bool:
    """Return True if a client's address is in one of the networks, which must be checked before."""
    address = unmapped(client)
    return address is not None and any(ip_address(address) in network for network in _parsed(networks))


@lru_cache(64)
def _parsed(networks: tuple[str, ...]) -> Sequence[IPv4Network | IPv6Network]:
    return [_unmapped_network(ip_network(text)) for text in networks if text != UNIX]


def _unmapped_network(network: IPv4Network | IPv6Network) -> IPv4Network | IPv6Network:
    if isinstance(network, IPv6Network) and network.subnet_of(_MAPPED):
        return IPv4Network((int(network.network_address) & 0xFFFFFFFF, network.prefixlen - 96))
    return network
