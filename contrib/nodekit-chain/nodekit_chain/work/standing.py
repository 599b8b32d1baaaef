"""The standing of a record: wanted, too late, or of a subscription that has left the chain. Pure."""

from enum import Enum, auto

import msgspec

from nodekit_chain.watching.catalogue import Catalogue
from nodekit_chain.work.records import State, Work


class Standing(Enum):
    """The standing of a record. `UNREAD`: the chain was not read as far as when the record was made; wait for it."""

    WANTED = auto()
    PAST = auto()
    GONE = auto()
    UNREAD = auto()


class Judgement(msgspec.Struct, frozen=True):
    """A standing, and the reason of one that is bad."""

    standing: Standing
    reason: str = ""


_WANTED = Judgement(Standing.WANTED)
_LATE = Judgement(Standing.PAST, "its interval was over before the result was delivered")


def standing(work: Work, catalogue: Catalogue, timestamp: int) -> Judgement:
    """Judge a record by the subscriptions that the chain has, and by the time of the newest block."""
    ends_at = work.subscription.interval_ends_at(work.interval) if work.interval else None
    late = ends_at is not None and timestamp >= ends_at
    if work.delegation is not None:
        if late or work.subscription.is_over(timestamp):
            return _LATE
        if work.state is State.SEEN and not work.id and timestamp >= work.delegation.expiry:
            return Judgement(Standing.PAST, "its signature has expired")
        return _WANTED
    known = catalogue.known.get(work.id)
    if known is not None and known.cancelled_at is not None:
        return Judgement(Standing.PAST, "the subscription was cancelled")
    if known is None or known.subscription != work.subscription:
        if catalogue.read_to < work.read_at:  # this endpoint is behind the one that named the subscription
            return _LATE if late else Judgement(Standing.UNREAD)
        return Judgement(Standing.GONE, "the chain has left the block with its subscription")
    return _LATE if late else _WANTED
