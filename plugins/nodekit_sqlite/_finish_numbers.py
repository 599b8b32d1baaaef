"""The numbers that jobs got in the order in which they finished, as the file has them."""

import sqlite3

from nodekit_sqlite._damage import is_damage
from nodekit_sqlite._query import BY_FINISH, HAS_FINISHED, HIGHEST
from nodekit_sqlite._reading import FINISH_NUMBER, JOB
from nodekit_sqlite._sums import DamagedRecord, check_state

_DELETED = "SELECT max(highest) FROM deleted_numbers"
KEEP_NUMBER = "UPDATE deleted_numbers SET highest = max(highest, ?)"
_NEWEST = f"SELECT {JOB}, state_sum FROM jobs {BY_FINISH} WHERE {HAS_FINISHED} ORDER BY finish_number DESC"  # noqa: S608
LAST_SURPLUS = f"""
    SELECT finish_number FROM jobs {BY_FINISH} WHERE {HAS_FINISHED} ORDER BY finish_number DESC LIMIT 1 OFFSET ?
"""  # noqa: S608 - our own texts only


def last_finish_number(connection: sqlite3.Connection) -> int:
    """Return the highest number that a job of this file ever had, as far as the file is not damaged.

    Numbers rise with the clock, so a number that is not known does harm only if the clock goes back as well.
    """
    return max(_highest(connection), _deleted(connection))


def _highest(connection: sqlite3.Connection) -> int:
    try:
        for *columns, sum in connection.execute(_NEWEST):
            try:
                check_state(sum, *columns)
                return int(columns[FINISH_NUMBER])
            except DamagedRecord:
                continue
    except sqlite3.Error as error:
        if not is_damage(error):
            raise
    return 0


def _deleted(connection: sqlite3.Connection) -> int:
    try:
        (highest,) = connection.execute(_DELETED).fetchone()
    except sqlite3.Error as error:
        if not is_damage(error):
            raise
        return 0
    return highest if isinstance(highest, int) and 0 < highest < HIGHEST else 0
