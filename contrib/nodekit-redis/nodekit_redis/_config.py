"""The settings of the store."""

from typing import Annotated, Literal, TypeAlias

import msgspec

from nodekit import Secret

Durability: TypeAlias = Literal["always", "everysec", "none"]


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
