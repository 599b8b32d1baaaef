"""Random choices of tests: the same in each run, different ones in drills.

`DRILL_SEED=7` uses the seed 7, `DRILL_SEED=random` a new one each time. With `DRILL_KILLS`, which `make drills` sets,
tests try more.
"""

import os
from collections.abc import Callable
from random import SystemRandom
from typing import Any, TypeVar

T = TypeVar("T")

VARIABLE = "DRILL_SEED"
FIXED_SEED = 1
DRILLS = "DRILL_KILLS" in os.environ


def chosen_seed(text: str | None) -> int:
    """Return the seed that a value of the variable stands for."""
    if text == "random":
        return SystemRandom().randrange(1_000_000)
    return int(text or FIXED_SEED)


SEED = chosen_seed(os.environ.get(VARIABLE))
os.environ[VARIABLE] = str(SEED)  # for workers of pytest-xdist
SAID = f"random choices: {VARIABLE}={SEED}"


def each_run(usual: T, drill: T) -> T:
    """Return the amount to try: `usual`, or `drill` in drills."""
    return drill if DRILLS else usual


def given(*strategies: Any, examples: int = 100, **named: Any) -> Callable[[Callable[..., Any]], Callable[..., Any]]:
    """Decorate like `hypothesis.given`, with a fixed seed. There is no deadline: machines are busy at times."""
    import hypothesis  # half a second, and most tests do without

    def decorate(test: Callable[..., Any]) -> Callable[..., Any]:
        settings = hypothesis.settings(
            max_examples=each_run(examples, 10 * examples),
            deadline=None,
            database=None,
            suppress_health_check=[hypothesis.HealthCheck.too_slow],
        )
        return hypothesis.seed(SEED)(settings(hypothesis.given(*strategies, **named)(test)))

    return decorate
