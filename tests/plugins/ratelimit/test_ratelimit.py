"""The plugin `ratelimit`: exact on a clock that the test moves, bounded in memory, and per client."""

import tracemalloc
from collections import defaultdict
from fractions import Fraction

import pytest
from chance import given
from hypothesis import strategies as st

from nodekit import Identity, TooManyRequests
from nodekit_ratelimit import RateLimit

SECOND = 1_000_000_000


class Clock:
    """A clock whose nanoseconds the test moves."""

    def __init__(self, start: int = 12345) -> None:
        self.now = start

    def time(self) -> float:
        raise AssertionError("a wall clock jumps")

    def monotonic(self) -> float:
        return self.now / SECOND


class Limited:
    """A rate limit, and its decisions."""

    def __init__(self, **settings: float) -> None:
        self.clock = Clock()
        self.limit = RateLimit(**settings, clock=self.clock)  # type: ignore[arg-type]

    def retry_after(self, client: str = "10.0.0.1") -> int:
        """Return the seconds to wait; 0 if the request was admitted."""
        try:
            self.limit.nodekit_limit(Identity(client=client))
        except TooManyRequests as refused:
            return refused.retry_after_seconds
        return 0

    def let_through(self, times: int, client: str = "10.0.0.1") -> int:
        return [self.retry_after(client) for _ in range(times)].count(0)


def test_a_client_gets_its_requests_at_once_and_then_one_per_interval() -> None:
    limited = Limited(requests=60, period_seconds=60)
    assert limited.let_through(100) == 60
    limited.clock.now += SECOND - 1
    assert limited.let_through(1) == 0
    limited.clock.now += 1
    assert limited.let_through(2) == 1
    limited.clock.now += 60 * SECOND
    assert limited.let_through(100) == 60


def test_who_waits_as_long_as_it_was_told_is_let_through() -> None:
    limited = Limited(requests=2, period_seconds=60)
    limited.let_through(2)
    limited.clock.now += SECOND // 2
    assert limited.retry_after() == 30  # 29.5 in whole seconds
    limited.clock.now += 30 * SECOND
    assert limited.retry_after() == 0


def test_what_is_refused_does_not_count() -> None:
    limited = Limited(requests=1, period_seconds=10)
    limited.let_through(1)
    for _ in range(1000):
        assert limited.retry_after() == 10
    limited.clock.now += 10 * SECOND
    assert limited.retry_after() == 0


def test_nothing_is_rounded_where_the_interval_is_no_whole_number() -> None:
    limited = Limited(requests=7, period_seconds=1)
    limited.let_through(7)
    let_through = 0
    for _ in range(1000):
        limited.clock.now += 1_000_000  # a thousand milliseconds, 7 requests
        let_through += limited.let_through(1)
    assert let_through == 7


@given(
    requests=st.integers(1, 9),
    period=st.integers(1, 5),
    steps=st.lists(st.tuples(st.sampled_from("ab"), st.integers(0, 3 * SECOND)), max_size=60),
)
def test_it_lets_through_what_a_bucket_of_tokens_does(requests: int, period: int, steps: list[tuple[str, int]]) -> None:
    limited = Limited(requests=requests, period_seconds=period)
    tokens: dict[str, Fraction] = defaultdict(lambda: Fraction(requests))
    for client, pause in steps:
        limited.clock.now += pause
        refill = Fraction(pause * requests, period * SECOND)
        for other in "ab":
            tokens[other] = min(Fraction(requests), tokens[other] + refill)
        expected = tokens[client] >= 1
        assert (limited.retry_after(client) == 0) is expected
        tokens[client] -= expected


def test_clients_are_counted_apart() -> None:
    limited = Limited(requests=3)
    assert [limited.let_through(5, client) for client in ("10.0.0.1", "10.0.0.2", "unix", "alice")] == [3] * 4


@pytest.mark.parametrize(
    ("one", "other", "together"),
    [
        ("2001:db8::1", "2001:db8::ffff:1", True),
        ("2001:db8:0:1::1", "2001:db8:0:2::1", False),
        ("::ffff:10.0.0.1", "10.0.0.1", True),
        ("::ffff:10.0.0.1", "::ffff:10.0.0.2", False),
        ("fe80::1%eth0", "fe80::2%eth0", True),
        ("key:one", "key:two", False),
        ("10.0.0.1", "10.0.0.2", False),
    ],
)
def test_an_ipv6_client_is_counted_by_its_network(one: str, other: str, together: bool) -> None:
    limited = Limited(requests=1)
    assert limited.retry_after(one) == 0
    assert (limited.retry_after(other) > 0) is together


def test_a_flood_of_addresses_does_not_grow_memory_and_forgets_who_was_idle_longest() -> None:
    limited = Limited(requests=2, max_clients=1000)
    limited.let_through(2, "idle")
    limited.let_through(2, "busy")
    for number in range(900):
        limited.retry_after(f"10.1.{number >> 8}.{number & 255}")
    assert limited.retry_after("busy") > 0  # asked, so it is remembered
    tracemalloc.start()
    try:
        for number in range(900):
            limited.retry_after(f"10.2.{number >> 8}.{number & 255}")
        before = tracemalloc.get_traced_memory()[0]
        for number in range(20_000):
            limited.retry_after(f"10.{3 + (number >> 16)}.{number >> 8 & 255}.{number & 255}")
            if number % 500 == 0:
                assert limited.retry_after("busy") > 0, "who goes on asking is not forgotten"
        grown = tracemalloc.get_traced_memory()[0] - before
    finally:
        tracemalloc.stop()
    assert grown < 100_000, "20,000 clients more would take megabytes"
    assert limited.let_through(2, "idle") == 2


def test_the_clock_of_the_machine_is_the_default() -> None:
    limit = RateLimit(requests=1, period_seconds=3600)
    limit.nodekit_limit(Identity(client="a"))
    with pytest.raises(TooManyRequests, match=r"at most 1 in 3600 s"):
        limit.nodekit_limit(Identity(client="a"))
