"""A look at the pages of a file, those that no job needs included, for as long as there is time."""

import logging
import sqlite3
from collections.abc import Sequence
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
    except sqlite3.OperationalError as error:
        if error.sqlite_errorcode != sqlite3.SQLITE_INTERRUPT:
            raise
        return None
    finally:
        late.cancel()
        late.join()
    if found == ["interrupted"]:
        return None
    return [" ".join(text.split()) for text in found if text not in ("ok", "interrupted")]


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
