"""The look of `nodekit doctor` into a database: what its next start would find. Nothing is written or made."""

import os
import sqlite3
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

from nodekit import Finding, StoreFailed
from nodekit_sqlite._beside import connect_for_reading
from nodekit_sqlite._damage import CURE
from nodekit_sqlite._file import check_beginning, check_beside, holder, is_held, kept_copies, told
from nodekit_sqlite._pages import problems_of_pages
from nodekit_sqlite._schema import MIGRATIONS, check_readable, schema_of
from nodekit_sqlite._upgrade import check_upgrade_space

WHERE = "store.path"
LOOK_SECONDS = 3.0
"""Time for the look at pages. A check of the doctor as a whole has ten seconds."""
_MOST_PROBLEMS = 3


def examined(path: Path) -> Iterator[Finding]:
    """Report a node that works on the file, a file that no node starts with, damage, and an upgrade to come."""
    try:
        path = path.resolve()
        check_beside(path)
        check_beginning(path)
        if not os.path.exists(path):
            yield Finding("ok", WHERE, f"there is no {path} yet; the node begins with no jobs")
            return
        inode = path.stat().st_ino
        held = is_held(path)
        if held:
            text = f"a node works on {path}{holder(inode)}"
            yield Finding("note", WHERE, text, "if it is not the node of this file, name another path")
        found = [*_content(path, held)]
        if not held and is_held(path):  # it has begun meanwhile, and changed what was read
            found = [*_content(path, True)]
        yield from found
    except StoreFailed as error:
        yield Finding.from_text("error", WHERE, str(error))
    except PermissionError:  # the doctor reports it for every store
        return
    except RuntimeError:  # symbolic links in a circle
        yield Finding("error", WHERE, f"{path} is a link to itself", "name another path")
    except (OSError, sqlite3.Error) as error:
        yield Finding.from_text("error", WHERE, f"{path} cannot be read: {told(error, path)}")


def _content(path: Path, held: bool) -> Iterator[Finding]:
    has_log, has_index = (os.path.exists(path.with_name(f"{path.name}{end}")) for end in ("-wal", "-shm"))
    if has_log and not (has_index or held):  # SQLite would make it
        text = f"there is a log beside {path} without its index, as beside a copy: the next start reads it"
        yield Finding("note", WHERE, text, "`nodekit store check` reads both now")
        return
    with closing(connect_for_reading(path, unchanging=not (held or has_log), alone=not held)) as connection:
        version = schema_of(connection, path)
        if version == 0:
            yield Finding("ok", WHERE, f"{path} is empty; the node begins with no jobs")
            return
        if version < len(MIGRATIONS):
            yield _upgrade(path, version)
        elif copies := kept_copies(path):
            text = f"upgrades have kept copies for going back: {', '.join(map(str, copies))}"
            yield Finding("note", WHERE, text, "delete them once you do not want to go back")
        yield from _pages(connection, path, version)


def _upgrade(path: Path, version: int) -> Finding:
    text = f"the next start upgrades {path} from schema {version} to {len(MIGRATIONS)}, and keeps a copy beside it"
    try:
        check_upgrade_space(path)
    except StoreFailed as error:
        return Finding("error", WHERE, f"{text}: {error}", "free some space")
    return Finding("note", WHERE, text, "back it up before, if you like: nodekit store backup")


def _pages(connection: sqlite3.Connection, path: Path, version: int) -> Iterator[Finding]:
    """Look at the pages of the file, as many as there is time for."""
    if version == len(MIGRATIONS):
        check_readable(connection)
    found = problems_of_pages(connection, LOOK_SECONDS, _MOST_PROBLEMS)
    if found == []:
        yield Finding(
            "ok", WHERE, f"{path} is whole, with schema {version}; `nodekit store check` reads all its records"
        )
    elif found is None:
        text = f"{path} is too large to be looked at whole in {LOOK_SECONDS:g} s"
        yield Finding("note", WHERE, text, "`nodekit store check` reads all of it")
    else:
        text = f"{path} is damaged: {'; '.join(found)}"
        yield Finding("error", WHERE, text, CURE)
