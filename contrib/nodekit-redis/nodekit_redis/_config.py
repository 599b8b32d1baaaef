"""The settings of the store."""

import re
from collections.abc import Mapping
from typing import Annotated, Any, Literal, TypeAlias
from urllib.parse import urlsplit

import msgspec
from redis.asyncio.connection import ConnectionPool

from nodekit import CompositionError, Problem, Secret

Durability: TypeAlias = Literal["always", "everysec", "none"]
PREFIX = re.compile(r"[A-Za-z0-9_.-]{1,48}")
SENTINEL_PORT = 26379
SCHEMES = ("redis://", "rediss://", "unix://")


class RedisConfig(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """A Redis or Valkey server, and how nodes work with it.

    - `url`: Place of the server: ``redis://user:password@host:6379/0``, ``rediss://…`` for TLS with verification, or
      ``unix:///path/to/socket?db=0``. It may have a password, so it is given by reference.
    - `sentinels`: Addresses of Sentinels, ``host:port``. They are asked where the primary is whenever a connection is
      made; the host in `url` is then the name that they know it by.
    - `sentinel_password`: Password of the Sentinels, if they have one.
    - `replicas`: Number of replicas that must have what a call wrote or read before it counts (``WAIT``).
    - `prefix`: Name before all keys, in braces: all keys are in one slot of a cluster. Nodes with the same server and
      prefix share their jobs.
    - `durability`: Loss that you accept when the server dies: ``always``: none; ``everysec``: the last second;
      ``none``: everything. A node does not start on a server that keeps less.
    - `lease_seconds`: Time after which other nodes take over the jobs of a node that is silent.
    - `connections`: Number of connections for calls. Two further connections renew the lease and listen.
    - `call_seconds`: Time limit of a call. None: the lease, and at least 5 s.
    - `connect_seconds`: Time limit for connecting to the server.
    - `look_seconds`: Time after which a waiting node looks for jobs although nothing was announced.
    """

    url: Secret
    sentinels: tuple[str, ...] = ()
    sentinel_password: Secret | None = None
    replicas: Annotated[int, msgspec.Meta(ge=0, le=10)] = 0
    prefix: str = "nodekit"
    durability: Durability = "always"
    lease_seconds: Annotated[float, msgspec.Meta(ge=1, le=3600)] = 15.0
    connections: Annotated[int, msgspec.Meta(ge=1, le=100)] = 2
    call_seconds: Annotated[float, msgspec.Meta(gt=0)] | None = None
    connect_seconds: Annotated[float, msgspec.Meta(gt=0)] = 5.0
    look_seconds: Annotated[float, msgspec.Meta(ge=0.05)] = 5.0


OWN: Mapping[str, Any] = {
    "protocol": 2,
    "decode_responses": False,
    "socket_timeout": None,
    "health_check_interval": 0,
    "retry_on_timeout": False,
    "client_name": "nodekit",
}
"""Settings of connections that calls depend on. A URL may not have others."""


def make_pool(url: str, connect_seconds: float) -> Any:
    """Return a pool of redis-py, which makes connections that are not connected yet, and never connect again.

    Raise `ValueError`, `TypeError` or `AttributeError` for a URL that cannot be used.
    """
    pools: Any = ConnectionPool
    pool = pools.from_url(url, **OWN, socket_connect_timeout=connect_seconds)
    for name, value in OWN.items():
        if pool.connection_kwargs[name] != value:
            raise ValueError(f"the URL may not set {name}")
    host = str(pool.connection_kwargs.get("host", ""))
    if b"\0" in host.encode("idna"):  # as the look-up encodes it, which raises ValueError, too
        raise ValueError("the URL has no name of a host")
    return pool


def split_address(address: str) -> tuple[str, int]:
    """Return host and port of ``host:port``, ``[::1]:port`` or ``host``. Raise `ValueError`."""
    parts = urlsplit(f"//{address}")
    if not parts.hostname or parts.username or parts.path or parts.query:
        raise ValueError("expected host:port")
    return parts.hostname, parts.port or SENTINEL_PORT


def check(config: RedisConfig) -> None:
    """Raise `CompositionError` for settings that cannot work. The message does not repeat the URL."""
    url = config.url.reveal()
    if not url.startswith(SCHEMES):
        raise CompositionError(Problem("url", f"expected a URL that begins with {', '.join(SCHEMES)}"))
    try:
        made = make_pool(url, 1.0).make_connection()
    except (ValueError, TypeError, AttributeError):  # the text may have the password
        raise CompositionError(
            Problem("url", "this is no URL of a server, or has a parameter that redis-py does not know")
        ) from None
    if not PREFIX.fullmatch(config.prefix):
        cure = "expected 1 to 48 letters, digits and _.-, without braces"
        raise CompositionError(Problem("prefix", f"{config.prefix!r} is no prefix; {cure}"))
    for number, address in enumerate(config.sentinels):
        try:
            split_address(address)
        except ValueError:
            raise CompositionError(Problem(f"sentinels[{number}]", "expected host:port of a Sentinel")) from None
    if config.sentinels and not hasattr(made, "host"):
        raise CompositionError(
            Problem("url", "with sentinels, the host in url is the name of the primary; a socket has none")
        )
