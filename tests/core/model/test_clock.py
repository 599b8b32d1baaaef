"""The clock of a node: this machine's, or that of an engine that was asked for the time."""

import time

import pytest

from nodekit.model.clock import KEPT_SAMPLES, NodeClock

HOUR = 3600.0


class Hands:
    """A clock that stands still until it is moved."""

    def __init__(self) -> None:
        self.wall, self.steady = 1_800_000_000.0, 50.0

    def time(self) -> float:
        return self.wall

    def monotonic(self) -> float:
        return self.steady

    def advance(self, seconds: float) -> None:
        self.wall += seconds
        self.steady += seconds


@pytest.fixture
def hands() -> Hands:
    return Hands()


@pytest.fixture
def own(hands: Hands) -> NodeClock:
    return NodeClock(hands)


def test_without_a_clock_it_is_the_time_of_this_machine() -> None:
    own = NodeClock()
    before = time.time()
    assert before <= own.now() <= time.time()
    assert before - 1 <= own.milliseconds() / 1000 <= time.time()


def test_without_an_engine_it_follows_the_wall_clock(hands: Hands, own: NodeClock) -> None:
    for jump in (0, HOUR):
        hands.wall += jump
        assert (own.now(), own.milliseconds()) == (hands.wall, hands.wall * 1000)
        assert (own.skew_seconds, own.uncertainty_seconds) == (0, 0)


def test_it_follows_the_engine_and_not_the_wall_clock_of_this_machine(hands: Hands, own: NodeClock) -> None:
    own.sample(hands.wall + HOUR, hands.steady)
    assert (own.now(), own.skew_seconds) == (hands.wall + HOUR, -HOUR)
    hands.wall += 2 * HOUR
    assert (own.now(), own.milliseconds()) == (hands.wall - HOUR, (hands.wall - HOUR) * 1000)
    assert own.skew_seconds == HOUR


def _ask(hands: Hands, own: NodeClock, error: float, seconds: float) -> None:
    """Sample an engine whose answer takes some seconds, and was made half way."""
    asked_at, answer = hands.steady, hands.wall + seconds / 2 + error
    hands.advance(seconds)
    own.sample(answer, asked_at)


def test_the_quickest_answer_counts_as_long_as_it_is_not_too_old(hands: Hands, own: NodeClock) -> None:
    _ask(hands, own, 0.0, seconds=0.001)
    for _ in range(KEPT_SAMPLES - 1):
        _ask(hands, own, 4.9, seconds=10)  # late, and off by almost half of it
        assert own.now() == pytest.approx(hands.wall, abs=1e-3)
    assert own.uncertainty_seconds < 0.5
    _ask(hands, own, 4.9, seconds=10)
    assert own.now() == pytest.approx(hands.wall + 4.9, abs=1e-3)
    assert own.uncertainty_seconds >= 5


def test_an_engine_whose_clock_was_set_is_followed_at_once(hands: Hands, own: NodeClock) -> None:
    _ask(hands, own, 0.0, seconds=0.001)
    _ask(hands, own, -60.0, seconds=0.5)
    assert own.now() == pytest.approx(hands.wall - 60, abs=1e-3)
    _ask(hands, own, -60.1, seconds=0.001)  # the better answer counts
    assert own.now() == pytest.approx(hands.wall - 60.1, abs=1e-3)
