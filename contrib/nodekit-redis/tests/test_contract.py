"""The suites of stores, of shared stores and of their faults, on a real Redis."""

from collections.abc import Callable

import pytest
from redis_server import RedisServer
from stores import REPLICAS

from nodekit import Secret, SharedStore
from nodekit.testing import DurableJobStoreContract, SharedStoreContract
from nodekit_redis import RedisConfig, RedisStore

LEASE_SECONDS = 2.0


def make_store(url: str, lease_seconds: float = LEASE_SECONDS) -> RedisStore:
    return RedisStore(  # nothing is found by looking now and then
        RedisConfig(url=Secret(url), lease_seconds=lease_seconds, look_seconds=600.0, replicas=REPLICAS)
    )


class TestRedisStore(SharedStoreContract, DurableJobStoreContract):
    lease_seconds = LEASE_SECONDS
    exclusive = False
    timeout_seconds = 30.0
    quiet_seconds = 0.2  # the shortest time limits of jobs are three times this; opening a store takes a part of it

    @pytest.fixture
    def open_store(self, redis_server: RedisServer) -> Callable[[], SharedStore]:
        return lambda: make_store(redis_server.url, self.lease_seconds)
