"""The state of the node at the moment of a request. It is read in the event loop and reported from another thread."""

from collections.abc import Awaitable, Callable, Collection, Container, Iterator, Mapping
from contextlib import suppress
from typing import TypeVar

import anyio
import msgspec
from prometheus_client import CollectorRegistry, Metric
from prometheus_client.core import GaugeMetricFamily

from nodekit import DiskSpace, Node, Pending, QueueState
from nodekit_metrics._labels import container_label

STORE_SECONDS = 4.0
"""Time that the store has for each of two answers. Prometheus waits ten seconds."""

T = TypeVar("T")


class Seen(msgspec.Struct, frozen=True):
    """The state of a node at one moment.

    - `running`: Containers by id; True if the container can be called.
    - `pending`: Numbers of pending jobs. None: the store did not answer.
    - `queues`: Queued jobs by container. Empty: the store did not answer.
    - `disk`: None: the store did not answer, or is on no disk.
    """

    running: dict[str, bool] = {}
    in_flight: int = 0
    max_in_flight: int = 0
    max_pending: int = 0
    pending: Pending | None = None
    queues: Mapping[str, QueueState] = {}
    disk: DiskSpace | None = None


async def seen(node: Node) -> Seen:
    """Read the state of the node. What the store says is left out if it takes too long or fails."""
    pending, store = await _answer(node.pending), await _answer(node.store_state)
    queues = None if store is None else store.queues
    running = set(node.running(here=True))
    return Seen(
        running={id: id in running for id in node.own_containers},
        in_flight=node.in_flight,
        max_in_flight=node.limits.concurrency,
        max_pending=node.limits.max_pending,
        pending=pending,
        queues={} if queues is None else _queues(queues, node.own_containers, node.containers),
        disk=None if store is None else store.disk,
    )


async def _answer(ask: Callable[[], Awaitable[T]]) -> T | None:
    with anyio.move_on_after(STORE_SECONDS):
        with suppress(Exception):  # the node has logged it, or counted it as a failure of the store
            return await ask()
    return None


def _queues(found: Mapping[str, QueueState], own: Collection[str], known: Container[str]) -> Mapping[str, QueueState]:
    """Return the queues by label. Those of containers that are gone are together."""
    queues = dict.fromkeys(own, QueueState(0))
    for id, state in found.items():
        label = container_label(id, known)
        other = queues.get(label, QueueState(0))
        queues[label] = QueueState(other.jobs + state.jobs, max(other.oldest_seconds, state.oldest_seconds))
    return queues


class Now:
    """A collector that reports the state that was read last."""

    def __init__(self, registry: CollectorRegistry) -> None:
        self.seen = Seen()
        registry.register(self)

    def describe(self) -> Iterator[Metric]:
        return _families(Seen())

    def collect(self) -> Iterator[Metric]:
        return _families(self.seen)


def _families(seen: Seen) -> Iterator[Metric]:
    pending = GaugeMetricFamily("nodekit_jobs_pending", "Jobs that are accepted and have not ended.", labels=["origin"])
    if seen.pending is not None:
        pending.add_metric(["offchain"], seen.pending.offchain)
        pending.add_metric(["onchain"], seen.pending.onchain)
    yield pending
    yield GaugeMetricFamily("nodekit_jobs_pending_max", "The most jobs that may be pending.", seen.max_pending)
    yield GaugeMetricFamily("nodekit_jobs_in_flight", "Jobs that run, streams among them.", seen.in_flight)
    text = "The most jobs that run at once, not counting streams."
    yield GaugeMetricFamily("nodekit_jobs_in_flight_max", text, seen.max_in_flight)
    running = GaugeMetricFamily(
        "nodekit_container_running", "1 if the container can be called, otherwise 0.", labels=["container"]
    )
    for id, value in seen.running.items():
        running.add_metric([id], value)
    yield running
    queued = GaugeMetricFamily("nodekit_jobs_queued", "Jobs that wait for a container.", labels=["container"])
    text = "Longest time for which a job has been due in a container and waited."
    oldest = GaugeMetricFamily("nodekit_queue_oldest_seconds", text, labels=["container"])
    for label, state in seen.queues.items():
        queued.add_metric([label], state.jobs)
        oldest.add_metric([label], state.oldest_seconds)
    yield queued
    yield oldest
    used = GaugeMetricFamily("nodekit_store_bytes", "Size of the store's files.", labels=())
    free = GaugeMetricFamily("nodekit_store_free_bytes", "Free space of the file system that has them.", labels=())
    if seen.disk is not None:
        used.add_metric([], seen.disk.used_bytes)
        free.add_metric([], seen.disk.free_bytes)
    yield used
    yield free
