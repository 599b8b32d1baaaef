"""The suite of faults, on a Redis that is killed, cut off and made read-only."""

from collections.abc import Callable

import anyio.to_thread
import pytest
from redis_server import RedisServer
from stores import REPLICAS

from nodekit import Secret, SharedStore
from nodekit.testing import EngineFaultContract
from nodekit_redis import RedisConfig, RedisStore

LEASE_SECONDS = 2.0


class Control:
    """The handles on a server (`EngineControl`)."""

    def __init__(self, server: RedisServer) -> None:
        self._server = server

    @property
    def address(self) -> tuple[str, int]:
        return self._server.address

    async def kill(self) -> None:
        await anyio.to_thread.run_sync(self._server.kill)

    async def start(self) -> None:
        await anyio.to_thread.run_sync(self._server.start)

    async def read_only(self, on: bool) -> None:
        """Have it miss a replica: then it refuses all writes."""
        replicas = str(REPLICAS + 1 if on else 0)
        reply = await anyio.to_thread.run_sync(self._server.call, "CONFIG", "SET", "min-replicas-to-write", replicas)
        assert reply == b"+OK\r\n"


class TestFaultsOfRedis(EngineFaultContract):
    lease_seconds = LEASE_SECONDS
    quiet_seconds = 0.2

    @pytest.fixture
    def engine(self, redis_server: RedisServer) -> Control:
        return Control(redis_server)

    @pytest.fixture
    def open_at(self, redis_server: RedisServer) -> Callable[[str, int], SharedStore]:
        def open_at(host: str, port: int) -> SharedStore:
            url = Secret(redis_server.url_at(host, port))
            seconds = self.lease_seconds
            config = RedisConfig(
                url=url, lease_seconds=seconds, call_seconds=seconds, look_seconds=0.5, replicas=REPLICAS
            )
            return RedisStore(config)

        return open_at
