"""The store `sqlite`: durable jobs in one file, for one node at a time."""

from pathlib import Path
from typing import Annotated, Literal

import anyio.to_thread
import msgspec

from nodekit import CompositionError, EmbeddedStore, NodeFile, PluginStorage, Problem, Provider, TableView
from nodekit_sqlite._compact import compact
from nodekit_sqlite._table import SqliteTable

__all__ = ["SqliteConfig", "SqliteStore", "SqliteTable", "provider"]


class SqliteConfig(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """The database file and its durability.

    - `path`: The database file; it is created, with mode 0600, together with `.lock`, `-wal` and `-shm` beside it.
    - `synchronous`: FULL survives a crash of the machine; NORMAL only one of the process, and is faster on slow disks.
    - `group`: Maximum number of writes that share one commit.
    """

    path: Path
    synchronous: Literal["FULL", "NORMAL"] = "FULL"
    group: Annotated[int, msgspec.Meta(ge=1)] = 512


class SqliteStore(EmbeddedStore):
    """A `JobStore` in an SQLite file.

    With `synchronous` ``"FULL"``, jobs survive a crash of the machine; with ``"NORMAL"``, one of the process. Up to
    `group` writes share one commit.
    """

    def __init__(self, path: Path | str, *, synchronous: Literal["FULL", "NORMAL"] = "FULL", group: int = 512) -> None:
        self._path, self._synchronous = Path(path), synchronous
        self._sqlite = SqliteTable(self._path, synchronous=synchronous, group=group)
        super().__init__(self._sqlite)

    def storage(self, namespace: str) -> PluginStorage:
        """Return the records of a plugin (`StoringStore`)."""
        return self._sqlite.storage(namespace)

    def view(self) -> TableView:
        """Return a view of the file beside its node (`ViewedStore`). Each of its calls has its own transaction."""
        return TableView(SqliteTable(self._path, synchronous=self._synchronous, group=1, owned=False))

    async def compact(self) -> int:
        """Give the space of deleted jobs back to the file system (`CompactingStore`). A thread waits for the disk."""
        return await anyio.to_thread.run_sync(compact, self._path)


def from_config(config: SqliteConfig, file: NodeFile) -> SqliteStore:
    """Build the store of a node file. Raise `CompositionError` if the database's folder does not exist."""
    if not config.path.parent.is_dir():
        raise CompositionError(Problem("path", f"there is no folder {config.path.parent}; make it first"))
    return SqliteStore(config.path, synchronous=config.synchronous, group=config.group)


provider = Provider(SqliteConfig, from_config)
