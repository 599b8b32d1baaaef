"""The transport's settings."""

from typing import Annotated, Literal

import msgspec

from nodekit import MAX_DEPTH
from nodekit_asgi.http.networks import UNIX, check_networks
from nodekit_asgi.wire.profiles import ProfileName

DEEPEST = 500
"""Largest allowed `max_json_depth`. Decoders and containers recurse, so deeper nesting could exhaust their stack."""

Positive = Annotated[int, msgspec.Meta(ge=1)]


class Limits(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Limits of one request, the origins and proxies it may come from, and the profile of the reply.

    - `max_batch`: Items in one batch.
    - `max_ids`: Ids in one query.
    - `max_steps`: Containers in one job; while it runs, the outputs of all its steps are in memory.
    - `body_seconds`: Time a client has to send a body.
    - `max_wait_seconds`: Longest time a request may wait for jobs to finish; whole seconds, as in
      ``Preference-Applied``.
    - `allowed_origins`: Origins (``https://app.example``) of other sites whose pages may call the node.
    - `allowed_hosts`: Names, other than loopback's, by which a node bound to loopback may be called.
    - `trusted_proxies`: Addresses and networks of proxies that are trusted to name the client; ``unix`` is the peer of
      a unix socket.
    - `forwarded_header`: The one header in which they name it: a list of addresses or, if it is ``forwarded``, that of
      RFC 7239.
    - `status_networks`: Addresses and networks that may report the outcome of jobs.
    - `profile`: The profile that clients expect, for the replies in which nodes differ.
    """

    max_body_bytes: Positive = 16 * 1024 * 1024
    max_json_depth: Annotated[int, msgspec.Meta(ge=1, le=DEEPEST)] = MAX_DEPTH
    max_batch: Positive = 1000
    max_ids: Positive = 200
    max_steps: Positive = 100
    body_seconds: Annotated[float, msgspec.Meta(gt=0)] = 60.0
    max_wait_seconds: Annotated[int, msgspec.Meta(ge=0)] = 60
    allowed_origins: tuple[str, ...] = ()
    allowed_hosts: tuple[str, ...] = ()
    trusted_proxies: tuple[str, ...] = ()
    forwarded_header: Annotated[str, msgspec.Meta(pattern=r"^[!#$%&'*+.^_`|~0-9A-Za-z-]+$")] = "x-forwarded-for"
    status_networks: tuple[str, ...] = ()
    profile: ProfileName = "infernet-0.1"

    def __post_init__(self) -> None:
        check_networks("trusted_proxies", (text for text in self.trusted_proxies if text != UNIX))
        check_networks("status_networks", self.status_networks)


class AsgiConfig(Limits, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """The table of the transport in a node file.

    - `bind`: ``host:port``, ``[v6]:port`` or ``unix:path``; port 0 picks a free one.
    - `server`: hypercorn speaks HTTP/2 too; uvicorn is faster and belongs behind a proxy.
    - `max_connections`: Maximum number of open client connections. Unset: as many as the process's limit of open files
      has room for.
    - `max_client_connections`: Maximum number of open connections of one client: an address, or the /64 of an IPv6
      address. Unset: three quarters of all. It does not apply to `trusted_proxies`.
    - `stop_seconds`: Time that stopping waits for requests that are being answered.
    """

    bind: str = "127.0.0.1:4000"
    server: Literal["hypercorn", "uvicorn"] = "hypercorn"
    max_connections: Positive | None = None
    max_client_connections: Positive | None = None
    stop_seconds: Annotated[float, msgspec.Meta(ge=0)] = 3.0
