"""Places of records in their table: the number of the job, and in the lower bits that of the record.

A record's place is the rowid of its row. So a search compares numbers, and never has to read a body, which may be
damaged, on its way to another one.
"""

from typing import Final

NUMBER_BITS: Final = 24
LAST_NUMBER: Final = (1 << NUMBER_BITS) - 1
HIGHEST_JOB: Final = (1 << 63 - NUMBER_BITS) - 1

OF_JOB = f"BETWEEN jobs.number << {NUMBER_BITS} AND (jobs.number << {NUMBER_BITS}) + {LAST_NUMBER}"
"""Condition for the places of the records of a row of `jobs`."""
OF_STEP = f"BETWEEN (jobs.number << {NUMBER_BITS}) + 1 AND (jobs.number << {NUMBER_BITS}) + {LAST_NUMBER}"
"""Condition for the places of its steps: all but the first record, which is the data of its request."""
OF_REQUEST = f"jobs.number << {NUMBER_BITS}"
"""Place of the data of its request."""


def place(job: int, number: int) -> int:
    """Return the place of a record."""
    return job << NUMBER_BITS | number


def places(job: int) -> tuple[int, int]:
    """Return the first and the last place of the records of a job."""
    return place(job, 0), place(job, LAST_NUMBER)


def number_at(place: int) -> int:
    """Return the number of the record at a place."""
    return place & LAST_NUMBER


def job_at(place: int) -> int:
    """Return the number of the job of the record at a place."""
    return place >> NUMBER_BITS
