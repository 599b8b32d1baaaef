"""A cluster whose nodes, network, server and clocks fail keeps every promise. `make drills` draws more seeds."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
from chance import SEED, each_run

from cluster.drill import Size, drill
from cluster.engines import Engine, engines

pytestmark = [pytest.mark.anyio, pytest.mark.timeout(1200)]

SIZE = each_run(Size(jobs=200, seconds=8, cut_seconds=5), Size(jobs=1000, seconds=20, cut_seconds=10))
DRAWN = each_run({"kit": 0}, {"kit": 5})
"""Number of seeds for an engine, if it is not that of all others. That of the kit is simulated in each run."""
CHOSEN = [(name, SEED + n) for name in engines() for n in range(DRAWN.get(name, each_run(3, 20)))]
AT_ONCE = 2
"""Number of drills that run beside each other: leases are short, and a drill has five processes and more."""


def grouped(chosen: Sequence[tuple[str, int]]) -> list[Any]:
    """Share drills out to so many workers."""
    group = pytest.mark.xdist_group
    return [pytest.param(*one, marks=group(f"cluster {n % AT_ONCE}")) for n, one in enumerate(chosen)]


@pytest.mark.parametrize(("engine", "seed"), grouped(CHOSEN), indirect=["engine"])
async def test_a_cluster_keeps_its_promises_whatever_fails_around_it(engine: Engine, seed: int, tmp_path: Path) -> None:
    figures = await drill(tmp_path, engine, seed, SIZE)
    print(f"\nseed {seed}\n{figures}")
    assert figures.problems == [], f"DRILL_SEED={seed}\n{figures}"
    assert figures.calls >= 3 * figures.jobs


@pytest.mark.parametrize(("engine", "seed"), grouped([one for one in CHOSEN if one[1] == SEED]), indirect=["engine"])
async def test_nodes_that_are_restarted_one_after_the_other_lose_and_repeat_nothing(
    engine: Engine, seed: int, tmp_path: Path
) -> None:
    figures = await drill(tmp_path, engine, seed, SIZE, rolling=True)
    print(f"\nseed {seed}\n{figures}")
    assert figures.problems == [], f"DRILL_SEED={seed}\n{figures}"
    assert figures.repeated == 0 or figures.harms
