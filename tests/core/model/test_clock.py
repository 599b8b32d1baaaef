"""The clock of a node: this machine's, or that of an engine that was asked for the time."""

import time

import pytest

from nodekit.model.clock import KEPT_SAMPLES, Clock
from nodekit.testing import VirtualClock

HOUR = 3600.0


def test_without_an_engine_it_is_the_time_of_this_machine(clock: VirtualClock) -> None:
    own = Clock()
    for _ in range(2):
        assert own.now() == pytest.approx(time.time(), abs=1)
        assert own.milliseconds() == pytest.approx(time.time_ns() // 1_000_000, abs=1000)
        assert (own.skew_seconds, own.uncertainty_seconds) == (pytest.approx(0, abs=0.01), 0)
        clock.jump(HOUR)


def test_it_follows_the_engine_and_not_the_wall_clock_of_this_machine(clock: VirtualClock) -> None:
    own = Clock()
    own.sample(time.time() + HOUR, time.monotonic())
    assert own.now() == pytest.approx(time.time() + HOUR, abs=1)
    assert own.skew_seconds == pytest.approx(-HOUR, abs=1)
    clock.jump(2 * HOUR)
    assert own.now() == pytest.approx(time.time() - HOUR, abs=1)
    assert own.milliseconds() == pytest.approx((time.time() - HOUR) * 1000, abs=1000)
    assert own.skew_seconds == pytest.approx(HOUR, abs=1)


async def _asked(clock: VirtualClock, own: Clock, error: float, seconds: float) -> None:
    """Sample an engine whose answer takes some seconds, and reads as if it had been made at one end of them."""
    asked_at = time.monotonic()
    true = time.time() + seconds / 2
    await clock.advance(seconds)
    own.sample(true + error, asked_at)


@pytest.mark.anyio
async def test_the_quickest_answer_counts_as_long_as_it_is_not_too_old(clock: VirtualClock) -> None:
    own = Clock()
    await _asked(clock, own, 0.0, seconds=0.001)
    for _ in range(KEPT_SAMPLES - 1):
        await _asked(clock, own, 5.0, seconds=10)  # late, and off by half of it
        assert own.now() == pytest.approx(time.time(), abs=0.5)
    assert own.uncertainty_seconds < 0.5
    await _asked(clock, own, 5.0, seconds=10)
    assert own.now() == pytest.approx(time.time() + 5, abs=0.5)
    assert own.uncertainty_seconds >= 5


@pytest.mark.anyio
async def test_an_engine_whose_clock_was_set_is_followed_at_once(clock: VirtualClock) -> None:
    own = Clock()
    await _asked(clock, own, 0.0, seconds=0.001)
    await _asked(clock, own, -60.0, seconds=0.5)
    assert own.now() == pytest.approx(time.time() - 60, abs=0.5)
    await _asked(clock, own, -60.0, seconds=0.001)
    assert own.now() == pytest.approx(time.time() - 60, abs=0.01)
