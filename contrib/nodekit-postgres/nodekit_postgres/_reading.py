"""Questions about jobs, and the SQL that answers them."""

from collections.abc import Collection, Sequence
from typing import Any

from nodekit import FINISHED, UNFINISHED, ClientId, Cursor, Job, JobFields, JobId, JobQuery, JobState, Page, StepRecord
from nodekit_postgres._connecting import Connection
from nodekit_postgres._rows import Stored, job_of, octets, text, with_output

LOOKED_AT, UNFINISHED_LOOKED_AT = 10_000, 2500
"""Jobs that a page of a search looks at, at most. Unfinished ones are looked up one by one."""

_REQUEST = "j.request, (SELECT output FROM nodekit.records WHERE job = j.id AND number = 0)"
_OUTLINES = "(SELECT array_agg(outline ORDER BY number) FROM nodekit.records WHERE job = j.id AND number > 0)"
_LAST_OUTLINE = (
    "ARRAY(SELECT outline FROM nodekit.records WHERE job = j.id AND number > 0 ORDER BY number DESC LIMIT 1)"
)
_OUTPUTS = "(SELECT array_agg(output ORDER BY number) FROM nodekit.records WHERE job = j.id AND number > 0)"
_LAST_OUTPUT = """
    (SELECT ARRAY[number::text::bytea, output] FROM nodekit.records
    WHERE job = j.id AND number > 0 AND output IS NOT NULL ORDER BY number DESC LIMIT 1)
"""


def jobs_query(fields: JobFields) -> str:
    """Return the query for parts of jobs, by `ids` and `client`."""
    columns = [
        _REQUEST if JobFields.REQUEST in fields else "NULL, NULL",
        _OUTLINES if JobFields.RECORDS in fields else _LAST_OUTLINE if JobFields.LAST_STEP in fields else "NULL",
        _OUTPUTS if JobFields.STEPS in fields else _LAST_OUTPUT if JobFields.LAST_STEP in fields else "NULL",
    ]
    return f"""
        SELECT j.id, j.client, j.state, j.finish_number, j.steps, j.revision, {", ".join(columns)}
        FROM nodekit.jobs j
        WHERE j.id = ANY (%(ids)s::bytea[]) AND (%(client)s::bytea IS NULL OR j.client = %(client)s)
    """  # noqa: S608


def job_from(row: Sequence[Any], fields: JobFields) -> Job:
    """Return the job in a row of `jobs_query`."""
    id, client, state, finish_number, ended, _, request, data, outlines, outputs = row
    steps: Sequence[StepRecord] = ()
    opened = JobFields.LAST_STEP in fields
    if JobFields.STEPS in fields:
        steps = [with_output(outline, output) for outline, output in zip(outlines or (), outputs or (), strict=True)]
    elif JobFields.RECORDS in fields:
        last = (int(outputs[0]), outputs[1]) if outputs else (None, None)
        steps = with_last_output(outlines or (), *last)
    elif opened and JobState.decoded(state).open_step is None and outlines:
        last_output = outputs[1] if outputs and int(outputs[0]) == ended else None
        steps = [with_output(outlines[0], last_output)]
    return job_of(Stored(id, client, state, finish_number, request, data, steps, opened))


def with_last_output(outlines: Sequence[bytes], number: int | None, output: bytes | None) -> Sequence[StepRecord]:
    """Return steps without outputs, but for the last one, which is that of the step `number`."""
    return [with_output(outline, output if place == number else None) for place, outline in enumerate(outlines, 1)]


class _Conditions:
    """The conditions of a search, with their parameters."""

    def __init__(self) -> None:
        self._texts: list[str] = []
        self.given: dict[str, Any] = {}

    def add(self, text: str, **parameters: Any) -> None:
        self._texts.append(text)
        self.given.update(parameters)

    def __str__(self) -> str:
        return " AND ".join(self._texts) or "true"


def find_query(query: JobQuery, below: int | None) -> tuple[str, dict[str, Any]]:
    """Return the SQL for a search, with its parameters.

    `below` is the number below which the order ``finished`` is complete.
    """
    where = _Conditions()
    order = _places(query, below, where)
    _facts(query, where)
    if query.status is not None:
        statuses = set(query.status)
        if statuses <= UNFINISHED:
            where.add("id IN (SELECT id FROM nodekit.live)")
        elif statuses <= FINISHED:
            where.add("finish_number IS NOT NULL")
    text = f"SELECT id FROM nodekit.jobs WHERE {where} ORDER BY {order} LIMIT %(limit)s"  # noqa: S608
    return text, {**where.given, "limit": query.limit}


def may_take_long(query: JobQuery) -> bool:
    """Return True for a search that an index does not answer: it may look at all jobs to find a few."""
    if query.idempotency_key is not None:
        return False
    with_client = query.client is not None and query.order == "finished"
    return with_client or query.status is not None or query.container is not None or query.error is not None


