"""The time of a submit while a node deletes finished jobs, and without that.

    python benchmarks/retention.py [--jobs 500000] [--store sqlite] [--per-second 50]

The jobs have a payload and an output of 1 KB each. Submits arrive at a steady rate and are measured in the process of
the node, from the call of `Node.submit` to its return.
"""

import argparse
import asyncio
import statistics
import tempfile
import time
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path

import anyio
from filled import fill

from nodekit import EmbeddedStore, JobRequest, JobTable, Node, NodeLimits
from nodekit.testing import make_function_runner
from nodekit_memory import MemoryTable
from nodekit_sqlite import SqliteTable

KEPT = 1000
REST_SECONDS = 10.0


async def submitting(node: Node, per_second: float, milliseconds: list[float]) -> None:
    due = time.perf_counter()
    request = JobRequest.of("echo", data={"text": "x" * 1000})
    while True:
        began = time.perf_counter()
        await node.submit(request)
        milliseconds.append((time.perf_counter() - began) * 1000)
        due += 1 / per_second
        await asyncio.sleep(max(0.0, due - time.perf_counter()))


async def measured(table: JobTable, limits: NodeLimits, per_second: float) -> tuple[list[float], float]:
    """Return the milliseconds of all submits, and the seconds until no more than the kept jobs are left."""
    times: list[float] = []
    runner = make_function_runner()
    node = Node(store=EmbeddedStore(table), runners=[runner], limits=limits)
    async with node, anyio.create_task_group() as tasks:
        began = time.perf_counter()
        tasks.start_soon(submitting, node, per_second, times)
        if limits.keep_finished_jobs is None:
            await anyio.sleep(REST_SECONDS)
        while limits.keep_finished_jobs is not None and await table.last_surplus(2 * KEPT) is not None:
            await anyio.sleep(0.2)
        took = time.perf_counter() - began
        tasks.cancel_scope.cancel()
    return times, took


def show(name: str, times: Sequence[float], took: float) -> None:
    cuts = statistics.quantiles(times, n=100)
    print(f"{name:24} {len(times):7} {cuts[49]:8.2f} {cuts[98]:8.2f} {max(times):8.2f} {took:10.1f}")


async def main(arguments: argparse.Namespace) -> None:
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "jobs.db"

        def table() -> JobTable:
            return MemoryTable() if arguments.store == "memory" else SqliteTable(path)

        print(f"{'':24} submits   median      99%  longest    seconds")
        kept = table()
        async with kept:
            await fill(kept, arguments.jobs, payload=1000)
        size = path.stat().st_size if path.exists() else 0
        opened = kept if arguments.store == "memory" else table()
        show("all jobs are kept", *await measured(opened, NodeLimits(), arguments.per_second))
        opened = kept if arguments.store == "memory" else table()
        limits = NodeLimits(keep_finished_jobs=KEPT)
        show("finished jobs go", *await measured(opened, limits, arguments.per_second))
        if size:
            print(f"file: {size >> 20} MiB, then {path.stat().st_size >> 20} MiB")


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--jobs", type=int, default=500_000)
    parser.add_argument("--store", choices=["sqlite", "memory"], default="sqlite")
    parser.add_argument("--per-second", type=float, default=50.0)
    with suppress(KeyboardInterrupt):
        asyncio.run(main(parser.parse_args()))
