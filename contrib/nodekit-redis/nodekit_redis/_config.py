"""The settings of the store."""

import re
from typing import Annotated, Literal, TypeAlias

import msgspec

from nodekit import CompositionError, Problem, Secret
from nodekit_redis._line import make_connection

Durability: TypeAlias = Literal["always", "everysec", "none"]
PREFIX = re.compile(r"[A-Za-z0-9_.-]{1,48}")
SCHEMES = ("redis://", "rediss://", "unix://")


class RedisConfig(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """A Redis or Valkey server, and how nodes work with it.

    - `url`: Place of the server: ``redis://user:password@host:6379/0``, ``rediss://…`` for TLS with verification, or
      ``unix:///path/to/socket?db=0``. It may have a password, so it is given by reference.
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
    prefix: str = "nodekit"
    durability: Durability = "always"
    lease_seconds: Annotated[float, msgspec.Meta(ge=1, le=3600)] = 15.0
    connections: Annotated[int, msgspec.Meta(ge=1, le=100)] = 2
    call_seconds: Annotated[float, msgspec.Meta(gt=0)] | None = None
    connect_seconds: Annotated[float, msgspec.Meta(gt=0)] = 5.0
    look_seconds: Annotated[float, msgspec.Meta(ge=0.05)] = 5.0


def check(url: str, prefix: str) -> None:
    """Raise `CompositionError` for a URL or a prefix that cannot work. The message does not repeat the URL."""
    if not url.startswith(SCHEMES):
        raise CompositionError(Problem("url", f"expected a URL that begins with {', '.join(SCHEMES)}"))
    try:
        make_connection(url, 1.0)
    except (ValueError, TypeError, AttributeError):  # the text may have the password
        raise CompositionError(
            Problem("url", "this is no URL of a server, or has a parameter that redis-py does not know")
        ) from None
    if not PREFIX.fullmatch(prefix):
        cure = "expected 1 to 48 letters, digits and _.-, without braces"
        raise CompositionError(Problem("prefix", f"{prefix!r} is no prefix; {cure}"))
