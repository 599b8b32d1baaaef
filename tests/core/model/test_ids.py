"""Job ids are UUIDs of version 7 that always grow."""

import re
import time
import uuid
from collections.abc import Sequence
from itertools import pairwise
from random import Random

import pytest
from clocks import GivenClock

from nodekit.model.clock import NodeClock
from nodekit.model.ids import JobIds

CANONICAL = re.compile(r"[0-9a-f]{8}-[0-9a-f]{4}-7[0-9a-f]{3}-[89ab][0-9a-f]{3}-[0-9a-f]{12}")


def milliseconds(id: str) -> int:
    return uuid.UUID(id).int >> 80


def test_an_id_is_a_uuid_of_version_7_with_the_time_in_front() -> None:
    before = time.time_ns() // 1_000_000
    id = JobIds().next()
    assert CANONICAL.fullmatch(id)
    parsed = uuid.UUID(id)
    assert (parsed.version, parsed.variant) == (7, uuid.RFC_4122)
    assert before <= milliseconds(id) <= time.time_ns() // 1_000_000


def fields(id: str) -> tuple[int, int, int]:
    """Return the time, 12 and 62 bits of a UUID of version 7, as RFC 9562 defines them."""
    number = uuid.UUID(id).int
    return number >> 80, number >> 64 & 0xFFF, number & (1 << 62) - 1


class Draws(Random):
    """A `Random` that gives these numbers of 74 bits and these steps of fewer bits, then zeros."""

    def __init__(self, *whole: int, steps: Sequence[int] = ()) -> None:
        super().__init__()
        self._whole, self._steps = list(whole), list(steps)

    def getrandbits(self, bits: int, /) -> int:
        numbers = self._whole if bits == 74 else self._steps
        return numbers.pop(0) if numbers else 0


@pytest.mark.parametrize("drawn", [(1 << 74) - 1, 0x2A5_A5A5_A5A5_A5A5_A5A5, 1, 1 << 62])
def test_all_that_is_drawn_stands_in_an_id(drawn: int) -> None:
    clock = NodeClock(GivenClock((0x123456789AB + 0.5) / 1000))
    assert fields(JobIds(clock, Draws(drawn)).next()) == (0x123456789AB, drawn >> 62, drawn & (1 << 62) - 1)


def test_ids_of_one_millisecond_are_a_drawn_step_apart_and_at_least_one() -> None:
    ids = JobIds(NodeClock(GivenClock(0.007)), Draws(5, 9999, 4, 9999, steps=(1000, 0, 3)))
    assert [fields(ids.next()) for _ in range(5)] == [(7, 0, number) for number in (5, 1006, 1007, 1011, 1012)]


@pytest.mark.parametrize(
    ("seen", "later"),
    [
        ((1, 0xABC, 0x123456789ABCDEF), (1, 0xABC, 0x123456789ABCDF0)),
        ((1, 0x5, (1 << 62) - 1), (1, 0x6, 0)),
        ((1, 0xFFF, (1 << 62) - 1), (2, 0, 0)),
        ((3, 0x801, 1 << 61), (3, 0x801, (1 << 61) + 1)),
    ],
)
def test_the_next_id_is_the_one_after_that_which_was_seen(
    seen: tuple[int, int, int], later: tuple[int, int, int]
) -> None:
    ids = JobIds(NodeClock(GivenClock(0.0)), Draws())
    ids.seen(str(uuid.UUID(int=seen[0] << 80 | 7 << 76 | seen[1] << 64 | 2 << 62 | seen[2])))
    assert fields(ids.next()) == later


def test_ids_grow_and_stay_well_formed_in_a_tight_loop() -> None:
    ids = JobIds()
    given = [ids.next() for _ in range(20_000)]
    assert all(earlier < later for earlier, later in pairwise(given))
    assert all(CANONICAL.fullmatch(id) for id in given)


def test_ids_grow_when_the_clock_steps_back() -> None:
    clock = GivenClock()
    ids = JobIds(NodeClock(clock))
    first = ids.next()
    clock.unix -= 3600
    behind = [ids.next() for _ in range(1000)]
    assert first < behind[0]
    assert behind == sorted(set(behind))
    clock.unix += 3600.001
    assert behind[-1] < ids.next()


def test_ids_of_two_nodes_differ() -> None:
    one, other = JobIds(), JobIds()
    assert len({ids.next() for ids in (one, other) for _ in range(1000)}) == 2000


def test_ids_are_greater_than_those_that_were_seen() -> None:
    last = JobIds(NodeClock(GivenClock(1060.0))).next()
    ids = JobIds(NodeClock(GivenClock(1000.0)))
    ids.seen(last)
    ids.seen("01900000-0000-7000-8000-000000000000")
    assert ids.next() > last


def test_now_lies_behind_all_ids_of_now_and_before_those_of_the_future() -> None:
    clock = GivenClock()
    ids = JobIds(NodeClock(clock))
    past = ids.next()
    cut = ids.now()
    clock.unix += 0.002
    assert past < cut < ids.next()
