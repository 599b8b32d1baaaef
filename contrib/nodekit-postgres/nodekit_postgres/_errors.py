"""Refusals of the server, with the cure if it is known."""

from psycopg import errors

from nodekit import StoreFailed
from nodekit_postgres._connecting import said

_MISSING = (errors.InvalidSchemaName, errors.UndefinedFunction, errors.UndefinedTable)


class ReadOnly(StoreFailed):
    """The server answers, and takes no writes."""


class Gone(StoreFailed):
    """The tables or functions of the schema are not there any more."""


def refused(error: Exception) -> StoreFailed:
    """Return the error for a call that the server refused."""
    text = f"PostgreSQL refused: {said(error)}"
    if isinstance(error, _MISSING):
        return Gone(f"{text}; restore a backup, or make empty tables: nodekit store migrate")
    return ReadOnly(text) if isinstance(error, errors.ReadOnlySqlTransaction) else StoreFailed(text)
