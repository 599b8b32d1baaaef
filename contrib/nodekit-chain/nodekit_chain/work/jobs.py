"""The jobs of the node that compute results."""

from collections.abc import Callable
from typing import Any, cast

import anyio
import msgspec

from nodekit import Job, JobId, JobRequest, JobStatus, Location, Node, Refusal, Unavailable, encode_payload
from nodekit_chain.protocol.calls import UnreadableReply
from nodekit_chain.protocol.containers import Delivery, InvalidOutput, container_input, delivery
from nodekit_chain.protocol.contracts import Consumer
from nodekit_chain.rpc.questions import Refused, call, result_bytes
from nodekit_chain.watching.watcher import View
from nodekit_chain.work.context import Context
from nodekit_chain.work.ledger import Entry
from nodekit_chain.work.records import State, Work

MOST_BYTES = 120_000
"""Bytes of a delivery: common chains take no transaction above 128 KiB."""


class Jobs:
    """Begins the jobs of records that were seen, and takes the outputs of those that have finished."""

    def __init__(self, context: Context) -> None:
        self._context = context

    async def begin(self, entry: Entry, view: View) -> None:
        """Submit the job of a record. It is the same job if an earlier life of the node has submitted it already."""
        work, context = entry.work, self._context
        if reason := await context.rules.objection(work.subscription, work.containers):
            await context.failed(entry, State.SEEN, reason)
            return
        if not work.interval:  # frozen first: the same job must never be taken for another interval
            now = context.node.now()
            entry = await context.change(entry, work.begun(work.subscription.interval(view.latest.timestamp), now))
            work = entry.work
        try:
            job = await context.node.submit(await self._request(work, view))
        except Refusal as refusal:
            await context.end(entry, State.FAILED, str(refusal))
        except Unavailable as unavailable:
            pause = unavailable.retry_after_seconds
            await context.change(entry, work.waiting(str(unavailable), context.node.now(), pause))
        else:
            await context.change(entry, work.running(job.id, context.node.now()))

    async def _request(self, work: Work, view: View) -> JobRequest:
        delegated = work.delegation is not None
        data = work.delegation.data if work.delegation else encode_payload(await self._input(work, view))
        return JobRequest(
            containers=work.containers,
            data=data,
            requires_proof=work.subscription.needs_proof,
            client=f"chain:{work.subscription.owner}",
            origin=Location.OFFCHAIN if delegated else Location.ONCHAIN,
            destination=Location.ONCHAIN,
            idempotency_key=work.job_key,
            body_digest=work.key,
            meta={"subscription": work.key},
        )

    async def _input(self, work: Work, view: View) -> Any:
        """Return what the consumer asks; nothing if it fails to say. Raise the errors of the RPC."""
        context, subscription = self._context, work.subscription
        arguments = (work.id, work.interval, view.latest.timestamp, context.sender.address)
        question = call(subscription.owner, Consumer.get_container_inputs.encode(*arguments))
        try:
            (reply,) = await context.rpc.batch([question])
            return container_input(Consumer.get_container_inputs.decode_one(result_bytes(reply)))
        except (Refused, UnreadableReply):
            return ""

    async def take(self, entry: Entry) -> None:
        """Take the output of a job that has finished; without one, leave the record as it is."""
        work, context = entry.work, self._context
        job = next(iter(await context.node.fetch([work.job])), None)
        if job is None:
            await context.failed(entry, State.SEEN, "its job was deleted before its output was taken")
        elif job.status.finished:
            try:
                payload = _payload(job, as_json=context.settings.json_output)
            except InvalidOutput as problem:
                await context.failed(entry, State.SEEN, str(problem))
            else:
                await context.change(entry, work.with_output(payload, context.node.now()))


def _payload(job: Job, *, as_json: bool) -> Delivery:
    """Return the bytes to deliver. Raise `InvalidOutput` if there are none."""
    if job.status is not JobStatus.SUCCESS or job.result is None or job.error is not None:
        error = job.error.error if job.error else f"the job ended as {job.status}"
        raise InvalidOutput(f"job {job.id} failed: {error}")
    try:
        output = cast(Any, job.result).value
    except (AttributeError, msgspec.MsgspecError) as error:
        raise InvalidOutput(f"the output of job {job.id} cannot be read") from error
    if not isinstance(output, dict):
        raise InvalidOutput(f"the output of job {job.id} is no JSON object")
    payload = delivery(cast(dict[str, Any], output), as_json=as_json)
    if (size := len(payload.input) + len(payload.output) + len(payload.proof)) > MOST_BYTES:
        raise InvalidOutput(f"the output of job {job.id} has {size} bytes on the chain, more than {MOST_BYTES}")
    return payload


async def follow(node: Node, ended: Callable[[JobId | None], None]) -> None:
    """Tell of each job that ends, for ever; None: some were missed."""
    while True:
        async with node.changes() as changes:
            ended(None)
            async for change in changes:
                if change is None:
                    ended(None)
                elif change.finished:
                    ended(change.id)
        await anyio.sleep(0.1)
