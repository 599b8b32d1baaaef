"""Replies that hold jobs. However large the jobs are, only as much of them is in memory as the budget has room for."""

from collections.abc import AsyncIterator, Mapping, Sequence

import msgspec

from nodekit import COPIES, Job, JobFields, JobId, Node, Reservation, job_result, result_status, step_result
from nodekit_asgi.api.audit import audited_read
from nodekit_asgi.http.messages import CutShort, Header, Reply, Request, json_reply
from nodekit_asgi.wire.history import wire_history

SMALL_BYTES = 1 << 20
"""Size of payloads up to which a reply is made as a whole. A larger one is sent job by job, or step by step."""
LARGEST_BYTES = 16 << 20
"""Room for an output whose size is not known before it is read: that of the largest one by default."""

_encode = msgspec.json.Encoder().encode


async def make_room(request: Request, node: Node, memory: Reservation, id: JobId) -> None:
    """Reserve memory for the request of a job, or for one of its outputs, before it is read.

    None is reserved for a job that the caller may not know of: waiting would tell that it is there, and how large.
    Raise `Unavailable` if there is none, and `CallerLost` if the caller lost its right to the job meanwhile.
    """
    if memory.grow_at_once(COPIES * LARGEST_BYTES):  # while there is plenty, its size need not be known
        return
    if await node.fetch([id], client=request.sees, fields=JobFields.STATE):
        size = (await node.sizes([id])).get(id, 0)
        await wait_for_memory(request, memory, COPIES * min(size, LARGEST_BYTES))


async def wait_for_memory(request: Request, memory: Reservation, size: int, *, begun: bool = False) -> None:
    """Reserve memory, for which a request may wait longer than its caller has a right to the answer.

    A reply that has `begun` waits as long as it takes. Raise `Unavailable` and `CallerLost`.
    """
    await (memory.grow(size) if begun else memory.grow_soon(size))
    if request.caller is not None:
        await request.caller.check()


async def job_reply(request: Request, node: Node, id: JobId, headers: Sequence[Header] = ()) -> Reply | None:
    """Return the reply with one job and its result. Return None if the client has no such job."""
    await make_room(request, node, request.memory, id)
    job = next(iter(await node.fetch([id], client=request.sees, fields=JobFields.LAST_STEP)), None)
    if job is None:
        return None
    audited_read(request, "read", job)
    reply = json_reply(job_result(job), headers=headers)
    request.memory.resize(COPIES * job.payload_bytes)
    return reply


async def jobs_reply(request: Request, node: Node, ids: Sequence[JobId], *, intermediate: bool) -> Reply | None:
    """Return the reply with an array of jobs. Return None if the client has none of them."""
    if len(ids) == 1 and not intermediate:
        return await _array_of_one(request, node, ids[0])
    fields = JobFields.STEPS if intermediate else JobFields.LAST_STEP
    sizes = await node.sizes(ids)
    if large := await _large(request, node, ids, sizes):
        return Reply(_pieces(request, node, large, sizes, intermediate=intermediate))
    jobs = await node.fetch(ids, client=request.sees, fields=fields)
    for job in jobs:
        audited_read(request, "read", job)
    return json_reply([job_result(job, intermediate=intermediate) for job in jobs]) if jobs else None


async def _large(request: Request, node: Node, ids: Sequence[JobId], sizes: Mapping[JobId, int]) -> Sequence[Job]:
    """Return the states of the caller's jobs if they are too large for one piece; otherwise reserve memory for them.

    Only what the caller may know of decides, so that the reply tells nothing of the size of other jobs.
    """
    size = sum(sizes.values())
    if size <= SMALL_BYTES and request.memory.grow_at_once(COPIES * size):
        return ()
    found = await node.fetch(ids, client=request.sees, fields=JobFields.STATE)
    size = sum(sizes.get(job.id, 0) for job in found)
    if size <= SMALL_BYTES:
        await wait_for_memory(request, request.memory, COPIES * size)
        return ()
    for state in found:
        audited_read(request, "read", state)
    return found


