"""Server-sent events of one job, from its start or after the last event that the client has seen."""

import logging
import re
from collections.abc import AsyncGenerator
from contextlib import aclosing
from typing import Literal, TypeAlias

import msgspec

from nodekit import Job, JobId, Node, NodekitError, StoreFailed, job_result, step_result
from nodekit_asgi.wire.jobs import WireAccepted

logger = logging.getLogger("nodekit.http")

EventName: TypeAlias = Literal["accepted", "step", "finished"]

KEEP_ALIVE = b":\n\n"
"""A comment, which clients ignore."""
PIECE_BYTES = 1 << 16
"""Size at which events that are sent together end. More are made only once the client has taken these."""

_NUMBER = re.compile(r"[0-9]{1,9}")


def events_seen(last: str, job: Job) -> int:
    """Return the number of events that a client has seen if `last` is its last one, 0 if that is not of this job."""
    id, _, number = last.rpartition(":")
    if id != job.id or not _NUMBER.fullmatch(number) or int(number) >= _events(job):
        return 0
    return int(number) + 1


def seen_all(job: Job, seen: int) -> bool:
    """Return True if no more events will come."""
    return job.status.finished and seen >= _events(job)


async def event_stream(node: Node, id: JobId, client: str, seen: int) -> AsyncGenerator[bytes, None]:
    """Yield the events that the client has not seen, as they happen. It ends with the job, or when the node stops.

    While it waits for the job or for the reader, it holds neither the job nor the sent events: both may be large.
    """
    yield KEEP_ALIVE  # servers send the head of a reply only with its first piece
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
        logger.error("job %s: its stream of events ends early: %s", id, error)
    except NodekitError as error:  # the node stops; clients connect again and go on after their last event
        logger.debug("job %s: its stream of events ends early: %s", id, error)


def _events(job: Job) -> int:
    return 1 + len(job.results) + job.status.finished


def _piece(job: Job, seen: int) -> tuple[list[bytes], int, bool]:
    """Return the next events as one piece (no piece if there are none), the new `seen`, and True if there are more."""
    known, results = _events(job), job.results
    piece = bytearray()
    while seen < known and len(piece) < PIECE_BYTES:
        if seen == 0:
            piece += _event("accepted", job.id, seen, WireAccepted(job.id))
        elif seen <= len(results):
            piece += _event("step", job.id, seen, step_result(results[seen - 1]))
        else:
            piece += _event("finished", job.id, seen, job_result(job))
        seen += 1
    return [bytes(piece)] if piece else [], seen, seen < known


def _event(name: EventName, id: JobId, number: int, value: msgspec.Struct) -> bytes:
    """Encode one event. A payload may contain any newline that the format knows, so each one begins a line of data."""
    data = msgspec.json.encode(value).replace(b"\r\n", b"\n").replace(b"\r", b"\n").replace(b"\n", b"\ndata: ")
    return b"event: %s\nid: %s:%d\ndata: %s\n\n" % (name.encode(), id.encode(), number, data)
