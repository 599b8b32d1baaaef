"""The store `postgres`: durable jobs of many nodes in one PostgreSQL database."""

from nodekit import NodeFile, Provider
from nodekit_postgres._config import PostgresConfig
from nodekit_postgres._store import PostgresStore

__all__ = ["PostgresConfig", "PostgresStore", "provider"]


def from_config(config: PostgresConfig, file: NodeFile) -> PostgresStore:
    """Build the store of a node file. Raise `CompositionError` for a wrong address or name of a schema."""
    return PostgresStore(config)


provider = Provider(PostgresConfig, from_config)
