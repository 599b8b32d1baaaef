"""New records: intervals that have begun, and that nobody has delivered."""

import logging
from collections.abc import Sequence

from msgspec.structs import replace

from nodekit import NodekitError
from nodekit_chain.protocol.contracts import Coordinator, Reader
from nodekit_chain.protocol.keys import node_key
from nodekit_chain.rpc.questions import EndpointFault, Refused, call, result_bytes
from nodekit_chain.watching.catalogue import Catalogue, Due
from nodekit_chain.watching.pipelines import PipelineTable
from nodekit_chain.watching.watcher import View
from nodekit_chain.work.context import Context
from nodekit_chain.work.records import Work

logger = logging.getLogger("nodekit.chain")

MOST_AT_ONCE = 200
"""Intervals that are looked up in one request."""
UNKNOWN = "no pipeline of the node has the hash of its containers"


class Intake:
    """Makes records of the intervals that are due."""

    def __init__(self, context: Context, pipelines: PipelineTable) -> None:
        self._context, self._pipelines = context, pipelines

    async def look(self, view: View, catalogue: Catalogue) -> None:
        """Store a record for each interval that has begun."""
        if self._pipelines.update(self._context.node.containers):
            for id in [id for id, reason in catalogue.aside.items() if reason == UNKNOWN]:
                catalogue.resume(id)
        due = [one for one in catalogue.due(view.latest.timestamp) if self._known(one, catalogue)]
        for start in range(0, len(due), MOST_AT_ONCE):
            await self._take(due[start : start + MOST_AT_ONCE], view, catalogue)

    def _known(self, due: Due, catalogue: Catalogue) -> bool:
        """Return True for an interval that may need a record."""
        subscription = due.subscription
        if self._pipelines.containers(subscription.containers) is None:
            catalogue.set_aside(due.id, UNKNOWN)
            return False
        if _work(self._context, due).key in self._context.entries:
            catalogue.taken(due)
            return False
        delegated = (one.work for one in self._context.entries.values() if one.work.delegation is not None)
        return not any(one.subscription == subscription and one.interval == due.interval for one in delegated)

    async def _take(self, due: Sequence[Due], view: View, catalogue: Catalogue) -> None:
        counts, responded = await self._delivered(due)
        for one, count, ours in zip(due, counts, responded, strict=True):
            if not ours and count < one.subscription.redundancy:
                containers = self._pipelines.containers(one.subscription.containers)
                assert containers is not None
                work = replace(_work(self._context, one), containers=containers, read_at=view.trail.number)
                await self._context.create(work)
            catalogue.taken(one)

    async def _delivered(self, due: Sequence[Due]) -> tuple[list[int], list[bool]]:
        """Return the number of results that each interval has, and True where one of them is this node's."""
        context = self._context
        ids, intervals = [one.id for one in due], [one.interval for one in due]
        keys = [node_key(one.id, one.interval, context.sender.address) for one in due]
        counted, *answers = await context.rpc.batch(
            [
                call(context.reader, Reader.read_redundancy_count_batch.encode(ids, intervals)),
                *(call(context.coordinator, Coordinator.node_responded.encode(key)) for key in keys),
            ]
        )
        try:
            counts: list[int] = list(Reader.read_redundancy_count_batch.decode_one(result_bytes(counted)))
            ours: list[bool] = [Coordinator.node_responded.decode_one(result_bytes(one)) for one in answers]
        except (Refused, EndpointFault) as refused:  # deliveries are simulated, so that nothing is sent in vain
            logger.warning("the coordinator refuses to say what was delivered: %s", refused)
            return [0] * len(due), [False] * len(due)
        if len(counts) != len(due):
            raise NodekitError(f"the reader counted {len(counts)} intervals instead of {len(due)}")
        return counts, ours


def _work(context: Context, due: Due) -> Work:
    now = context.node.now()
    return Work(
        coordinator=context.coordinator,
        subscription=due.subscription,
        id=due.id,
        interval=due.interval,
        seen_at=now,
        changed_at=now,
    )
