"""The state of the node at the moment of a request. It is read in the event loop and reported from another thread."""

from collections.abc import Iterator

import anyio
import msgspec
from prometheus_client import CollectorRegistry, Metric
from prometheus_client.core import GaugeMetricFamily

from nodekit import Node, Pending

PENDING_SECONDS = 5.0


class Seen(msgspec.Struct, frozen=True):
    """The state of a node at one moment.

    - `running`: Containers by id; True if the container can be called.
    - `pending`: Numbers of pending jobs. None: the store did not answer.
    """

    running: dict[str, bool] = {}
    in_flight: int = 0
    max_in_flight: int = 0
    max_pending: int = 0
    pending: Pending | None = None


async def seen(node: Node) -> Seen:
    """Read the state of the node. The numbers of pending jobs are left out if the store takes too long or fails."""
    pending: Pending | None = None
    with anyio.move_on_after(PENDING_SECONDS):
        try:
            pending = await node.pending()
        except Exception:  # counted already as a failure of the store
            pending = None
    running = set(node.running(here=True))
    return Seen(
        running={id: id in running for id in node.own_containers},
        in_flight=node.in_flight,
        max_in_flight=node.limits.concurrency,
        max_pending=node.limits.max_pending,
        pending=pending,
    )


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
