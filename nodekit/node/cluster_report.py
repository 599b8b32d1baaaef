"""The state of a cluster for its operators, as the engine of its store knows it."""

from collections.abc import Mapping, Sequence
from typing import Any

import msgspec

from nodekit.interfaces.shared_store import Member, QueueState, SharedStore
from nodekit.model.container import ContainerId


class NodeReport(msgspec.Struct, frozen=True, kw_only=True):
    """One incarnation of a node. Its fields are those of `Announcement`; `containers` has the ids only.

    On a node that is gone, `running` is empty and `in_flight` is 0.

    - `seen_seconds_ago`: Time since its last sign of life.
    """

    name: str
    incarnation: str
    live: bool
    seen_seconds_ago: float
    version: str
    containers: Sequence[ContainerId]
    running: Sequence[ContainerId]
    pipelines: Sequence[str]
    in_flight: int
    urls: Sequence[str]
    skew_seconds: float
    takeovers: int
    poison: int


class ClusterReport(msgspec.Struct, frozen=True, kw_only=True):
    """The nodes on a store and the work that waits for them.

    - `time`: Time on the engine's clock, in Unix seconds.
    - `pending`: Number of unfinished jobs.
    - `queues`: Queued jobs by the container in which they are due.
    - `engine`: Facts that the store knows of its engine (`DescribingStore`), such as waiting locks.
    - `takeovers`: Number of claims of jobs that the nodes took over from each other.
    - `poison`: Number of jobs that failed because they were lost too often. Both are sums over `nodes`.
    """

    time: float
    nodes: Sequence[NodeReport]
    pending: int
    queues: Mapping[ContainerId, QueueState]
    engine: Mapping[str, str | int]
    takeovers: int
    poison: int


async def cluster_report(store: SharedStore) -> ClusterReport:
    """Return the state of the nodes on an entered store. Raise `StoreFailed`."""
    now, members = await store.now(), await store.nodes()
    queues, pending = await store.queues(), await store.pending()
    facts: Any = getattr(store, "facts", None)
    nodes = sorted((_node(member, now) for member in members), key=lambda node: (not node.live, node.name))
    return ClusterReport(
        time=now,
        nodes=nodes,
        pending=pending.total,
        queues=dict(sorted(queues.items())),
        engine={} if facts is None else await facts(),
        takeovers=sum(node.takeovers for node in nodes),
        poison=sum(node.poison for node in nodes),
    )


def _node(member: Member, now: float) -> NodeReport:
    said = member.announcement
    return NodeReport(
        name=said.name,
        incarnation=said.incarnation,
        live=member.live,
        seen_seconds_ago=round(max(0.0, now - member.seen_at), 3),
        version=said.version,
        containers=sorted(said.containers),
        running=sorted(said.running) if member.live else [],
        pipelines=sorted(said.pipelines),
        in_flight=said.in_flight if member.live else 0,
        urls=said.urls,
        skew_seconds=round(said.skew_seconds, 3),
        takeovers=said.takeovers,
        poison=said.poison,
    )
