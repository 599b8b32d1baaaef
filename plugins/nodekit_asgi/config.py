"""The transport's settings."""

from typing import Annotated, Literal

import msgspec

from nodekit import MAX_DEPTH
from nodekit_asgi.http.networks import UNIX, check_networks
from nodekit_asgi.wire.profiles import ProfileName

DEEPEST = 500
"""Decoders and containers recurse; what is nested deeper could exhaust their stack."""

Positive = Annotated[int, msgspec.Meta(ge=1)]


class Limits(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """What one request may ask for, from where, and how it is answered."""

    max_body_bytes: Positive = 16 * 1024 * 1024
    max_json_depth: Annotated[int, msgspec.Meta(ge=1, le=DEEPEST)] = MAX_DEPTH
    max_batch: Positive = 1000
    """Items in one batch."""
    max_ids: Positive = 200
    """Ids in one query."""
    max_steps: Positive = 100
    """Containers in one job; while it runs, the outputs of all its steps are in memory."""
    body_seconds: Annotated[float, msgspec.Meta(gt=0)] = 60.0
    """How long a client may take to send a body."""
    max_wait_seconds: Annotated[int, msgspec.Meta(ge=0)] = 60
    """How long a request may wait for jobs to finish; whole seconds, as ``Preference-Applied`` has them."""
    allowed_origins: tuple[str, ...] = ()
    """Origins (``https://app.example``) of other sites whose pages may call the node."""
    allowed_hosts: tuple[str, ...] = ()
    """Names, other than loopback's, by which a node bound to loopback may be called."""
    trusted_proxies: tuple[str, ...] = ()
    """Addresses and networks of proxies whose word for who asks is taken; ``unix`` is the peer of a unix socket."""
    forwarded_header: Annotated[str, msgspec.Meta(pattern=r"^[!#$%&'*+.^_`|~0-9A-Za-z-]+$")] = "x-forwarded-for"
    """The one header in which they say so: a list of addresses or, if it is ``forwarded``, that of RFC 7239."""
    status_networks: tuple[str, ...] = ()
    """Addresses and networks that may report what came of jobs."""
    profile: ProfileName = "infernet-0.1"
    """Whose replies clients expect where nodes differ."""

    def __post_init__(self) -> None:
        check_networks("trusted_proxies", (text for text in self.trusted_proxies if text != UNIX))
        check_networks("status_networks", self.status_networks)


class AsgiConfig(Limits, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """The table of the transport in a node file."""

    bind: str = "127.0.0.1:4000"
    """``host:port``, ``[v6]:port`` or ``unix:path``; port 0 picks a free one."""
    server: Literal["hypercorn", "uvicorn"] = "hypercorn"
    """hypercorn speaks HTTP/2 too; uvicorn (extra ``[fast]``) is faster and belongs behind a proxy."""
    max_connections: Positive | None = None
    """How many clients' connections may be open at once; as many as the process's limit of open files has room for."""
    stop_seconds: Annotated[float, msgspec.Meta(ge=0)] = 3.0
    """How long stopping waits for requests that are being answered."""
