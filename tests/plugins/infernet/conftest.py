"""A Redis as Infernet has one, which keeps nothing on a disk. Files are read as where no package serves a chain."""

from collections.abc import Iterator

import pytest
from engine.fixtures import or_unavailable
from redis_server import NoRedis, RedisServer

from nodekit_infernet import _draft


@pytest.fixture
def redis_server() -> Iterator[RedisServer]:
    server = RedisServer("appendonly no")
    with or_unavailable(NoRedis):
        server.__enter__()
    try:
        yield server
    finally:
        server.__exit__()


@pytest.fixture(autouse=True)
def no_chain_plugin(monkeypatch: pytest.MonkeyPatch) -> None:
    """Hide the plugin of nodekit-chain, unless a test says what is installed. Nodes of their own have it."""
    installed = _draft._entry_points

    def without_chain() -> Iterator[tuple[str, str]]:
        return (entry for entry in installed() if entry != ("nodekit.plugins", "chain"))

    monkeypatch.setattr(_draft, "_entry_points", without_chain)
