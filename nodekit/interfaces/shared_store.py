"""Interface of stores that several nodes work on, and what these nodes tell each other through it."""

from collections.abc import Collection, Mapping, Sequence
from typing import Protocol, TypeGuard

import msgspec

from nodekit.interfaces.store import JobStore
from nodekit.model.container import Container, ContainerId, JobId
from nodekit.model.job import Held

REMEMBERED_SECONDS = 600.0
"""Time for which a shared store remembers the announcement of a node that has left or died."""


class AnnouncedContainer(Container, frozen=True, kw_only=True, omit_defaults=True, forbid_unknown_fields=False):
    """The facts about a container that other nodes read. Facts that a later version adds are ignored."""

    @classmethod
    def of(cls, container: Container) -> "AnnouncedContainer":
        """Return these facts: the fields of `Container`, rules included, but no settings of its runner, no secrets."""
        kept = {name: getattr(container, name) for name in Container.__struct_fields__ if name != "retry"}
        return cls(**kept)


class Announcement(msgspec.Struct, frozen=True, kw_only=True):
    """The facts about a node that it announces to the other nodes of its store.

    - `incarnation`: Name of one life of the node. A node that starts again is another incarnation of the same name.
    - `version`: Version of nodekit.
    - `containers`: Containers of the node, running or not.
    - `running`: Containers that can be called right now.
    - `pipelines`: Names of the pipelines that the node knows.
    - `in_flight`: Number of jobs that it runs right now.
    - `urls`: Addresses on which its transports listen.
    - `skew_seconds`: Difference between its clock and the engine's; positive if its clock is ahead.
    - `takeovers`: Number of claims of suspects that it was given, in this incarnation. Each try of such a job counts.
    - `poison`: Number of jobs that it failed because they were lost too often, in this incarnation.
    """

    name: str
    incarnation: str
    version: str = ""
    containers: Mapping[ContainerId, AnnouncedContainer] = {}
    running: tuple[ContainerId, ...] = ()
    pipelines: tuple[str, ...] = ()
    in_flight: int = 0
    urls: tuple[str, ...] = ()
    skew_seconds: float = 0.0
    takeovers: int = 0
    poison: int = 0


class Member(msgspec.Struct, frozen=True):
    """One incarnation of a node, as the engine knows it.

    - `seen_at`: Time of its last sign of life in Unix seconds, on the engine's clock.
    - `live`: True until it leaves, or its lease is over.
    """

    announcement: Announcement
    seen_at: float
    live: bool


class QueueState(msgspec.Struct, frozen=True):
    """The queued jobs that have their next step in one container, delayed ones included.

    - `jobs`: Number of these jobs.
    - `oldest_seconds`: Longest time for which one of them has been due; 0 if all are delayed.
    """

    jobs: int
    oldest_seconds: float = 0.0


class SharedStore(JobStore, Protocol):
    """A store that several nodes work on, each through an instance of its own.

    Each time an instance is entered, it begins a session with the engine. It renews that session, with its claims and
    its announcement, as long as it is entered and its event loop runs. A session that was not renewed for
    `lease_seconds` is over. Its claims are taken over: each job is queued again, as it was last saved, for any node; a
    stream fails with `interrupted`. This needs no call of a node. A node that returns too late finds the claim's
    `scope` cancelled, and `save` and `release` raise `ClaimLost`. Leaving the store gives back its remaining claims.

    Leases, delays and time limits count on the engine's clock, not on any node's.

    An instance connects again by itself after its connection broke. Meanwhile, each call that reads or writes raises
    `StoreFailed` within about `lease_seconds`, and calls that wait for jobs go on to wait or raise `StoreFailed`.
    `changes` yields None once it is connected again.
    """

    @property
    def lease_seconds(self) -> float:
        """Time for which the engine keeps a session that is not renewed."""
        ...

    async def __aenter__(self) -> "SharedStore": ...

    async def announce(self, announcement: Announcement) -> None:
        """Announce a node to the others, or replace what this incarnation has announced."""
        ...

    async def nodes(self) -> Sequence[Member]:
        """Return the incarnations of nodes that are live, or were seen in the last `REMEMBERED_SECONDS`."""
        ...

    async def now(self) -> float:
        """Return the time on the engine's clock, in Unix seconds. Ids and limits of a cluster use it."""
        ...

    async def held(self, ids: Collection[JobId]) -> Mapping[JobId, Held]:
        """Return who holds a claim, for those of the jobs that are claimed by a node that has announced itself.

        `Held.since` is the time of the claim or of the last `save` under it. The instance is not known.
        """
        ...

    async def queues(self) -> Mapping[ContainerId, QueueState]:
        """Return the state of the queue by due container. Containers without queued jobs may be missing."""
        ...


def is_shared(store: object) -> TypeGuard[SharedStore]:
    """Return True if several nodes can work on the store."""
    return hasattr(store, "announce")
