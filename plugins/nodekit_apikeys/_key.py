"""Keys and policies: who a caller is, and what it may do."""

import re
from functools import lru_cache
from ipaddress import IPv4Network, IPv6Address, IPv6Network, ip_address, ip_network
from typing import Annotated, Literal, TypeAlias

import msgspec

from nodekit import ClientLimits

Scope: TypeAlias = Literal["submit", "read", "cancel", "operate", "metrics"]

OPERATE: Scope = "operate"
USUAL: tuple[Scope, ...] = ("submit", "read", "cancel")
"""Scopes of a key for which none are said."""

NAME_PATTERN = r"^(?![0-9.]+$)(?!(?i:unix|local)$)[A-Za-z0-9](?:[A-Za-z0-9_.@-]{0,62}[A-Za-z0-9])?$(?!\n)"
"""A name of which no address is one: it would read the jobs of a caller without a key. No ``:`` for that reason."""
NAME_CURE = (
    "expected 1 to 64 letters, digits and . _ - @, a letter or digit first and last; "
    "addresses, unix and local are names of callers without a key"
)

_IS_NAME = re.compile(NAME_PATTERN)

Name: TypeAlias = Annotated[str, msgspec.Meta(pattern=NAME_PATTERN)]
Count: TypeAlias = Annotated[int, msgspec.Meta(ge=1)]


@lru_cache(4096)
def is_name(text: str) -> bool:
    """Return True if a key may have this name."""
    return _IS_NAME.search(text) is not None


class Policy(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True, omit_defaults=True, gc=False):
    """The rights of a caller. An empty list allows all of its kind; unset limits are those of the node.

    - `scopes`: Kinds of requests: ``submit``, ``read``, ``cancel``, ``metrics``, and ``operate``, which includes all.
    - `containers`: Containers that its jobs may name.
    - `pipelines`: Pipelines that its jobs may name.
    - `networks`: Addresses and networks (CIDR, v4 and v6) from which it may be used.
    - `requests_per_minute`: Number of requests that it may make at once, and in each minute.
    - `max_pending`, `max_priority`, `max_stored_bytes`: As in `ClientLimits`.
    """

    scopes: tuple[Scope, ...] = USUAL
    containers: tuple[str, ...] = ()
    pipelines: tuple[str, ...] = ()
    networks: tuple[str, ...] = ()
    requests_per_minute: Count | None = None
    max_pending: Count | None = None
    max_priority: Annotated[int, msgspec.Meta(ge=0, le=7)] | None = None
    max_stored_bytes: Count | None = None

    def __post_init__(self) -> None:
        if self.networks:
            check_networks(self.networks)

    def allows(self, needed: frozenset[Scope]) -> bool:
        """Return True if one of the scopes is enough for an operation that needs one of `needed`."""
        return any(scope == OPERATE or scope in needed for scope in self.scopes)

    def allows_address(self, address: str | None) -> bool:
        """Return True if it may be used from an address. A caller without an address is in no network."""
        return not self.networks or in_networks(address, self.networks)

    @property
    def limits(self) -> ClientLimits | None:
        """The limits that it sets. None if it sets none."""
        if self.max_pending is None and self.max_priority is None and self.max_stored_bytes is None:
            return None
        return ClientLimits(
            max_pending=self.max_pending, max_priority=self.max_priority, max_stored_bytes=self.max_stored_bytes
        )


class StoredSecret(msgspec.Struct, frozen=True, forbid_unknown_fields=True, omit_defaults=True, gc=False):
    """A secret of a key, as the file has it.

    - `digest`: Hash of the key's text.
    - `expires`: Time in Unix seconds from which it is refused. None: when its key expires.
    """

    digest: Annotated[str, msgspec.Meta(min_length=64, max_length=64)]
    expires: float | None = None


class Key(Policy, frozen=True, kw_only=True, forbid_unknown_fields=True, omit_defaults=True, gc=False):
    """A key of a client. Times are Unix seconds.

    - `id`: Public part of its text.
    - `name`: Client whose jobs it may use.
    - `group`: Group with which it shares limits and turns. Empty: none but itself.
    - `secrets`: Secrets that are valid, the newest one last; the others are those before a rotation.
    - `expires`: Time from which it is refused.
    - `revoked`: Time at which it was revoked. Its name stays taken.
    """

    id: Annotated[str, msgspec.Meta(min_length=12, max_length=12)]
    name: Name
    group: Annotated[str, msgspec.Meta(pattern=f"^$|{NAME_PATTERN}")] = ""
    secrets: tuple[StoredSecret, ...] = ()
    created: float
    expires: float | None = None
    revoked: float | None = None

    @property
    def operates(self) -> bool:
        return OPERATE in self.scopes

    def state(self, now: float) -> Literal["valid", "expired", "revoked"]:
        """Return its state at a time."""
        if self.revoked is not None:
            return "revoked"
        return "expired" if self.expires is not None and now >= self.expires else "valid"


def check_networks(networks: tuple[str, ...]) -> None:
    """Raise `ValueError` for a text that is neither an address nor a network."""
    for text in networks:
        try:
            ip_network(text)
        except ValueError as error:
            raise ValueError(f"networks: {error}; expected an address or a network such as 10.0.0.0/8") from error


@lru_cache(4096)
def in_networks(address: str | None, networks: tuple[str, ...]) -> bool:
    """Return True if an address is in one of the networks. An IPv4 address mapped into IPv6 counts as IPv4."""
    try:
        parsed = ip_address((address or "").partition("%")[0])
    except ValueError:
        return False
    if isinstance(parsed, IPv6Address):
        parsed = parsed.ipv4_mapped or parsed
    return any(parsed in _unmapped(ip_network(text)) for text in networks)


def _unmapped(network: IPv4Network | IPv6Network) -> IPv4Network | IPv6Network:
    if isinstance(network, IPv6Network) and network.network_address.ipv4_mapped and network.prefixlen >= 96:
        return IPv4Network((network.network_address.ipv4_mapped, network.prefixlen - 96))
    return network