async def histories_reply(request: Request, node: Node, ids: Sequence[JobId]) -> Reply | None:
    """Return the reply with an array of the histories of jobs. Return None if the client has none of them."""
    sizes = await node.sizes(ids)
    if large := await _large(request, node, ids, sizes):
        return Reply(_histories(request, node, [job.id for job in large], sizes))
    jobs = await node.fetch(ids, client=request.sees, fields=JobFields.RUN)
    for job in jobs:
        audited_read(request, "read", job)
    held = await node.held([job.id for job in jobs])
    now, everybody = node.now(), request.sees is None
    told = [wire_history(job, now=now, held=held.get(job.id), for_operator=everybody) for job in jobs]
    return json_reply(told) if told else None


async def _histories(
    request: Request, node: Node, ids: Sequence[JobId], sizes: Mapping[JobId, int]
) -> AsyncIterator[bytes]:
    """Yield an array of histories, one after another: a job is read with its data and its last output."""
    separator = b"["
    held = await node.held(ids)
    for id in ids:
        with request.reservation() as memory:
            await wait_for_memory(request, memory, COPIES * min(sizes.get(id, 0), LARGEST_BYTES), begun=True)
            for job in await node.fetch([id], client=request.sees, fields=JobFields.RUN):
                history = wire_history(job, now=node.now(), held=held.get(id), for_operator=request.sees is None)
                piece = separator + _encode(history)
                separator = b","
                del job
                memory.resize(COPIES * len(piece))
                yield piece
                del piece
    yield b"]" if separator == b"," else b"[]"


async def _array_of_one(request: Request, node: Node, id: JobId) -> Reply | None:
    reply = await job_reply(request, node, id)
    if reply is None:
        return None
    assert isinstance(reply.body, bytes)
    return Reply(b"[%b]" % reply.body)


async def _pieces(
    request: Request, node: Node, jobs: Sequence[Job], sizes: Mapping[JobId, int], *, intermediate: bool
) -> AsyncIterator[bytes]:
    """Yield an array of jobs, one after another. A job that was deleted meanwhile is as if it had never been there."""
    separator = b"["
    for state in jobs:
        if intermediate and sizes.get(state.id, 0) > SMALL_BYTES:
            async for piece in _steps(request, node, state):
                yield separator + piece
                separator = b""
            separator = b","
            continue
        with request.reservation() as memory:
            await wait_for_memory(request, memory, COPIES * min(sizes.get(state.id, 0), LARGEST_BYTES), begun=True)
            fields = JobFields.STEPS if intermediate else JobFields.LAST_STEP
            for job in await node.fetch([state.id], client=request.sees, fields=fields):
                memory.resize(COPIES * job.payload_bytes)
                piece = separator + _encode(job_result(job, intermediate=intermediate))
                separator = b","
                del job
                yield piece
                del piece
    yield b"]" if separator == b"," else b"[]"


async def _steps(request: Request, node: Node, state: Job) -> AsyncIterator[bytes]:
    """Yield a job with all its results, one after another."""
    with request.reservation() as memory:
        await wait_for_memory(
            request, memory, COPIES * LARGEST_BYTES, begun=True
        )  # it is large, as was found out before
        found = await node.fetch([state.id], client=request.sees, fields=JobFields.RECORDS)
        if not found:
            raise CutShort(f"job {state.id} was deleted meanwhile")
        job = found.pop()
        left = len(job.intermediate_results)
        result = b"null" if job.result is None else _encode(step_result(job.result))
        head = f'{{"id":"{job.id}","status":"{result_status(job)}","result":'.encode()
        del job
        yield head + result + b',"intermediate_results":['
        del result
        first, separator = 0, b""
        while left > 0:
            steps = await node.steps(state.id, first, SMALL_BYTES)
            if not steps:
                raise CutShort(f"job {state.id} was deleted meanwhile")
            first += len(steps)
            results = [_encode(step_result(step.result)) for step in steps[:left] if step.result is not None]
            left -= len(steps)
            del steps
            yield separator + b",".join(results)
            separator = b","
            del results
        yield b"]}"
