"""The plugin `ratelimit`: a limit on how often a client may send requests.

Each client may send `requests` requests at once, and gets one more every `period_seconds` / `requests` (GCRA, a leaky
bucket that keeps one number per client). Refused requests do not count. Counts are lost when the node stops.
"""

from collections import OrderedDict
from typing import Annotated

import msgspec

from nodekit import Clock, Identity, Provider, SystemClock, TooManyRequests

__all__ = ["RateLimit", "RateLimitConfig", "provider"]

_NANOSECONDS = 1_000_000_000


class RateLimitConfig(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """The table of the plugin in a node file.

    - `requests`: Number of requests that a client may make per `period_seconds`.
    - `max_clients`: Number of remembered clients. Beyond it, the one with the oldest request is forgotten; its rate
      starts again.
    """

    requests: Annotated[int, msgspec.Meta(ge=1)] = 60
    period_seconds: Annotated[float, msgspec.Meta(gt=0, le=31_536_000)] = 60.0
    max_clients: Annotated[int, msgspec.Meta(ge=1)] = 100_000


class RateLimit:
    """A guard that counts each client's requests. IPv6 clients count by /64: one machine may have as many addresses.

    A client may make `requests` per `period_seconds`. Beyond `max_clients`, the client with the oldest request is
    forgotten. Times are those of `clock`, by default this machine's.
    """

    def __init__(
        self,
        requests: int = 60,
        period_seconds: float = 60.0,
        *,
        max_clients: int = 100_000,
        clock: Clock | None = None,
    ) -> None:
        self._monotonic = (SystemClock() if clock is None else clock).monotonic
        # Times are in nanoseconds / requests, so that a request's interval is a whole number and nothing is rounded.
        self._ticks = requests
        self._interval = round(period_seconds * _NANOSECONDS)
        self._slack = (requests - 1) * self._interval
        self._max_clients = max_clients
        self._due: OrderedDict[str, int] = OrderedDict()
        """The time by which each client's requests so far were due if spread evenly; the most recent client is last."""
        self._text = f"too many requests: at most {requests} in {period_seconds:g} s"

    def nodekit_limit(self, identity: Identity) -> None:
        who, now = identity.group, round(self._monotonic() * _NANOSECONDS) * self._ticks
        due = max(self._due.pop(who, now), now)
        wait = due - now - self._slack
        self._due[who] = due if wait > 0 else due + self._interval
        if len(self._due) > self._max_clients:
            self._due.popitem(last=False)
        if wait > 0:
            raise TooManyRequests(self._text, retry_after_seconds=-(-wait // (self._ticks * _NANOSECONDS)))


provider = Provider(RateLimitConfig, lambda config, file: RateLimit(**msgspec.structs.asdict(config)))
