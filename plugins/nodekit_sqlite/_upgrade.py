"""The upgrade of a file that an earlier version wrote. A copy of it is kept, so that an operator can go back."""

import logging
import os
import sqlite3
import time
from pathlib import Path

from nodekit import StoreFailed, counted
from nodekit_sqlite._damage import cured
from nodekit_sqlite._file import STAMPED, DatabaseFile, kept_copies
from nodekit_sqlite._new_file import check_space, copy_database, new_file
from nodekit_sqlite._schema import MIGRATIONS, migrate, schema_of

logger = logging.getLogger("nodekit.store")

_HEADER_BYTES = 100
_READ_BYTES = 1 << 20
SPACE = 4.5
"""Space that an upgrade needs, in parts of the size of the file: one for the copy, two for the log of old and new
pages, and one for the new pages in the file. Measured: 3.9."""


def upgrade(connection: sqlite3.Connection, file: DatabaseFile) -> None:
    """Bring the file to this version, after a copy of it was kept. It is done completely or not at all.

    Raise `StoreFailed` for a file of another program or a newer version, and if the disk has too little space.
    """
    path = file.path
    version = schema_of(connection, path)
    if version in (0, len(MIGRATIONS)):
        migrate(connection, version)
        return
    connection.execute("PRAGMA wal_checkpoint(TRUNCATE)").fetchall()  # what an earlier run left in the log
    try:
        copy = _kept_copy(connection, file, version)
    except (OSError, sqlite3.Error) as error:
        text = f"cannot keep a copy of {path} before it is upgraded, and it is as it was"
        raise StoreFailed(f"{text}: {cured(error)}") from error
    ((jobs,),) = connection.execute("SELECT count(*) FROM jobs")
    text = "%s is upgraded from schema %d to %d (%s); a copy for going back is %s"
    logger.warning(text, path, version, len(MIGRATIONS), counted(jobs, "job"), copy)
    began = time.monotonic()
    try:
        migrate(connection, version)
    except BaseException:
        logger.error("the upgrade of %s failed; the file is as it was", path)
        raise
    took = time.monotonic() - began
    logger.warning("%s has schema %d now: %.1f s for %s", path, len(MIGRATIONS), took, counted(jobs, "job"))
    if others := [other for other in kept_copies(path) if other != copy]:
        logger.info("copies of earlier upgrades, which may be deleted: %s", ", ".join(map(str, others)))


def _kept_copy(connection: sqlite3.Connection, file: DatabaseFile, version: int) -> Path:
    """Return the copy of the file as it is now: one that an interrupted upgrade has kept, or a new one."""
    path = file.path
    first = path.with_name(f"{path.name}.schema-{version}")
    copy, number = first, 1
    while os.path.lexists(copy):
        if _is_copy(copy, file):
            return copy
        number += 1
        copy = first.with_name(f"{first.name}-{number}")
    check_upgrade_space(path)
    with new_file(copy) as partial:
        copy_database(connection, partial, owner=path.stat(), proceed=_nothing)
    return copy


def check_upgrade_space(path: Path) -> None:
    """Raise `StoreFailed` if the disk has too little space for the upgrade of a file, of which a copy is kept."""
    check_space(path.parent, int(SPACE * path.stat().st_size), f"the upgrade of {path}, of which a copy is kept,")


def _nothing() -> None:
    pass


def _is_copy(copy: Path, file: DatabaseFile) -> bool:
    """Return True if both files have the same content, apart from counters in the header."""
    if os.path.islink(copy) or not os.path.isfile(copy) or copy.stat().st_size != file.path.stat().st_size:
        return False
    with copy.open("rb") as one:
        if one.read(_HEADER_BYTES)[STAMPED] != file.read(_HEADER_BYTES, 0)[STAMPED]:
            return False
        while piece := one.read(_READ_BYTES):
            if piece != file.read(len(piece), one.tell() - len(piece)):
                return False
    return True
