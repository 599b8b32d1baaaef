"""Random choices of tests: the same ones in each run, and others in drills.

`DRILL_SEED=7` makes those of 7, `DRILL_SEED=random` others each time. `DRILL_KILLS`, which `make drills` sets, makes
more of them.
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
    """The seed that the value of the variable stands for."""
    if text == "random":
        return SystemRandom().randrange(1_000_000)
    return int(text or FIXED_SEED)


SEED = chosen_seed(os.environ.get(VARIABLE))
os.environ[VARIABLE] = str(SEED)  # for workers of pytest-xdist
SAID = f"random choices: {VARIABLE}={SEED}"


def each_run(usual: T, drill: T) -> T:
    """How much is tried in each run, and in drills."""
    return drill if DRILLS else usual


def given(*strategies: Any, examples: int = 100, **named: Any) -> Callable[[Callable[..., Any]], Callable[..., Any]]:
    """As `hypothesis.given`, beginning at the seed. It has no deadline: machines are busy at times."""
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
