"""A Redis as Infernet has one: it keeps nothing on a disk."""

from collections.abc import Iterator

import pytest
from engine.fixtures import or_unavailable
from redis_server import NoRedis, RedisServer


@pytest.fixture
def redis_server() -> Iterator[RedisServer]:
    server = RedisServer("appendonly no")
    with or_unavailable(NoRedis):
        server.__enter__()
    try:
        yield server
    finally:
        server.__exit__()
