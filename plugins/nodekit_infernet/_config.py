"""An Infernet node's ``config.json``: its keys and their defaults, as version 1.4 has them."""

from collections.abc import Mapping
from types import MappingProxyType
from typing import Annotated, Any

import msgspec

from nodekit import Secret

Port = Annotated[int, msgspec.Meta(ge=0, le=65535)]
ContainerPort = Annotated[int, msgspec.Meta(ge=1, le=65535)]
Positive = Annotated[int, msgspec.Meta(ge=1)]
Whole = Annotated[int, msgspec.Meta(ge=0)]
Text = Annotated[str, msgspec.Meta(min_length=1)]

_NOTHING: Mapping[str, Any] = MappingProxyType({})
_NO_PAYMENTS: Mapping[str, int] = MappingProxyType({})


class RateLimit(msgspec.Struct, frozen=True, kw_only=True):
    num_requests: Positive = 60
    period: Positive = 60


class Server(msgspec.Struct, frozen=True, kw_only=True):
    port: Port = 4000
    rate_limit: RateLimit = RateLimit()


class Wallet(msgspec.Struct, frozen=True, kw_only=True):
    max_gas_limit: int = 5_000_000
    private_key: Secret | None = None
    payment_address: str | None = None
    allowed_sim_errors: tuple[str, ...] = ()


class SnapshotSync(msgspec.Struct, frozen=True, kw_only=True):
    sleep: float = 1.0
    batch_size: int = 500
    starting_sub_id: int = 0
    sync_period: float = 0.5


class Chain(msgspec.Struct, frozen=True, kw_only=True):
    enabled: bool = False
    rpc_url: str | None = None
    trail_head_blocks: int = 1
    registry_address: str | None = None
    wallet: Wallet | None = None
    snapshot_sync: SnapshotSync = SnapshotSync()


class Docker(msgspec.Struct, frozen=True, kw_only=True):
    username: str
    password: Secret


class Redis(msgspec.Struct, frozen=True, kw_only=True):
    """A server. Infernet 1.4 knows only `host` and `port`; the others are for servers that ask who calls."""

    host: Text = "redis"
    port: Port = 6379
    db: Whole = 0
    username: Text | None = None
    password: Secret | None = None


class Log(msgspec.Struct, frozen=True, kw_only=True):
    path: Text = "infernet_node.log"
    max_file_size: Whole = 2**30
    backup_count: Whole = 2


class InfernetContainer(msgspec.Struct, frozen=True, kw_only=True):
    id: Text
    image: str = ""
    url: str = ""
    bearer: Secret | None = None
    port: ContainerPort = 3000
    external: bool = True
    gpu: bool = False
    accepted_payments: Mapping[str, int] = _NO_PAYMENTS
    allowed_ips: tuple[str, ...] = ()
    allowed_addresses: tuple[str, ...] = ()
    allowed_delegate_addresses: tuple[str, ...] = ()
    description: str = ""
    command: str = ""
    env: Mapping[str, Any] = _NOTHING
    generates_proofs: bool = False
    volumes: tuple[str, ...] = ()


class InfernetConfig(msgspec.Struct, frozen=True, kw_only=True):
    """The whole file."""

    containers: tuple[InfernetContainer, ...] = ()
    chain: Chain = Chain()
    docker: Docker | None = None
    forward_stats: bool = True
    log: Log = Log()
    manage_containers: bool = True
    redis: Redis = Redis()
    server: Server = Server()
    startup_wait: Annotated[float, msgspec.Meta(ge=0)] = 5.0
