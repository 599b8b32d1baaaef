"""Server-sent events of one job, from its start or after the last event that the client has seen."""

import logging
import re
from collections.abc import AsyncGenerator, AsyncIterator
from contextlib import aclosing
from typing import Literal, TypeAlias

import msgspec

from nodekit import COPIES, Job, JobFields, JobId, Node, NodekitError, StoreFailed, job_result, step_result
from nodekit_asgi.api.job_replies import make_room
from nodekit_asgi.http.messages import Request
from nodekit_asgi.wire.jobs import WireAccepted

logger = logging.getLogger("nodekit.http")

EventName: TypeAlias = Literal["accepted", "step", "finished"]

KEEP_ALIVE = b":\n\n"
"""A comment, which clients ignore."""
PIECE_BYTES = 1 << 16
"""Size of the outputs whose events are sent together. More are read only once the client has taken these."""

_NUMBER = re.compile(r"[0-9]{1,9}")


async def events_seen(node: Node, last: str, job: Job) -> int:
    """Return the number of events that a client has seen if `last` is its last one, 0 if that is not of this job."""
    id, _, text = last.rpartition(":")
    if id != job.id or not _NUMBER.fullmatch(text):
        return 0
    number = int(text)
    if number == 0 or await _ended(node, job.id, number - 1):
        return number + 1
    ended = job.status.finished and (number == 1 or await _ended(node, job.id, number - 2))
    return number + 1 if ended else 0


async def seen_all(node: Node, job: Job, seen: int) -> bool:
    """Return True if no more events will come: the last one that was seen is that of the end."""
    return job.status.finished and seen > 1 and not await _ended(node, job.id, seen - 2)


async def _ended(node: Node, id: JobId, index: int) -> bool:
    """Return True if a step of a job has ended."""
    return any(step.result is not None for step in await node.steps(id, index, 0))


async def event_stream(request: Request, node: Node, id: JobId, seen: int) -> AsyncGenerator[bytes, None]:
    """Yield the events that the client has not seen, as they happen. It ends with the job, or when the node stops.

    While it waits for the job or for the reader, it holds neither the job nor the sent events: both may be large.
    """
    yield KEEP_ALIVE  # servers send the head of a reply only with its first piece
    try:
        async with aclosing(node.follow(id, client=request.sees, fields=JobFields.STATE)) as jobs:
            async for job in jobs:
                finished = job.status.finished
                del job
                if seen == 0:
                    seen = 1
                    yield _event("accepted", id, 0, WireAccepted(id))
                async for number, piece in _steps(request, node, id, seen):
                    seen = number
                    yield piece
                    del piece  # it may be large, and the wait for the next change long
                if finished:
                    async for piece in _end(request, node, id, seen):
                        yield piece
    except StoreFailed as error:
        logger.error("job %s: its stream of events ends early: %s", id, error)
    except NodekitError as error:  # the node stops; clients connect again and go on after their last event
        logger.debug("job %s: its stream of events ends early: %s", id, error)


async def _steps(request: Request, node: Node, id: JobId, seen: int) -> AsyncIterator[tuple[int, bytes]]:
    """Yield the events of the steps that have ended, a few at a time, with the new number of seen events."""
    while True:
        with request.reservation() as memory:
            await make_room(request, node, memory, id)
            steps = await node.steps(id, seen - 1, PIECE_BYTES)
            results = [step.result for step in steps if step.result is not None]
            if not results:
                return
            piece = b"".join(_event("step", id, seen + n, step_result(result)) for n, result in enumerate(results))
            seen += len(results)
            del steps, results
            memory.resize(COPIES * len(piece))
            yield seen, piece
            del piece


async def _end(request: Request, node: Node, id: JobId, seen: int) -> AsyncIterator[bytes]:
    with request.reservation() as memory:
        await make_room(request, node, memory, id)
        for job in await node.fetch([id], client=request.sees, fields=JobFields.LAST_STEP):
            memory.resize(COPIES * job.payload_bytes)
            yield _event("finished", id, seen, job_result(job))


def _event(name: EventName, id: JobId, number: int, value: msgspec.Struct) -> bytes:
    """Encode one event. A payload may contain any newline that the format knows, so each one begins a line of data."""
    data = msgspec.json.encode(value).replace(b"\r\n", b"\n").replace(b"\r", b"\n").replace(b"\n", b"\ndata: ")
    return b"event: %s\nid: %s:%d\ndata: %s\n\n" % (name.encode(), id.encode(), number, data)
