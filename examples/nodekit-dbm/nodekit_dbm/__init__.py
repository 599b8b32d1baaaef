"""The store `dbm`: jobs in a database of the standard library's `dbm.dumb`, for one node at a time."""

from pathlib import Path

import msgspec

from nodekit import CompositionError, EmbeddedStore, NodeFile, Problem, Provider
from nodekit_dbm._table import DbmTable

__all__ = ["DbmConfig", "DbmTable", "provider"]


class DbmConfig(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """The table of the store in a node file.

    - `path`: The database, without `.dat` and `.dir`, relative to the node file. Its folder must exist.
    """

    path: Path


def build(config: DbmConfig, file: NodeFile) -> EmbeddedStore:
    if not config.path.parent.is_dir():
        raise CompositionError(Problem("path", f"there is no folder {config.path.parent}; make it first"))
    return EmbeddedStore(DbmTable(config.path))


provider = Provider(DbmConfig, build)
