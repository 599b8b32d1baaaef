"""What happens to one job as server-sent events, from its start, or on from the last one that a client has seen."""

import logging
import re
from collections.abc import AsyncGenerator
from contextlib import aclosing
from typing import Literal, TypeAlias

import msgspec

from nodekit import Job, JobId, Node, NodekitError, StoreFailed
from nodekit_asgi.wire.jobs import WireAccepted, wire_job, wire_result

logger = logging.getLogger("nodekit.http")

EventName: TypeAlias = Literal["accepted", "step", "finished"]

KEEP_ALIVE = b":\n\n"
"""A comment, which clients skip."""
PIECE_BYTES = 1 << 16
"""Events are sent together until they are this long: more are not made before a client has taken these."""

_NUMBER = re.compile(r"[0-9]{1,9}")


def events_seen(last: str, job: Job) -> int:
    """How many of a job's events a client has that names the last one; 0: it names none of them."""
    id, _, number = last.rpartition(":")
    if id != job.id or not _NUMBER.fullmatch(number) or int(number) >= _events(job):
        return 0
    return int(number) + 1


def told_all(job: Job, seen: int) -> bool:
    """Whether no event is to come."""
    return job.status.finished and seen >= _events(job)


async def event_stream(node: Node, id: JobId, client: str, seen: int) -> AsyncGenerator[bytes, None]:
    """The events behind those that were seen, as they happen. It ends with the job, or the node.

    While it waits, for the job or its reader, it holds neither the job nor what it has told: both may be large.
    """
    yield KEEP_ALIVE  # servers send the head of a reply with its first piece
    try:
        async with aclosing(node.follow(id, client=client)) as jobs:
            async for job in jobs:
                events, seen, more = _piece(job, seen)
                del job
                if events:
                    yield events.pop()
                while more and (found := await node.fetch([id], client=client)):
                    events, seen, more = _piece(found.pop(), seen)
                    yield events.pop()
    except StoreFailed as error:
        logger.error("job %s: its events end here: %s", id, error)
    except NodekitError as error:  # the node stops; clients connect again, and go on from there
        logger.debug("job %s: its events end here: %s", id, error)


def _events(job: Job) -> int:
    return 1 + len(job.results) + job.status.finished


def _piece(job: Job, seen: int) -> tuple[list[bytes], int, bool]:
    """The next events in one piece, if there are any; how many are seen with them, and whether there are more."""
    known, results = _events(job), job.results
    piece = bytearray()
    while seen < known and len(piece) < PIECE_BYTES:
        if seen == 0:
            piece += _event("accepted", job.id, seen, WireAccepted(job.id))
        elif seen <= len(results):
            piece += _event("step", job.id, seen, wire_result(results[seen - 1]))
        else:
            piece += _event("finished", job.id, seen, wire_job(job, intermediate=False))
        seen += 1
    return [bytes(piece)] if piece else [], seen, seen < known


def _event(name: EventName, id: JobId, number: int, value: msgspec.Struct) -> bytes:
    """One event. A payload's white space may be any newline that the format knows; each begins a line of data."""
    data = msgspec.json.encode(value).replace(b"\r\n", b"\n").replace(b"\r", b"\n").replace(b"\n", b"\ndata: ")
    return b"event: %s\nid: %s:%d\ndata: %s\n\n" % (name.encode(), id.encode(), number, data)
