"""Callers without a valid key: each address is slowed down after some failures, and the log does not fill."""

import logging
from collections import OrderedDict
from collections.abc import Callable

from nodekit import ClientId, counted, default_group, printable

logger = logging.getLogger("nodekit.apikeys")

FREE_FAILURES = 10
"""Failures of an address that are answered at once."""
FORGET_SECONDS = 60.0
"""Quiet time after which the failures of an address are forgotten."""
MAX_ADDRESSES = 10_000
"""Addresses that are remembered. Beyond it, the one that failed longest ago is forgotten."""
SHORTEST_SECONDS = 0.05
LINES = 5
"""Lines of the log in each `LINES_SECONDS`, however many addresses fail."""
LINES_SECONDS = 10.0


class Failures:
    """Failures by address; one IPv6 network of 64 bits counts as one. Only those who fail wait: a valid key never does.

    `longest_seconds` is the longest time that a failure is made to wait.
    """

    def __init__(self, longest_seconds: float, monotonic: Callable[[], float]) -> None:
        self._longest = longest_seconds
        self._monotonic = monotonic
        self._counts: OrderedDict[str, tuple[int, float]] = OrderedDict()
        """Failures of each address, and the time of the last one; the latest is last."""
        self._window = -LINES_SECONDS
        self._lines = self._dropped = 0

    def count(self, client: ClientId, reason: str) -> float:
        """Count a failure. Return the seconds that its answer has to wait."""
        now, who = self._monotonic(), default_group(client)
        count, last = self._counts.pop(who, (0, now))
        count = 1 if now - last > FORGET_SECONDS else count + 1
        self._counts[who] = count, now
        if len(self._counts) > MAX_ADDRESSES:
            self._counts.popitem(last=False)
        if count == 1 or (count >= FREE_FAILURES and _is_power_of_ten(count)):
            self._tell(now, printable(who), reason, count)
        if count <= FREE_FAILURES:
            return 0.0
        return float(min(self._longest, SHORTEST_SECONDS * 2 ** min(count - FREE_FAILURES - 1, 20)))

    def _tell(self, now: float, who: str, reason: str, count: int) -> None:
        if now - self._window >= LINES_SECONDS:
            if self._dropped:
                logger.warning("%s not shown", counted(self._dropped, "more failure", "is", "are"))
            self._window, self._lines, self._dropped = now, 0, 0
        if self._lines >= LINES:
            self._dropped += 1
            return
        self._lines += 1
        logger.warning("%s: no access, %s (failure %d)", who, reason, count, extra={"address": who})


def _is_power_of_ten(number: int) -> bool:
    return str(number).strip("0") == "1"
