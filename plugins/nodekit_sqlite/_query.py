"""The statement that finds jobs, written so that it reads no more of the file than it must."""

from collections.abc import Collection, Mapping, Sequence
from typing import Any

from nodekit import UNFINISHED, UNSUCCESSFUL, JobQuery, JobStatus

# the exact conditions of the partial indexes: SQLite uses such an index only if the statement contains its condition
IS_OPEN = "open = 1"
HAS_FAILED = "status IN ('failed', 'cancelled')"
HAS_FINISHED = "finish_number IS NOT NULL"

BY_OPEN = "INDEXED BY jobs_open"
"""The index of unfinished jobs. Without this, SQLite walks all jobs by id, because it need not sort them then."""
BY_FAILED = "INDEXED BY jobs_failed"
"""The index of failed jobs. Without this, SQLite walks all jobs of the client."""
BY_FINISH = "INDEXED BY jobs_finished"
"""The index of finished jobs. Without this, SQLite sorts all of the client's."""


def find_query(query: JobQuery) -> tuple[str, Sequence[Any]]:
    """Return the statement of `SqliteTable.find` and its values."""
    wanted = {
        "client = ?": query.client,
        "idempotency_key = ?": query.idempotency_key,
        "error_container = ?": query.container,
        "instr(error, ?) > 0": query.error,
        **_range(query),
    }
    given = {text: value for text, value in wanted.items() if value is not None}
    texts, values = ["1", *given], [*given.values()]
    if query.status is not None:
        texts.append(f"status IN ({marks(query.status)})")
        values += query.status
    condition, index = _index(query)
    where = " AND ".join([*texts, *condition])
    return f"SELECT id FROM jobs {index} WHERE {where} ORDER BY {_ORDERS[query.order]} LIMIT ?", (*values, query.limit)  # noqa: S608 - our own texts


_ORDERS = {"oldest": "id", "newest": "id DESC", "finished": "finish_number"}


def _range(query: JobQuery) -> Mapping[str, str | int | None]:
    if query.order == "finished":
        return {
            "finish_number > ?": None if query.after is None else int(query.after),
            "finish_number < ?": None if query.before is None else int(query.before),
        }
    after, before = (query.after, query.before) if query.order == "oldest" else (query.before, query.after)
    return {"id > ?": after, "id < ?": before}


def _index(query: JobQuery) -> tuple[Sequence[str], str]:
    """Return the conditions that an index needs, and its name if SQLite would choose a slower one."""
    fails = query.container is not None or query.error is not None or _only(query.status, UNSUCCESSFUL)
    conditions = [HAS_FAILED] if fails else [IS_OPEN] if _only(query.status, UNFINISHED) else []
    if query.order == "finished":
        conditions.append(HAS_FINISHED)
    if query.idempotency_key is not None or (query.status is not None and not query.status):
        return conditions, ""  # the index by key is the fastest; and for an empty status, SQLite cannot use an index
    if query.order == "finished":
        return conditions, BY_FINISH
    if fails:
        return conditions, BY_FAILED
    return conditions, BY_OPEN if conditions and query.client is None else ""


def marks(values: Collection[Any]) -> str:
    return ", ".join("?" * len(values))


def _only(status: Collection[JobStatus] | None, some: Collection[JobStatus]) -> bool:
    """Return True if `status` is given and contains nothing but `some`."""
    return bool(status) and set(some).issuperset(status or ())
