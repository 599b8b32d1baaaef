"""The transport's settings."""

from collections.abc import Sequence
from ipaddress import ip_network
from typing import Annotated, Literal

import msgspec

from nodekit import MAX_DEPTH
from nodekit_asgi.http.networks import UNIX, check_networks
from nodekit_asgi.http.sites import check_hosts, check_origins
from nodekit_asgi.wire.bounded_arrays import LONGEST
from nodekit_asgi.wire.profiles import ProfileName

DEEPEST = 500
"""Largest allowed `max_json_depth`. Decoders and containers recurse, so deeper nesting could exhaust their stack."""

Positive = Annotated[int, msgspec.Meta(ge=1)]
Seconds = Annotated[float, msgspec.Meta(gt=0)]


class Limits(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Limits of one request, the origins and proxies it may come from, and the profile of the reply.

    - `max_batch`: Items in one batch.
    - `max_ids`: Ids in one query.
    - `max_steps`: Containers in one job.
    - `body_seconds`: Time a client has to send a body.
    - `body_timeout_seconds`: Longest time in which a body may make no progress.
    - `min_bytes_per_second`: Slowest pace that counts as progress: of a body over `body_timeout_seconds`, of the reader
      of a reply over `write_timeout_seconds`.
    - `max_wait_seconds`: Longest time a request may wait for jobs to finish; whole seconds, as in
      ``Preference-Applied``.
    - `allowed_origins`: Origins (``https://app.example``) of other sites whose pages may call the node.
    - `allowed_hosts`: Names, other than loopback's, by which a node bound to loopback may be called.
    - `trusted_proxies`: Addresses and networks of proxies that are trusted to name the client; ``unix`` is the peer of
      a unix socket.
    - `trusted_proxies_http2`: Those of them that may speak HTTP/2, too. An HTTP/1.1 proxy can be made to pass on an
      HTTP/2 connection that its client writes.
    - `forwarded_header`: The one header in which they name it: a list of addresses or, if it is ``forwarded``, that of
      RFC 7239.
    - `status_networks`: Addresses and networks that may report the outcome of jobs.
    - `profile`: The profile that clients expect, for the replies in which nodes differ.
    """

    max_body_bytes: Positive = 16 * 1024 * 1024
    max_json_depth: Annotated[int, msgspec.Meta(ge=1, le=DEEPEST)] = MAX_DEPTH
    max_batch: Annotated[int, msgspec.Meta(ge=1, le=LONGEST)] = 1000
    max_ids: Positive = 200
    max_steps: Annotated[int, msgspec.Meta(ge=1, le=LONGEST)] = 100
    body_seconds: Seconds = 60.0
    body_timeout_seconds: Seconds = 10.0
    min_bytes_per_second: Annotated[int, msgspec.Meta(ge=0)] = 1024
    max_wait_seconds: Annotated[int, msgspec.Meta(ge=0)] = 60
    allowed_origins: tuple[str, ...] = ()
    allowed_hosts: tuple[str, ...] = ()
    trusted_proxies: tuple[str, ...] = ()
    trusted_proxies_http2: tuple[str, ...] = ()
    forwarded_header: Annotated[str, msgspec.Meta(pattern=r"^[!#$%&'*+.^_`|~0-9A-Za-z-]+$")] = "x-forwarded-for"
    status_networks: tuple[str, ...] = ()
    profile: ProfileName = "infernet-0.1"

    def __post_init__(self) -> None:
        check_networks("trusted_proxies", (text for text in self.trusted_proxies if text != UNIX))
        check_networks("trusted_proxies_http2", (text for text in self.trusted_proxies_http2 if text != UNIX))
        check_networks("status_networks", self.status_networks)
        check_origins("allowed_origins", self.allowed_origins)
        check_hosts("allowed_hosts", self.allowed_hosts)
        for text in self.trusted_proxies_http2:
            if not _is_within(text, self.trusted_proxies):
                raise ValueError(f"trusted_proxies_http2: {text} is not in trusted_proxies; list it there, too")


class AsgiConfig(Limits, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """The table of the transport in a node file.

    - `bind`: ``host:port``, ``[v6]:port`` or ``unix:path``; port 0 picks a free one.
    - `server`: uvicorn is faster; hypercorn can speak HTTP/2.
    - `http2`: Serve HTTP/2 to clients that begin with it (prior knowledge). Upgrades to it are never made.
    - `max_connections`: Maximum number of open client connections. Unset: as many as the process's limit of open files
      has room for.
    - `max_client_connections`: Maximum number of open connections of one client: an address, or the /64 of an IPv6
      address. Unset: three quarters of all. It does not apply to `trusted_proxies`.
    - `header_timeout_seconds`: Time a client has to send the head of a request, from its first byte; of the first one,
      from connecting.
    - `idle_timeout_seconds`: Time after which a kept connection without a request is closed.
    - `write_timeout_seconds`: Longest time in which a client may take nothing of a reply that waits for it.
    - `stop_seconds`: Time that stopping waits for requests that are being answered.
    """

    bind: str = "127.0.0.1:4000"
    server: Literal["hypercorn", "uvicorn"] = "hypercorn"
    http2: bool = False
    max_connections: Positive | None = None
    max_client_connections: Positive | None = None
    header_timeout_seconds: Seconds = 10.0
    idle_timeout_seconds: Seconds = 75.0
    write_timeout_seconds: Seconds = 30.0
    stop_seconds: Annotated[float, msgspec.Meta(ge=0)] = 3.0

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.http2 and self.server == "uvicorn":
            raise ValueError('http2: uvicorn does not speak HTTP/2; set server = "hypercorn", or leave http2 out')


def _is_within(text: str, networks: Sequence[str]) -> bool:
    if text in networks:
        return True
    inner = None if text == UNIX else ip_network(text)
    outer = [ip_network(network) for network in networks if network != UNIX]
    return any(inner is not None and inner.version == one.version and inner.subnet_of(one) for one in outer)  # type: ignore[arg-type]
