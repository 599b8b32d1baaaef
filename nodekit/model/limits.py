"""How much a node takes on, and for how long. Plain settings; `Node` reads them."""

from collections.abc import Iterator, Mapping
from types import MappingProxyType
from typing import Annotated, Any

import msgspec

from nodekit.errors import Problem

Seconds = Annotated[float, msgspec.Meta(gt=0)]
Count = Annotated[int, msgspec.Meta(ge=1)]


class ClientLimits(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True, omit_defaults=True):
    """What one client may ask for. What is not said is as for each client, and there as for the node."""

    max_pending: Count | None = None
    """How many of its jobs may be accepted and unfinished."""
    max_priority: Annotated[int, msgspec.Meta(ge=0, le=7)] | None = None
    """The most urgent priority that it gets, from 0, the most urgent one; asking for more gives this one."""

    def over(self, other: "ClientLimits") -> "ClientLimits":
        """These limits, and those of `other` where nothing is said here."""
        return ClientLimits(
            max_pending=other.max_pending if self.max_pending is None else self.max_pending,
            max_priority=other.max_priority if self.max_priority is None else self.max_priority,
        )


NO_LIMITS = ClientLimits()
NO_CLIENTS: Mapping[str, ClientLimits] = MappingProxyType({})


class NodeLimits(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """What a node takes on in all."""

    concurrency: Count = 64
    """How many jobs run at once."""
    max_pending: Count = 10_000
    """How many jobs may be accepted and unfinished."""
    job_timeout_seconds: Seconds | None = None
    """How long a job may take, from its acceptance to its end."""
    queue_timeout_seconds: Seconds | None = 86_400.0
    """How long a job may wait in the queue for each of its containers; ``inf`` is no limit."""
    max_steps: Count = 1000
    """How many steps a job may have: what ends one whose pipeline never does."""
    each_client: ClientLimits = NO_LIMITS
    """What every client may ask for."""
    clients: Mapping[str, ClientLimits] = NO_CLIENTS
    """What some clients may ask for, by who they are."""
    drain_seconds: Annotated[float, msgspec.Meta(ge=0)] = 10.0
    """How long stopping waits for the jobs that are running."""

    def problems(self) -> Iterator[Problem]:
        """What a node file could not say either: Structs that Python makes are not checked by themselves."""
        try:
            msgspec.convert(msgspec.to_builtins(self, enc_hook=dict), type(self))
        except msgspec.ValidationError as error:
            text, _, place = str(error).partition(" - at `$.")
            yield Problem(place.rstrip("`"), text[:1].lower() + text[1:])
            return
        said: dict[str, Any] = {f"clients[{id!r}]": limits for id, limits in self.clients.items()}
        said["each_client"] = self.each_client
        for place, limits in said.items():
            if not isinstance(limits, ClientLimits):  # a mapping of the same keys, so far
                yield Problem(place, f"expected ClientLimits, got {limits!r:.100}; write ClientLimits(max_pending=…)")


DEFAULTS = NodeLimits()


def finite(seconds: float | None) -> float | None:
    """A limit as it is stored, which JSON can hold: None is no limit."""
    return seconds if seconds is not None and seconds != float("inf") else None