def looked_at(query: JobQuery) -> int:
    """Return how many jobs a page of a search looks at, at most."""
    return UNFINISHED_LOOKED_AT if _is_unfinished(query) else LOOKED_AT


def _is_unfinished(query: JobQuery) -> bool:
    """Return True for a search among unfinished jobs alone, in the order of their ids."""
    return query.status is not None and set(query.status) <= UNFINISHED and query.order != "finished"


def slice_query(query: JobQuery, below: int | None) -> tuple[str, dict[str, Any]]:
    """Return SQL that looks at the next jobs of a search, with its parameters.

    Its rows are those that match and, with false in the third column, the last one that may be looked at.
    """
    inner, outer = _Conditions(), _Conditions()
    order = _places(query, below, inner)
    table, columns = "nodekit.jobs", "*"
    if _is_unfinished(query):
        table, columns = "nodekit.live", "id"
    elif query.order != "finished":  # one index has all conditions of the slice, so that its limit holds
        if query.container is not None or query.error is not None:
            inner.add("error IS NOT NULL")
        elif query.client is not None:
            inner.add("client = %(client)s", client=octets(query.client))
    _facts(query, outer)
    slice, joined = f"FROM {table} WHERE {inner} ORDER BY {order}", "JOIN nodekit.jobs USING (id)"
    text = f"""
        SELECT id, finish_number, true FROM (
            SELECT id, finish_number FROM (SELECT {columns} {slice} LIMIT %(looked_at)s) looked
            {joined if columns == "id" else ""} WHERE {outer} ORDER BY {order} LIMIT %(limit)s
        ) found UNION ALL SELECT id, {"NULL" if columns == "id" else "finish_number"}, false FROM (
            SELECT {columns} {slice} OFFSET %(looked_at)s - 1 LIMIT 1
        ) last
    """  # noqa: S608
    return text, {**inner.given, **outer.given, "limit": query.limit, "looked_at": looked_at(query)}


def page_of(query: JobQuery, rows: Sequence[Sequence[Any]]) -> Page:
    """Return the page that the rows of `slice_query` are."""
    found = [row for row in rows if row[2]]
    ends = found[-1:] if len(found) == query.limit else [row for row in rows if not row[2]]
    return Page([text(row[0]) for row in found], _cursor(query, ends[0]) if ends else None)


def _cursor(query: JobQuery, row: Sequence[Any]) -> Cursor:
    return str(row[1]) if query.order == "finished" else text(row[0])


def _facts(query: JobQuery, where: _Conditions) -> None:
    """Add what a search says of its jobs, but for their places."""
    if query.client is not None:
        where.add("client = %(client)s", client=octets(query.client))
    if query.status is not None:
        where.add("status = ANY (%(statuses)s::text[])", statuses=[str(status) for status in set(query.status)])
    if query.idempotency_key is not None:
        where.add("idempotency_key = %(key)s", key=octets(query.idempotency_key))
    if query.container is not None:
        container = octets(query.container)
        where.add("error IS NOT NULL AND error_container = %(container)s", container=container)
    if query.error is not None:
        where.add("error IS NOT NULL AND position(%(error)s::bytea IN error) > 0", error=octets(query.error))


def _places(query: JobQuery, below: int | None, where: _Conditions) -> str:
    """Add the places that a search is about; return its order."""
    if query.order == "finished":
        where.add("finish_number IS NOT NULL")
        if query.after is not None:
            where.add("finish_number > %(after)s", after=int(query.after))
        if below is not None:
            where.add("finish_number < %(below)s", below=below)
        if query.before is not None:
            where.add("finish_number < %(before)s", before=int(query.before))
        return "finish_number"
    low, high = (query.after, query.before) if query.order == "oldest" else (query.before, query.after)
    if low is not None:
        where.add("id > %(low)s", low=octets(low))
    if high is not None:
        where.add("id < %(high)s", high=octets(high))
    return "id" if query.order == "oldest" else "id DESC"


async def read_jobs(
    connection: Connection, sql: Any, ids: Sequence[JobId], client: ClientId | None, fields: JobFields
) -> list[tuple[Job, int]]:
    """Return the jobs among `ids`, in their order, each with its revision."""
    given = {"ids": [octets(id) for id in dict.fromkeys(ids)], "client": None if client is None else octets(client)}
    cursor = await connection.execute(sql(jobs_query(fields)), given, binary=True)
    found = {row[0]: row for row in await cursor.fetchall()}
    return [(job_from(found[id], fields), found[id][5]) for id in given["ids"] or () if id in found]


def named(values: Collection[str]) -> list[bytes]:
    return [octets(value) for value in values]
