"""Limits on the work a node accepts and on its duration. Plain settings; `Node` reads them."""

from collections.abc import Iterator, Mapping
from types import MappingProxyType
from typing import Annotated, Any

import msgspec

from nodekit.errors import Problem
from nodekit.model.container import GroupId
from nodekit.model.identity import OWN_GROUP, default_group
from nodekit.model.memory import machine_memory, parse_bytes

Seconds = Annotated[float, msgspec.Meta(gt=0)]
Count = Annotated[int, msgspec.Meta(ge=1)]

LEAST_MEMORY = 64 << 20
"""Smallest budget: a single request or output of the default largest size has room in it."""


class ClientLimits(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True, omit_defaults=True):
    """The limits of one client. Unset fields fall back to `each_client`, then to the node's limits.

    - `max_pending`: Maximum number of its accepted, unfinished jobs, on all nodes of its store. Unset: three quarters
      of the node's.
    - `concurrency`: Maximum number of its jobs that run at once on a node, streams included. Unset: three quarters of
      the node's slots, and of those that streams may hold.
    - `max_priority`: Most urgent priority the client gets, from 0 (the most urgent). A request for more urgency gets
      this one.
    - `max_stored_bytes`: Maximum number of bytes that the store may hold on disk for its group, finished jobs included.
      Beyond it, new jobs are refused; running ones go on. It has no effect on a store that is not on a disk.
    """

    max_pending: Count | None = None
    concurrency: Count | None = None
    max_priority: Annotated[int, msgspec.Meta(ge=0, le=7)] | None = None
    max_stored_bytes: Count | None = None

    def over(self, other: "ClientLimits") -> "ClientLimits":
        """Return these limits, with unset fields taken from `other`."""
        return ClientLimits(
            max_pending=other.max_pending if self.max_pending is None else self.max_pending,
            concurrency=other.concurrency if self.concurrency is None else self.concurrency,
            max_priority=other.max_priority if self.max_priority is None else self.max_priority,
            max_stored_bytes=other.max_stored_bytes if self.max_stored_bytes is None else self.max_stored_bytes,
        )


NO_LIMITS = ClientLimits()
NO_CLIENTS: Mapping[str, ClientLimits] = MappingProxyType({})


class NodeLimits(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """The limits of a node.

    - `concurrency`: Number of jobs that this node runs at once: its slots.
    - `max_streams`: Number of slots that streams may hold. Unset: half of them.
    - `max_pending`: Maximum number of accepted, unfinished jobs. Nodes on one store count its jobs together.
    - `max_waits`: Number of jobs that the requests of one group may wait for at the same time, each counted as often as
      they wait for it.
    - `job_timeout_seconds`: Maximum time from a job's acceptance to its end.
    - `queue_timeout_seconds`: Maximum time a job waits in the queue for each of its containers; ``inf`` is no limit.
    - `max_steps`: Maximum number of steps of a job. It ends a job whose pipeline never does.
    - `each_client`: Limits of every client.
    - `clients`: Limits of some clients, by client id.
    - `max_takeovers`: Number of times in a row that nodes may lose a job which they run, because they die or seem to.
      Then the job fails as poison. A step that was stored begins the count anew.
    - `memory`: Bytes of payloads that the node holds in memory at once, its copies included: a number, or a text such
      as ``"512MiB"``; at least 64 MiB. None: a quarter of the memory that the machine or its cgroup has.
    - `drain_seconds`: Time that stopping waits for running jobs.
    - `keep_finished_seconds`: Time for which a finished job is kept; then it is deleted.
    - `keep_finished_jobs`: Number of finished jobs that are kept, the last ones; earlier ones are deleted. Nodes on one
      store count its jobs together.
    """

    concurrency: Count = 64
    max_streams: Count | None = None
    max_pending: Count = 10_000
    max_waits: Count = 10_000
    job_timeout_seconds: Seconds | None = None
    queue_timeout_seconds: Seconds | None = 86_400.0
    max_steps: Count = 1000
    each_client: ClientLimits = NO_LIMITS
    clients: Mapping[str, ClientLimits] = NO_CLIENTS
    max_takeovers: Count = 3
    memory: int | str | None = None
    drain_seconds: Annotated[float, msgspec.Meta(ge=0)] = 10.0
    keep_finished_seconds: Seconds | None = None
    keep_finished_jobs: Count | None = None

    def __post_init__(self) -> None:
        if self.memory is not None and parse_bytes("memory", self.memory) < LEAST_MEMORY:
            raise ValueError(f"memory: expected at least 64MiB, got {self.memory!r}")

    @property
    def memory_bytes(self) -> int:
        """`memory` as a number of bytes."""
        if self.memory is None:
            return max(LEAST_MEMORY, machine_memory() // 4)
        return parse_bytes("memory", self.memory)

    def problems(self) -> Iterator[Problem]:
        """Check the values as a node file would: Structs made in Python do not check themselves."""
        try:
            msgspec.convert(msgspec.to_builtins(self, enc_hook=dict), type(self))
        except msgspec.ValidationError as error:
            text, _, place = str(error).partition(" - at `$.")
            yield Problem(place.rstrip("`"), text[:1].lower() + text[1:])
            return
        said: dict[str, Any] = {f"clients[{id!r}]": limits for id, limits in self.clients.items()}
        said["each_client"] = self.each_client
        for place, limits in said.items():
            if not isinstance(limits, ClientLimits):  # so far, a mapping with the same keys
                yield Problem(place, f"expected ClientLimits, got {limits!r:.100}; write ClientLimits(max_pending=…)")


DEFAULTS = NodeLimits()


def group_share(number: int) -> int:
    """Return the share of a number that one group may hold: three quarters, so that the last one is for others."""
    return max(1, number * 3 // 4)


class SlotShares:
    """The number of a node's slots that streams and single groups may hold.

    `slots` is the number of slots that there are. It is less than `concurrency` if descriptors are few.
    """

    def __init__(self, limits: NodeLimits, slots: int | None = None) -> None:
        self.slots = limits.concurrency if slots is None else min(slots, limits.concurrency)
        self.streams = min(limits.max_streams or max(1, self.slots // 2), self.slots)
        each = limits.each_client.concurrency
        self.each = min(each or group_share(self.slots), self.slots)
        """Number of slots that a group may hold that is not in `groups`."""
        self._each_streams = min(each or group_share(self.streams), self.streams)
        self.groups: dict[GroupId, int] = {OWN_GROUP: self.slots} if each is None else {}
        """Numbers of slots that these groups may hold."""
        named = {name: own.concurrency for name, own in limits.clients.items() if own.concurrency is not None}
        for name, own in named.items():
            group = default_group(name)
            self.groups[group] = max(own, self.groups.get(group, 0))
        self.groups.update(named)  # a group by its own name comes before one of its clients
        self.least = min([self.each, *self.groups.values()])
        """The smallest number of slots that any group may hold."""

    def of(self, group: GroupId) -> int:
        """Return the number of slots that a group may hold."""
        return self.groups.get(group, self.each)

    def streams_of(self, group: GroupId) -> int:
        """Return the number of slots that a group's streams may hold."""
        own = self.groups.get(group)
        return self._each_streams if own is None else min(own, self.streams)


def finite(seconds: float | None) -> float | None:
    """Return a limit as it is stored, which JSON can hold: None is no limit."""
    return seconds if seconds is not None and seconds != float("inf") else None
