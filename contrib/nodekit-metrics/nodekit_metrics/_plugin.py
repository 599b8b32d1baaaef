"""The plugin. It counts the events that the node emits."""

from collections.abc import AsyncIterator, Iterable, Sequence
from contextlib import asynccontextmanager

import anyio
from prometheus_client import CollectorRegistry

from nodekit import (
    Attempt,
    ContainerOutput,
    Event,
    Job,
    JobAccepted,
    JobFinished,
    Mount,
    Node,
    NodekitError,
    RequestRefused,
    StepFinished,
    StoreCall,
)
from nodekit_metrics._config import MetricsConfig
from nodekit_metrics._exposition import Exposition
from nodekit_metrics._instruments import Instruments
from nodekit_metrics._labels import Clients, Reasons, container_label
from nodekit_metrics._now import Now, seen


class Metrics:
    """The metrics of one node, on a registry of its own.

    Register metrics of your own on `registry`, and they appear on the same page.
    """

    def __init__(self, config: MetricsConfig | None = None) -> None:
        self._config = config or MetricsConfig()
        self.registry = CollectorRegistry()
        self._count = Instruments(self._config, self.registry)
        self._now = Now(self.registry)
        self._reasons = Reasons(self._config.max_reasons)
        self._clients = Clients(self._config.max_clients)
        self._node: Node | None = None

    # -- hooks ------------------------------------------------------------------------------------

    def nodekit_routes(self, node: Node) -> Sequence[Mount]:
        async def look() -> None:
            self._now.seen = await seen(node)

        return [Mount("metrics", Exposition(self.registry, look), public=self._config.public)]

    @asynccontextmanager
    async def nodekit_lifespan(self, node: Node) -> AsyncIterator[None]:
        if self._node is not None:
            raise NodekitError("these metrics belong to another node already; make a Metrics for each node")
        self._node = node
        self._count.begin(node.containers)
        failure: Exception | None = None
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(self._measure_lag)
            try:
                yield
            except Exception as error:  # not ours: it is raised below as it is, not in an exception group
                failure = error
            tasks.cancel_scope.cancel()
        if failure is not None:
            raise failure

    def nodekit_observe(self, event: Event, node: Node) -> None:
        match event:
            case StepFinished():
                self._step_finished(event, node)
            case JobAccepted():
                self._count.accepted[("onchain" if event.job.request.onchain else "offchain",)].inc()
            case JobFinished():
                self._job_finished(event.job, node)
            case RequestRefused():
                self._count.refusals[(self._reasons.label(event),)].inc()
            case _:  # others do not count, and more may come
                pass

    def nodekit_observe_store(self, call: StoreCall) -> None:
        self._count.store_seconds[(call.method,)].observe(call.seconds)
        if call.failed:
            self._count.store_failures[(call.method,)].inc()

    # -- counting ---------------------------------------------------------------------------------

    def _step_finished(self, event: StepFinished, node: Node) -> None:
        record = event.record
        container = container_label(record.container, node.containers)
        outcome = "success" if isinstance(record.result, ContainerOutput) else "failed"
        if record.attempts:
            started_at, finished_at = record.attempts[0].started_at, record.attempts[-1].finished_at
            self._count.step_seconds[container, outcome].observe(_seconds(started_at, finished_at))
            waited = _seconds(due_since(event.job, event.index), started_at)
            self._count.queue_seconds[(container,)].observe(waited)
        self._count_attempts(container, record.attempts)

    def _job_finished(self, job: Job, node: Node) -> None:
        container = container_label(job.result.container if job.result else "", node.containers)
        outcome, ended_at = job.status.value, job.finished_at or job.accepted_at
        self._count.jobs[outcome, container].inc()
        self._count.client_jobs[outcome, self._clients.label(job.request.client)].inc()
        self._count.job_seconds[(outcome,)].observe(_seconds(job.accepted_at, ended_at))
        if job.steps and job.steps[-1].result is None:  # it ended between two attempts of a step
            last = job.steps[-1]
            self._count_attempts(container_label(last.container, node.containers), last.attempts)
        if job.error is not None and job.error.kind == "queue_timeout":  # a wait that ended without a call
            waited = _seconds(due_since(job, len(job.steps)), ended_at)
            self._count.queue_seconds[(container,)].observe(waited)

    def _count_attempts(self, container: str, attempts: Iterable[Attempt]) -> None:
        for attempt in attempts:
            self._count.attempts[container, attempt.kind or "output"].inc()

    async def _measure_lag(self) -> None:
        while True:
            due = anyio.current_time() + self._config.lag_interval_seconds
            await anyio.sleep_until(due)
            self._count.loop_lag.observe(max(0.0, anyio.current_time() - due))


def due_since(job: Job, index: int) -> float:
    """Return the time at which a step was due: the end of the step before it, or the acceptance of the job if later.

    The step before may be older than the job if the job retries another one.
    """
    before = job.steps[index - 1].attempts if 0 < index <= len(job.steps) else ()
    return max(job.accepted_at, before[-1].finished_at) if before else job.accepted_at


def _seconds(start: float, end: float) -> float:
    """Return the seconds between two times. They are never negative, although a clock may be set back."""
    return max(0.0, end - start)
