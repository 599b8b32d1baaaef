"""The statement that finds jobs, written so that it reads no more of the file than it must."""

from collections.abc import Collection, Sequence
from typing import Any

from nodekit import UNFINISHED, UNSUCCESSFUL, JobQuery, JobStatus

# the exact conditions of the partial indexes: SQLite uses such an index only if the statement contains its condition
IS_OPEN = "open = 1"
HAS_FAILED = "status IN ('failed', 'cancelled')"

BY_OPEN = "INDEXED BY jobs_open"
"""The index of unfinished jobs. Without this, SQLite walks all jobs by id, because it need not sort them then."""
BY_FAILED = "INDEXED BY jobs_failed"
"""The index of failed jobs. Without this, SQLite walks all jobs of the client."""


def find_query(query: JobQuery) -> tuple[str, Sequence[Any]]:
    """Return the statement of `SqliteTable.find` and its values."""
    status = query.status
    wanted = {
        "client = ?": query.client,
        "idempotency_key = ?": query.idempotency_key,
        "error_container = ?": query.container,
        "instr(error, ?) > 0": query.error,
        "id > ?": query.after,
    }
    given = {text: value for text, value in wanted.items() if value is not None}
    texts, values = ["1", *given], [*given.values()]
    if status is not None:
        texts.append(f"status IN ({marks(status)})")
        values += status
    index = ""
    if query.container is not None or query.error is not None or _only(status, UNSUCCESSFUL):
        texts.append(HAS_FAILED)
        index = BY_FAILED
    elif _only(status, UNFINISHED):
        texts.append(IS_OPEN)
        index = BY_OPEN if query.client is None else ""
    if query.idempotency_key is not None or (status is not None and not status):
        index = ""  # the index by key is the fastest; and for an empty status, SQLite cannot use an index
    where = " AND ".join(texts)
    return f"SELECT id FROM jobs {index} WHERE {where} ORDER BY id LIMIT ?", (*values, query.limit)  # noqa: S608 - our own texts


def marks(values: Collection[Any]) -> str:
    return ", ".join("?" * len(values))


def _only(status: Collection[JobStatus] | None, some: Collection[JobStatus]) -> bool:
    """Return True if `status` is given and contains nothing but `some`."""
    return bool(status) and set(some).issuperset(status or ())
