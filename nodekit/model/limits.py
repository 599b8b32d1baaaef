"""Limits on the work a node accepts and on its duration. Plain settings; `Node` reads them."""

from collections.abc import Iterator, Mapping
from types import MappingProxyType
from typing import Annotated, Any

import msgspec

from nodekit.errors import Problem

Seconds = Annotated[float, msgspec.Meta(gt=0)]
Count = Annotated[int, msgspec.Meta(ge=1)]


class ClientLimits(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True, omit_defaults=True):
    """The limits of one client. Unset fields fall back to `each_client`, then to the node's limits.

    - `max_pending`: Maximum number of its accepted, unfinished jobs, on all nodes of its store.
    - `max_priority`: Most urgent priority the client gets, from 0 (the most urgent). A request for more urgency gets
      this one.
    """

    max_pending: Count | None = None
    max_priority: Annotated[int, msgspec.Meta(ge=0, le=7)] | None = None

    def over(self, other: "ClientLimits") -> "ClientLimits":
        """Return these limits, with unset fields taken from `other`."""
        return ClientLimits(
            max_pending=other.max_pending if self.max_pending is None else self.max_pending,
            max_priority=other.max_priority if self.max_priority is None else self.max_priority,
        )


NO_LIMITS = ClientLimits()
NO_CLIENTS: Mapping[str, ClientLimits] = MappingProxyType({})


class NodeLimits(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """The limits of a node.

    - `concurrency`: Number of jobs that this node runs at once.
    - `max_pending`: Maximum number of accepted, unfinished jobs. Nodes on one store count its jobs together.
    - `job_timeout_seconds`: Maximum time from a job's acceptance to its end.
    - `queue_timeout_seconds`: Maximum time a job waits in the queue for each of its containers; ``inf`` is no limit.
    - `max_steps`: Maximum number of steps of a job. It ends a job whose pipeline never does.
    - `each_client`: Limits of every client.
    - `clients`: Limits of some clients, by client id.
    - `max_takeovers`: Number of times in a row that nodes may lose a job which they run, because they die or seem to.
      Then the job fails as poison. A step that was stored begins the count anew.
    - `drain_seconds`: Time that stopping waits for running jobs.
    - `keep_finished_seconds`: Time for which a finished job is kept; then it is deleted.
    - `keep_finished_jobs`: Number of finished jobs that are kept, the last ones; earlier ones are deleted. Nodes on one
      store count its jobs together.
    """

    concurrency: Count = 64
    max_pending: Count = 10_000
    job_timeout_seconds: Seconds | None = None
    queue_timeout_seconds: Seconds | None = 86_400.0
    max_steps: Count = 1000
    each_client: ClientLimits = NO_LIMITS
    clients: Mapping[str, ClientLimits] = NO_CLIENTS
    max_takeovers: Count = 3
    drain_seconds: Annotated[float, msgspec.Meta(ge=0)] = 10.0
    keep_finished_seconds: Seconds | None = None
    keep_finished_jobs: Count | None = None

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


def finite(seconds: float | None) -> float | None:
    """Return a limit as it is stored, which JSON can hold: None is no limit."""
    return seconds if seconds is not None and seconds != float("inf") else None
