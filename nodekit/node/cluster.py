"""The nodes of a shared store, as one of them sees them. A node whose store is its own sees itself."""

import logging
import math
from collections.abc import Collection, Iterator, Mapping, Sequence, Set
from random import Random
from types import MappingProxyType

import anyio
from anyio.abc import TaskStatus
from msgspec.structs import replace

from nodekit.concurrency.signal import Signal
from nodekit.errors import StoreFailed
from nodekit.execution.executor import Executor
from nodekit.interfaces.component_calls import Running, asked, is_fault, said
from nodekit.interfaces.shared_store import (
    REMEMBERED_SECONDS,
    AnnouncedContainer,
    Announcement,
    Member,
    SharedStore,
    is_shared,
)
from nodekit.interfaces.store import JobStore
from nodekit.model.clock import NodeClock
from nodekit.model.container import Container, ContainerId, JobId
from nodekit.model.job import Held
from nodekit.model.version import __version__

logger = logging.getLogger("nodekit.node")

LARGEST_SKEW_SECONDS = 0.25
"""Largest skew of a node's clock that is no problem."""
LOOK_SECONDS = 0.5
"""Shortest time between two looks at the other nodes that requests cause."""
CHANGED_SECONDS = 0.1
"""Shortest time between two announcements."""
JITTER = 0.25
"""Share of the time between two announcements that is left to chance. Otherwise, nodes that were started together, or
that reach an engine again at the same moment, would announce themselves together ever after."""


