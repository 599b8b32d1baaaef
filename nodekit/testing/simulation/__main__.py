"""Simulations from the command line: ``python -m nodekit.testing.simulation --seeds 0:1000``."""

import argparse
import logging
import sys
from collections.abc import Sequence
from importlib import import_module

from nodekit.testing.simulation.cluster import Cluster
from nodekit.testing.simulation.search import broken, failing_seeds, shortest


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="python -m nodekit.testing.simulation", description=__doc__)
    parser.add_argument("--seeds", type=_seeds, default=range(50), help="the seeds A to B - 1, as A:B; default: 0:50")
    parser.add_argument("--cluster", type=_cluster, default=Cluster, help="another cluster, as MODULE:CLASS")
    parser.add_argument("--processes", type=int, default=1, help="number of processes that share the seeds")
    parser.add_argument("--as-found", action="store_true", help="do not look for the shortest schedule of faults")
    parser.add_argument("--digests", action="store_true", help="print a digest of each trace: the same on any machine")
    parser.add_argument("--trace", action="store_true", help="print everything that happens")
    given = parser.parse_args(arguments)
    logging.disable(logging.CRITICAL)
    if given.trace or given.digests:
        return max([_print_run(given.cluster(seed), whole=given.trace) for seed in given.seeds], default=0)
    for seed in failing_seeds(given.cluster, given.seeds, given.processes):
        error = broken(given.cluster(seed, trace=False))
        assert error is not None
        print(f"seed {seed}: {error}", flush=True)
        if given.as_found:
            return 1
        found = shortest(given.cluster, seed, error)
        print(f"\nThe shortest schedule, found in {found.runs} runs:\n\n{found.test()}")
        return 1
    print(f"{len(given.seeds)} seeds, no promise was broken")
    return 0


def _seeds(text: str) -> range:
    first, _, end = text.partition(":")
    return range(int(first), int(end) if end else int(first) + 1)


def _cluster(text: str) -> type[Cluster]:
    module, _, name = text.partition(":")
    found: type[Cluster] = getattr(import_module(module), name)
    return found


def _print_run(cluster: Cluster, *, whole: bool) -> int:
    """Run a cluster and print what became of it. Return 1 if it broke a promise."""
    error = broken(cluster)
    if whole:
        for happened in cluster.world.trace:
            print(happened)
    print(f"seed {cluster.world.seed}: {cluster.world.digest}, {cluster.world.loop.steps} turns, {error or 'ok'}")
    return int(error is not None)


if __name__ == "__main__":
    sys.exit(main())
