"""The subscriptions of a coordinator, and when their intervals begin. Pure; time is that of the blocks."""

from collections.abc import Iterator, Mapping
from heapq import heappop, heappush

import msgspec
from msgspec.structs import replace

from nodekit_chain.protocol.subscription import Subscription


class Known(msgspec.Struct, frozen=True):
    """A subscription that the chain has.

    - `block`: Block in which it was read.
    - `cancelled_at`: Block with its cancellation; None if there is none.
    """

    id: int
    subscription: Subscription
    block: int
    cancelled_at: int | None = None


class Due(msgspec.Struct, frozen=True):
    """An interval that has begun."""

    id: int
    subscription: Subscription
    interval: int


class Catalogue:
    """All subscriptions. Only those with an interval to come cost anything with a new block.

    An interval that has begun stays due until it is `taken`, or is over.
    """

    def __init__(self) -> None:
        self.read_to = -1
        """Newest block that was read, also if it has left the chain; -1 while others are read in its place."""
        self.known: dict[int, Known] = {}
        self.aside: dict[int, str] = {}
        """Reasons why subscriptions are not served, by id."""
        self._starts: list[tuple[int, int, int]] = []
        """A heap of the starts of intervals to come: second, id, interval. Some are out of date."""
        self._awaited: dict[int, int] = {}
        """The next interval of each subscription that has one, by id."""
        self._begun: dict[int, int] = {}
        """Intervals that have begun and are not taken, by id."""

    # -- the chain --------------------------------------------------------------------------------

    def add(self, id: int, subscription: Subscription, block: int) -> None:
        """Take a subscription as the chain has it in a block."""
        if not subscription.exists:
            self.drop(id)
            return
        self.known[id] = Known(id, subscription, block, cancelled_at=block if subscription.is_cancelled else None)
        self.aside.pop(id, None)
        self._begun.pop(id, None)
        self._await(id, subscription, 1)

    def cancel(self, id: int, block: int) -> None:
        """Take note of a cancellation in a block."""
        if (known := self.known.get(id)) is not None:
            self.known[id] = replace(known, cancelled_at=block)
            self._rest(id)

    def unread(self, id: int, reason: str) -> None:
        """Take note of a subscription that cannot be understood."""
        self.drop(id)
        self.aside[id] = reason

    def drop(self, id: int) -> None:
        """Forget a subscription."""
        self.known.pop(id, None)
        self.aside.pop(id, None)
        self._rest(id)

    def unwind(self, common: int, head: int) -> list[int]:
        """Forget what blocks above `common` have said. Return the ids to read again.

        `head` is the newest id in the block `common`.
        """
        self.read_to = -1
        for id in [id for id in {*self.known, *self.aside} if id > head]:
            self.drop(id)
        cancelled = (one for one in self.known.values() if one.cancelled_at is not None)
        return [one.id for one in cancelled if one.cancelled_at is not None and one.cancelled_at > common]

    def current(self, id: int) -> Subscription | None:
        """Return a subscription that is on the chain and not cancelled."""
        known = self.known.get(id)
        return None if known is None or known.cancelled_at is not None else known.subscription

    # -- time -------------------------------------------------------------------------------------

    def due(self, timestamp: int) -> Iterator[Due]:
        """Yield the intervals that a block of that time is in and that were not taken."""
        while self._starts and self._starts[0][0] <= timestamp:
            _, id, interval = heappop(self._starts)
            if self._awaited.get(id) == interval:
                del self._awaited[id]
                self._begun[id] = interval
        for id in list(self._begun):
            subscription = self.known[id].subscription
            interval = subscription.interval(timestamp)
            if interval > subscription.frequency:
                del self._begun[id]
            else:
                self._begun[id] = interval
                yield Due(id, subscription, interval)

    def taken(self, due: Due) -> None:
        """Take note that an interval needs no more attention; the next one is awaited."""
        if self.current(due.id) == due.subscription:
            self._begun.pop(due.id, None)
            self._await(due.id, due.subscription, due.interval + 1)

    def set_aside(self, id: int, reason: str) -> None:
        """Stop looking at a subscription until `resume`."""
        self.aside[id] = reason
        self._rest(id)

    def resume(self, id: int, interval: int = 1) -> None:
        """Look again at a subscription that was set aside."""
        if (subscription := self.current(id)) is not None:
            self.aside.pop(id, None)
            self._await(id, subscription, interval)

    def states(self, timestamp: int) -> Mapping[str, int]:
        """Return the numbers of subscriptions by state: active, waiting, cancelled, over, aside."""
        counts: dict[str, int] = dict.fromkeys(("active", "waiting", "cancelled", "over", "aside"), 0)
        counts["aside"] = len(self.aside)
        for known in self.known.values():
            if known.id in self.aside:
                continue
            if known.cancelled_at is not None:
                counts["cancelled"] += 1
            elif known.subscription.is_over(timestamp) or not self._looked_at(known.id):
                counts["over"] += 1
            else:
                counts["active" if known.subscription.is_active(timestamp) else "waiting"] += 1
        return counts

    def _looked_at(self, id: int) -> bool:
        return id in self._awaited or id in self._begun

    def _await(self, id: int, subscription: Subscription, interval: int) -> None:
        last = subscription.frequency if subscription.period else min(subscription.frequency, 1)
        if subscription.is_cancelled or interval > last:
            self._awaited.pop(id, None)
            return
        self._awaited[id] = interval
        heappush(self._starts, (subscription.interval_starts_at(interval), id, interval))

    def _rest(self, id: int) -> None:
        self._awaited.pop(id, None)
        self._begun.pop(id, None)
