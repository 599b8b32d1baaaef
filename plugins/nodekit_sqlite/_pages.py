"""A look at the pages of a file, those that no job needs included, for as long as there is time."""

import logging
import re
import sqlite3
from collections.abc import Iterable, Sequence
from threading import Timer

from nodekit_sqlite._damage import Damages, is_damage

logger = logging.getLogger("nodekit.store")

START_SECONDS = 1.0
"""Time for the look of a node that starts."""
_MOST_PROBLEMS = 3


def problems_of_pages(connection: sqlite3.Connection, seconds: float, most: int) -> Sequence[str] | None:
    """Return up to `most` problems of the pages of the file. None: there was not enough time to look at all."""
    late = Timer(seconds, connection.interrupt)
    late.start()
    try:
        found = [str(text) for (text,) in connection.execute(f"PRAGMA quick_check({most})")]
    except sqlite3.DatabaseError as error:
        if error.sqlite_errorcode == sqlite3.SQLITE_INTERRUPT:
            return None
        if not is_damage(error) or not (parts := unreadable_parts(connection)):
            raise
        return parts[:most]
    finally:
        late.cancel()
        late.join()
    if found == ["interrupted"]:
        return None
    return named_parts(connection, [text for text in found if text != "interrupted"])


def named_parts(connection: sqlite3.Connection, found: Iterable[str]) -> list[str]:
    """Return the problems that a check of SQLite found, with the names of tables in place of their numbers."""
    parts = {page: f"the {kind} `{name}`" for name, page, kind in _all_parts(connection)}

    def name(number: re.Match[str]) -> str:
        return parts.get(int(number[1]), number[0])

    lines = [line.strip() for text in found for line in text.splitlines()]
    return [re.sub(r"\bTree (\d+)", name, line) for line in lines if line not in ("", "ok", "*** in database main ***")]


def unreadable_parts(connection: sqlite3.Connection) -> list[str]:
    """Return the tables and indexes that cannot be read to their end, each with the reason."""
    found: list[str] = []
    for name, _, kind in _all_parts(connection):
        table, what, condition = name, "count(*)", "NOT INDEXED"
        if kind == "index":
            query = "SELECT tbl_name, sql FROM sqlite_master WHERE name = ?"
            table, sql = connection.execute(query, (name,)).fetchone()
            what = "sum(rowid)"  # of a bare number of rows, SQLite might read another one
            condition = f"INDEXED BY {name} {''.join(str(sql or '').partition(' WHERE ')[1:])}"
        try:  # names and conditions are those of our own schema
            connection.execute(f"SELECT {what} FROM {table} {condition}").fetchone()  # noqa: S608
        except sqlite3.DatabaseError as error:
            if not is_damage(error):
                raise
            found.append(f"the {kind} `{name}` cannot be read: {error}")
    return found


def _all_parts(connection: sqlite3.Connection) -> Sequence[tuple[str, int, str]]:
    """Return name, root page and kind of all tables and indexes."""
    query = "SELECT name, rootpage, type FROM sqlite_master WHERE type IN ('table', 'index')"
    try:
        return connection.execute(query).fetchall()
    except sqlite3.DatabaseError:  # the schema is damaged, too
        return []


def look_at_start(connection: sqlite3.Connection, damages: Damages) -> None:
    """Report damage of pages that no job may need for months, such as free ones."""
    try:
        found = problems_of_pages(connection, START_SECONDS, _MOST_PROBLEMS)
    except sqlite3.DatabaseError as error:
        if not is_damage(error):
            logger.warning("the pages of the file were not looked at: %s", error)
            return
        found = [str(error)]
    if found:
        damages.of_part("a page", "; ".join(found))
