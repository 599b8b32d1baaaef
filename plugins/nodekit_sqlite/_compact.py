"""Compaction of a file: the space of deleted jobs goes back to the file system."""

import os
import sqlite3
from contextlib import closing
from pathlib import Path

from nodekit import StoreFailed
from nodekit_sqlite._damage import cured
from nodekit_sqlite._file import DatabaseFile
from nodekit_sqlite._schema import check_version


def compact(path: Path) -> int:
    """Write the file anew without its free pages. Return the number of bytes that this gave back.

    From then on it gives them back by itself, as new files do. Raise `StoreInUse` while a node works on the file, and
    `StoreFailed`. This needs up to twice the size of the file as free disk: for a copy in the folder of temporary files
    and for a log beside the file.
    """
    if not os.path.exists(path):
        raise StoreFailed(f"there is no file {path}; correct the path")
    file = DatabaseFile(path)
    file.open()
    try:
        with closing(sqlite3.connect(file.path, isolation_level=None, timeout=10)) as connection:
            check_version(connection, path)
            connection.execute("PRAGMA wal_checkpoint(TRUNCATE)").fetchall()
            before = path.stat().st_size
            connection.execute("PRAGMA auto_vacuum = INCREMENTAL")
            connection.execute("VACUUM")
            connection.execute("PRAGMA wal_checkpoint(TRUNCATE)").fetchall()
            return max(0, before - path.stat().st_size)
    except (OSError, sqlite3.Error) as error:
        raise StoreFailed(f"cannot compact {path}, and its jobs are as they were: {cured(error)}") from error
    finally:
        file.close()
