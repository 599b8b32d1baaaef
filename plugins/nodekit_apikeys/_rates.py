"""The rate of each caller: a leaky bucket that keeps one number."""

import math
from collections import OrderedDict
from collections.abc import Callable

from nodekit import TooManyRequests

MINUTE_SECONDS = 60.0
MAX_CALLERS = 100_000


class Rates:
    """The requests of each caller. A caller that was forgotten, because too many others asked since, starts anew."""

    def __init__(self, monotonic: Callable[[], float]) -> None:
        self._monotonic = monotonic
        self._due: OrderedDict[str, float] = OrderedDict()
        """Time by which the requests so far were due if spread evenly; the most recent caller is last."""

    def take(self, who: str, per_minute: int) -> None:
        """Count a request. Raise `TooManyRequests`, uncounted, if the caller has made too many."""
        now = self._monotonic()
        interval = MINUTE_SECONDS / per_minute
        due = max(self._due.pop(who, now), now)
        wait = due - now - (MINUTE_SECONDS - interval)
        self._due[who] = due if wait > 1e-9 else due + interval
        if len(self._due) > MAX_CALLERS:
            self._due.popitem(last=False)
        if wait > 1e-9:
            text = f"too many requests: at most {per_minute} in a minute"
            raise TooManyRequests(text, retry_after_seconds=math.ceil(wait))
