"""Fixtures that start real servers. Without Redis their tests are skipped; with CI=true they fail."""

from collections.abc import Iterator
from contextlib import ExitStack

import pytest
from redis_server import HOST, NoRedis, RedisServer
from stores import REPLICAS, unavailable


@pytest.fixture
def anyio_backend() -> str:
    """Use asyncio, which nodes run on."""
    return "asyncio"


@pytest.fixture(scope="session")
def shared_server() -> Iterator[RedisServer]:
    """A server for all tests of this process, with fsync for every command."""
    with ExitStack() as stack:
        try:
            server = stack.enter_context(RedisServer("repl-diskless-sync-delay 0"))
            for _ in range(REPLICAS):
                stack.enter_context(RedisServer(f"replicaof {HOST} {server.port}"))
        except NoRedis as reason:
            unavailable(reason)
        yield server


@pytest.fixture
def redis_server(shared_server: RedisServer) -> RedisServer:
    """The server, without data."""
    assert shared_server.call("FLUSHALL") == b"+OK\r\n"
    return shared_server
