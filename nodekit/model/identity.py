"""Identities: who asks, and with whom a client shares limits and turns."""

from collections.abc import Mapping
from contextvars import ContextVar
from functools import lru_cache
from ipaddress import IPv6Address

import msgspec

from nodekit.model.container import ClientId, GroupId

OWN_GROUP = "local"
"""Group of jobs that the node's own program submits without the name of a client. It may hold everything."""


class Connection(msgspec.Struct, frozen=True, kw_only=True):
    """The facts that say who sends a request, as its transport knows them before the request is examined.

    - `transport`: Kind of the transport, such as ``http``.
    - `client`: Client by its address: an IP address, or a name such as ``unix``. It is the client if no plugin names
      another.
    - `address`: IP address of the client. None if it has none (a unix socket, the same process).
    - `headers`: Headers by their lower-case names. The values of a repeated header are joined by ``, ``.
    - `secure`: True on TLS and on a unix socket: nobody on the way to the node can read along. Behind a trusted
      proxy, it is what the proxy says.
    - `repeated`: True if the caller was identified before, and its request still lasts: nobody tries keys now.
    - `operation`: Operation that is asked for, such as ``GET /api/jobs/{id}``. Empty if there is none of this name.
    """

    transport: str
    client: ClientId
    address: str | None = None
    headers: Mapping[str, str] = {}
    secure: bool = False
    repeated: bool = False
    operation: str = ""


class Identity(msgspec.Struct, frozen=True, kw_only=True):
    """A caller: the client whose jobs it may see, and what it shares with others.

    - `group`: Group whose limits and turns the client shares. By default the client itself, or the /64 of an IPv6
      address.
    - `operator`: True for a caller that acts for every client: it may use every job, and report results of any.
    - `address`: IP address, for guards and the log.
    """

    client: ClientId
    group: GroupId = ""
    operator: bool = False
    address: str | None = None

    def __post_init__(self) -> None:
        if not self.group:
            msgspec.structs.force_setattr(self, "group", default_group(self.client))


_caller: ContextVar[GroupId | None] = ContextVar("nodekit_caller", default=None)


def caller_group() -> GroupId | None:
    """Return the group for which the present task works. None: for the node itself, which is nobody's request.

    A store in which reads wait for each other lets the groups take turns. `Node.limit` sets the group for the task that
    calls it, and for those that this task starts.
    """
    return _caller.get()


def works_for(group: GroupId | None) -> None:
    """Let the present task work for a group from now on."""
    _caller.set(group)


def default_group(client: ClientId) -> GroupId:
    """Return the group of a client for which nothing else is said.

    It is the client, or the network of an IPv6 address with 64 bits, since one machine has all addresses of such a
    network. An address that stands for one of IPv4 is that one.
    """
    return _network(client) if ":" in client else client


@lru_cache(4096)
def _network(client: ClientId) -> GroupId:
    try:
        address = IPv6Address(client.partition("%")[0])
    except ValueError:  # a name
        return client
    if address.ipv4_mapped:
        return str(address.ipv4_mapped)
    return f"{IPv6Address(int(address) >> 64 << 64)}/64"
