"""Redis, with the store `redis`: it waits for the disk before it answers (`appendfsync always`)."""

from collections.abc import Iterator
from contextlib import contextmanager
from importlib.util import find_spec
from pathlib import Path

from redis_server import NoRedis, RedisServer

from cluster.engines import NoEngine


class RedisEngine:
    """An `Engine` with one server."""

    remembers = True

    def __init__(self, server: RedisServer, folder: Path) -> None:
        self.server, self._folder = server, folder
        self.kill, self.start = server.kill, server.start

    @property
    def address(self) -> tuple[str, int]:
        return self.server.address

    def store(self, host: str, port: int, lease_seconds: float) -> str:
        secret = self._folder / f"url-{port}"
        secret.touch(0o600)
        secret.write_text(self.server.url_at(host, port))
        return f'[store]\nuse = "redis"\nurl = {{ file = "{secret}" }}\nlease_seconds = {lease_seconds}\n'


@contextmanager
def running(folder: Path, lease_seconds: float) -> Iterator[RedisEngine]:
    if find_spec("nodekit_redis") is None:
        raise NoEngine("nodekit_redis: not found; install contrib/nodekit-redis")
    server = RedisServer()
    try:
        server.__enter__()
    except NoRedis as reason:
        raise NoEngine(str(reason)) from None
    try:
        yield RedisEngine(server, folder)
    finally:
        server.__exit__()
