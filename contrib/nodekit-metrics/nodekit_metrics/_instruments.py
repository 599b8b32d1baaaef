"""The metrics that are counted and measured, on a registry that belongs to one plugin."""

import platform
from collections.abc import Mapping
from typing import Generic, TypeVar

from prometheus_client import (
    CollectorRegistry,
    Counter,
    Gauge,
    GCCollector,
    Histogram,
    PlatformCollector,
    ProcessCollector,
)

from nodekit import __version__
from nodekit_metrics._config import MetricsConfig
from nodekit_metrics._labels import OUTCOMES

STORE_METHODS = ("add", "add_claimed", "save", "release", "settle", "get", "find", "page", "sizes", "delete", "pending")

MetricT = TypeVar("MetricT", Counter, Histogram)


class Labelled(Generic[MetricT]):
    """The series of a metric by the values of its labels. Each is looked up once."""

    def __init__(self, metric: MetricT) -> None:
        self._metric: MetricT = metric
        self._series: dict[tuple[str, ...], MetricT] = {}

    def __getitem__(self, values: tuple[str, ...]) -> MetricT:
        found = self._series.get(values)
        if found is None:
            found = self._series[values] = self._metric.labels(*map(_encodable, values))
        return found


def _encodable(text: str) -> str:
    """Replace lone surrogates, which Python's strings may contain: one would break the whole page for good."""
    return text.encode("utf-8", "replace").decode("utf-8")


class Instruments:
    """The metrics that are updated by the node's events."""

    def __init__(self, config: MetricsConfig, registry: CollectorRegistry) -> None:
        def counter(name: str, text: str, *labels: str) -> Labelled[Counter]:
            return Labelled(Counter(f"nodekit_{name}", text, labels, registry=registry))

        def histogram(name: str, text: str, buckets: tuple[float, ...], *labels: str) -> Labelled[Histogram]:
            return Labelled(Histogram(f"nodekit_{name}", text, labels, buckets=buckets, registry=registry))

        steps, queue = config.step_buckets_seconds, config.queue_buckets_seconds
        self.accepted = counter("jobs_accepted_total", "Jobs that were accepted.", "origin")
        self.jobs = counter("jobs_total", "Jobs that ended, by the container they ended in.", "outcome", "container")
        text = "Jobs that ended, by their client."
        self.client_jobs = counter("client_jobs_total", text, "outcome", "client")
        self.job_seconds = histogram("job_seconds", "From the acceptance of a job to its end.", steps, "outcome")
        text = "From the start of a step's first call to the end of its last, pauses before retries included."
        self.step_seconds = histogram("step_seconds", text, steps, "container", "outcome")
        text = "From the time at which a job is due in a container to the start of its first call there."
        self.queue_seconds = histogram("queue_seconds", text, queue, "container")
        text = "Calls of containers that have ended: with an output, or by the kind of their failure."
        self.attempts = counter("attempts_total", text, "container", "result")
        text = "Requests that were refused, and requests of clients that had to wait."
        self.refusals = counter("refusals_total", text, "reason")
        text = "Durations of the store's calls."
        self.store_seconds = histogram("store_call_seconds", text, config.store_buckets_seconds, "method")
        self.store_failures = counter("store_call_failures_total", "Calls of the store that failed.", "method")
        text = "How late the event loop wakes a task that sleeps."
        buckets = config.lag_buckets_seconds
        self.loop_lag = Histogram("nodekit_event_loop_lag_seconds", text, buckets=buckets, registry=registry)
        labels = ("version", "python")
        build = Gauge("nodekit_build_info", "The software of the node; always 1.", labels, registry=registry)
        build.labels(__version__, platform.python_version()).set(1)
        if config.process:
            ProcessCollector(registry=registry)
            PlatformCollector(registry=registry)
            GCCollector(registry=registry)

    def begin(self, containers: Mapping[str, object]) -> None:
        """Set counters with known labels to 0, so that a first failure is a change."""
        for container in containers:
            for outcome in OUTCOMES:
                self.jobs[outcome.value, container].inc(0)
        for method in STORE_METHODS:
            self.store_failures[(method,)].inc(0)
        for origin in ("offchain", "onchain"):
            self.accepted[(origin,)].inc(0)
