"""The store `redis`: jobs of many nodes on one Redis or Valkey server."""

from nodekit import NodeFile, Provider
from nodekit_redis._config import RedisConfig
from nodekit_redis._store import RedisStore

__all__ = ["RedisConfig", "RedisStore", "provider"]


def from_config(config: RedisConfig, file: NodeFile) -> RedisStore:
    """Build the store of a node file. Raise `CompositionError` for a URL or a prefix that cannot work."""
    return RedisStore(config)


provider = Provider(RedisConfig, from_config)
