"""The store `sqlite`: jobs in one file, durable, for one node at a time."""

from pathlib import Path
from typing import Annotated, Literal

import msgspec

from nodekit import EmbeddedStore, Offer
from nodekit_sqlite._table import SqliteTable

__all__ = ["SqliteConfig", "SqliteStore", "SqliteTable", "offer"]


class SqliteConfig(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Where and how to keep jobs."""

    path: Path
    """The database file; it is created, with mode 0600, together with `.lock`, `-wal` and `-shm` beside it."""
    synchronous: Literal["FULL", "NORMAL"] = "FULL"
    """FULL survives a crash of the machine; NORMAL only one of the process, and is faster on slow disks."""
    group: Annotated[int, msgspec.Meta(ge=1)] = 512
    """The most writes that share one commit."""


class SqliteStore(EmbeddedStore):
    """A `JobStore` in an SQLite file."""

    def __init__(self, config: SqliteConfig) -> None:
        super().__init__(SqliteTable(config.path, synchronous=config.synchronous, group=config.group))


offer = Offer(SqliteConfig, lambda config, file: SqliteStore(config))