class Cluster:
    """The containers and pipelines of all nodes, refreshed with each announcement of this node."""

    def __init__(
        self,
        store: JobStore,
        clock: NodeClock,
        random: Random,
        *,
        name: str,
        containers: dict[ContainerId, Container],
        pipelines: Collection[str],
        running: Running,
        urls: Sequence[str],
    ) -> None:
        """`urls` is filled when transports listen. `executor` must be set before anything else."""
        self.store = store if is_shared(store) else None
        """The store, if several nodes may work on it."""
        self._clock, self._monotonic = clock, clock.monotonic
        self._random = random
        self._own = MappingProxyType(containers)  # it is given to plugins
        self._announced_containers = {id: AnnouncedContainer.of(own) for id, own in containers.items()}
        self._name, self._incarnation = name, f"{random.getrandbits(128):032x}"
        self._pipelines = tuple(sorted(pipelines))
        self._look, self._urls = running.look, urls
        self.executor: Executor
        self._others: Sequence[Member] = ()
        self._views: dict[str | None, Mapping[ContainerId, Container]] = {}
        self.elsewhere: Set[ContainerId] = frozenset()
        """Containers that run on other live nodes."""
        self._announced: tuple[Set[ContainerId], tuple[str, ...]] = frozenset(), ()
        self._began_at = math.inf
        self._looked_at = -math.inf
        self._refreshing: anyio.Event | None = None
        self._closed = False
        self._wake = Signal()
        self._problem = ""

    # -- the view ---------------------------------------------------------------------------------

    @property
    def containers(self) -> Mapping[ContainerId, Container]:
        """Containers of this node and of those that are live, or were not long ago."""
        return self._view(None) if self._others else self._own

    def containers_of(self, pipeline: str) -> Mapping[ContainerId, Container]:
        """Return the containers of the nodes that know a pipeline: only they can run its jobs."""
        return self._view(pipeline) if self._others else self._own

    def _view(self, pipeline: str | None) -> Mapping[ContainerId, Container]:
        if pipeline not in self._views:
            found: dict[ContainerId, Container] = {}
            for member in sorted(self._others, key=lambda member: (member.live, member.seen_at)):
                if pipeline is None or pipeline in member.announcement.pipelines:
                    found |= member.announcement.containers
            self._views[pipeline] = MappingProxyType(found | self._own)
        return self._views[pipeline]

    def here(self, id: ContainerId) -> bool:
        """Return True if jobs are run in this container here, or wait here until it runs again."""
        return id in self._own and (id not in self.elsewhere or id in self._look())

    def with_all(self, containers: Collection[ContainerId], pipeline: str) -> list[Announcement]:
        """Return the other live nodes on which all of these containers run, and that know the pipeline."""
        return [
            one for one in self._live() if pipeline in one.pipelines and all(id in one.running for id in containers)
        ]

    def _live(self) -> Iterator[Announcement]:
        return (member.announcement for member in self._others if member.live)

    # -- the exchange -----------------------------------------------------------------------------

    async def begin(self) -> None:
        """Learn the engine's time and the other nodes, before the first job is accepted."""
        if self.store is not None:
            await self._sample(self.store)
            self._began_at = self._clock.now()
            self._see(await self.store.nodes())

    async def run(self, *, task_status: "TaskStatus[None]") -> None:
        """Announce this node until cancelled: at least every third of its lease, and when what there is to know of it
        changes.

        It reports to be started after the first announcement, so that no job is claimed by an unknown node.
        """
        store = self.store
        if store is None:
            return task_status.started()
        started = False
        while True:
            await self._try_exchange(store)
            if not started:
                started = True
                task_status.started()
            with anyio.move_on_after(store.lease_seconds / 3 * (1 - JITTER * self._random.random())):
                while self._news() == self._announced:
                    await self._wake.wait()
                await anyio.sleep(CHANGED_SECONDS)

    async def _try_exchange(self, store: SharedStore) -> None:
        try:
            with anyio.fail_after(store.lease_seconds):
                await self._exchange(store)
            self._problem = ""
        except BaseException as error:
            if not is_fault(error):
                raise
            text = f"the other nodes of the store cannot be reached: {said(error)}"
            if not self._problem:
                logger.warning(text)
            self._problem = text

    async def _exchange(self, store: SharedStore) -> None:
        self._announced = running, urls = self._news()  # also if this fails: it is tried again a third of a lease later
        await self._sample(store)
        executor = self.executor
        me = Announcement(
            name=self._name,
            incarnation=self._incarnation,
            version=__version__,
            containers=self._announced_containers,
            running=tuple(sorted(running)),
            pipelines=self._pipelines,
            in_flight=executor.running,
            urls=urls,
            skew_seconds=self._clock.skew_seconds,
            takeovers=executor.suspects.claims,
            poison=executor.suspects.poison,
        )
        await store.announce(me)
        self._see(await store.nodes())

    def _news(self) -> tuple[Set[ContainerId], tuple[str, ...]]:
        """Return what is announced at once when it changes: what can be called here, and where this node listens."""
        return frozenset() if self._closed else frozenset(self._look()), tuple(self._urls)

    async def _sample(self, store: SharedStore) -> None:
        asked_at = self._monotonic()
        self._clock.sample(await store.now(), asked_at)

    def _see(self, members: Sequence[Member]) -> None:
        known = {member.announcement.incarnation for member in members} | {self._incarnation}
        others = [member for member in members if member.announcement.incarnation != self._incarnation]
        self._others = [*others, *(one for one in self._remembered() if one.announcement.incarnation not in known)]
        self._views.clear()
        self._looked_at = self._monotonic()
        elsewhere = frozenset(id for one in self._live() for id in one.running)
        if elsewhere != self.elsewhere:
            self.elsewhere = elsewhere
            self.executor.set_elsewhere(elsewhere)

    def _remembered(self) -> Iterator[Member]:
        """Yield the nodes that were seen not long ago, as gone.

        An engine that was restarted may have forgotten nodes that have not reached it since. Their containers are still
        accepted: a refusal would tell clients never to ask again.
        """
        oldest = self._clock.now() - REMEMBERED_SECONDS
        return (replace(member, live=False) for member in self._others if member.seen_at > oldest)

    async def refresh(self) -> bool:
        """Look at the other nodes now, because a request names something unknown. Return True if that was done.

        It is not done for each such request: callers may be hostile.
        """
        if self.store is None:
            return False
        if (under_way := self._refreshing) is not None:
            await under_way.wait()
            return True
        if self._monotonic() - self._looked_at < LOOK_SECONDS:
            return False
        done = self._refreshing = anyio.Event()
        self._looked_at = self._monotonic()
        try:
            self._see(await asked(self.store.nodes))
        except StoreFailed as error:
            logger.warning("the other nodes of the store cannot be looked at: %s", error)
            return False
        finally:
            self._refreshing = None
            done.set()
        return True

    async def held(
        self, ids: Sequence[JobId], here: Mapping[JobId, tuple[float, int, int, str]]
    ) -> Mapping[JobId, Held]:
        """Return the calls that are under way for these jobs: those made `here`, and those of other nodes."""
        held = {id: Held(self._name, *here[id]) for id in ids if id in here}
        if self.store is not None and (others := [id for id in ids if id not in held]):
            held |= {id: call for id, call in (await self.store.held(others)).items() if call.node != self._name}
        return held

    def announce_changed(self) -> None:
        """Announce what has changed, if anything has."""
        self._wake.set()

    def close(self) -> None:
        """Announce that nothing can be called here any more: the node drains."""
        self._closed = True
        self._wake.set()

    def problems(self) -> Iterator[str]:
        """Yield what is wrong between the nodes right now."""
        if self._problem:
            yield self._problem
        skew, uncertainty = self._clock.skew_seconds, self._clock.uncertainty_seconds
        if self.store is not None and abs(skew) - uncertainty > LARGEST_SKEW_SECONDS:
            where = "ahead of" if skew > 0 else "behind"
            yield f"this machine's clock is {abs(skew):.1f} s {where} the clock of the store's engine; synchronise it"
        for member in self._others:
            other = member.announcement
            if not member.live:
                continue
            if other.name == self._name and member.seen_at > self._began_at:
                yield f"another node on this store is named {other.name!r} as well; give each node a name of its own"
            if other.version != __version__:
                yield f"node {other.name!r} runs nodekit {other.version or 'of an unknown version'}, not {__version__}"
            for id, container in other.containers.items():
                if id in self._own and container.rules != self._own[id].rules:
                    yield f"container {id!r} has other rules on node {other.name!r}; give it the same rules everywhere"
