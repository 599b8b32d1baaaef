"""The inner parts of a node, and how they know each other. Nothing is opened or started here."""

from collections.abc import Callable, Mapping, Sequence
from random import Random

from nodekit.concurrency.budget import Budget
from nodekit.execution.executor import Executor
from nodekit.execution.transitions import Progress
from nodekit.hooks.manager import Hooks
from nodekit.hooks.observed_store import observed
from nodekit.interfaces.component_calls import Running
from nodekit.interfaces.pipeline import Pipeline
from nodekit.interfaces.runner import ContainerRunner
from nodekit.interfaces.store import JobStore
from nodekit.model.clock import NodeClock
from nodekit.model.ids import JobIds
from nodekit.model.limits import NodeLimits
from nodekit.node.admission import Admission
from nodekit.node.cluster import Cluster
from nodekit.node.emitter import Emitter
from nodekit.node.lifespan import Drain
from nodekit.node.waiters import Waiters


class Wiring:
    """The inner parts of one node."""

    def __init__(
        self,
        store: JobStore,
        runners: Sequence[ContainerRunner],
        hooks: Hooks,
        *,
        name: str,
        pipelines: Mapping[str, Pipeline],
        limits: NodeLimits,
        clock: NodeClock,
        monotonic: Callable[[], float],
        random: Random,
        urls: list[str],
    ) -> None:
        if hooks.store_observed:
            store = observed(store, hooks.observe_store, monotonic)
        self.store = store
        self.ids = JobIds(clock, random)
        self.budget = Budget(limits.memory_bytes)
        self.running, self.waiters = Running(runners), Waiters(store.changes, limits.max_waits)
        self.emitter = Emitter(hooks.observe if hooks.observed else None)
        self.cluster = cluster = Cluster(
            store,
            clock,
            random,
            name=name,
            containers={id: container for runner in runners for id, container in runner.containers.items()},
            pipelines=pipelines,
            running=self.running,
            urls=urls,
        )
        progress = Progress(pipelines, cluster.containers_of, limits, clock, alone=cluster.store is None)
        self.executor = cluster.executor = self._executor(runners, hooks, progress, limits, random.random)
        self.admission = Admission(
            store=store,
            progress=progress,
            cluster=cluster,
            clock=clock,
            ids=self.ids,
            limits=limits,
            guards=hooks.admit,
            subscriptions=hooks.subscribe,
            client_limits=hooks.client_limits,
            emitter=self.emitter,
        )
        self.drain = Drain(self.executor, self.waiters, self.admission, cluster, limits.drain_seconds)

    def _executor(
        self,
        runners: Sequence[ContainerRunner],
        hooks: Hooks,
        progress: Progress,
        limits: NodeLimits,
        random: Callable[[], float],
    ) -> Executor:
        return Executor(
            store=self.store,
            runners=runners,
            running=self.running,
            progress=progress,
            limits=limits,
            random=random,
            refresh=self.cluster.refresh if self.cluster.store else None,
            emit=self.emitter.emit,
            observed=bool(hooks.observed),
            around=hooks.step,
            budget=self.budget,
            report_running=self.cluster.announce_changed,
        )
