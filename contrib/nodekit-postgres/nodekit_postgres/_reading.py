"""Questions about jobs, and the SQL that answers them."""

from collections.abc import Collection, Sequence
from typing import Any

from nodekit import FINISHED, UNFINISHED, ClientId, Job, JobFields, JobId, JobQuery, StepRecord
from nodekit_postgres._connecting import Connection
from nodekit_postgres._rows import Stored, has_open_step, job_of, octets, with_output

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
    elif opened and not has_open_step(state) and outlines:
        last_output = outputs[1] if outputs and int(outputs[0]) == ended else None
        steps = [with_output(outlines[0], last_output)]
    return job_of(Stored(id, client, state, finish_number, request, data, steps, opened))


def with_last_output(outlines: Sequence[bytes], number: int | None, output: bytes | None) -> Sequence[StepRecord]:
    """Return steps without outputs, but for the last one, which is that of the step `number`."""
    return [with_output(outline, output if place == number else None) for place, outline in enumerate(outlines, 1)]


def find_query(query: JobQuery, below: int | None) -> tuple[str, dict[str, Any]] | None:
    """Return the SQL for a search, with its parameters; None if nothing can match.

    `below` is the number below which the order ``finished`` is complete.
    """
    conditions: list[str] = []
    given: dict[str, Any] = {"limit": query.limit}

    def where(condition: str, **parameters: Any) -> None:
        conditions.append(condition)
        given.update(parameters)

    if query.client is not None:
        where("client = %(client)s", client=octets(query.client))
    if query.status is not None:
        statuses = set(query.status)
        where("status = ANY (%(statuses)s::text[])", statuses=[str(status) for status in statuses])
        if statuses <= UNFINISHED:
            conditions.append("id IN (SELECT id FROM nodekit.live)")
        elif statuses <= FINISHED:
            conditions.append("finish_number IS NOT NULL")
    if query.idempotency_key is not None:
        where("idempotency_key = %(key)s", key=octets(query.idempotency_key))
    if query.container is not None:
        where("error IS NOT NULL AND error_container = %(container)s", container=octets(query.container))
    if query.error is not None:
        where("error IS NOT NULL AND position(%(error)s::bytea IN error) > 0", error=octets(query.error))
    order = _places(query, below, where)
    text = f"SELECT id FROM nodekit.jobs WHERE {' AND '.join(conditions) or 'true'} ORDER BY {order} LIMIT %(limit)s"  # noqa: S608
    return text, given


def _places(query: JobQuery, below: int | None, where: Any) -> str:
    if query.order == "finished":
        where("finish_number IS NOT NULL")
        if query.after is not None:
            where("finish_number > %(after)s", after=int(query.after))
        if below is not None:
            where("finish_number < %(below)s", below=below)
        if query.before is not None:
            where("finish_number < %(before)s", before=int(query.before))
        return "finish_number"
    low, high = (query.after, query.before) if query.order == "oldest" else (query.before, query.after)
    if low is not None:
        where("id > %(low)s", low=octets(low))
    if high is not None:
        where("id < %(high)s", high=octets(high))
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
