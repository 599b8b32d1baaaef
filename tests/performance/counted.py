"""A node in a process of its own that counts its work: `python tests/performance/counted.py STORE SERVER`.

STORE is memory or sqlite. With the SERVER hypercorn or uvicorn, the client and the container are another process; with
`none`, the container is a function and the client is in the process. The figures of each shape, per job, are printed as
JSON. `--functions SHAPE` prints instead which functions are called most.
"""

import argparse
import asyncio
import itertools
import json
import os
import subprocess
import sys
import tempfile
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any, NamedTuple

HERE = Path(__file__).resolve().parent
sys.path[:0] = [str(HERE.parent)]

from nodekit import Container, ContainerOutput, Job, JobRequest, JobStatus, JobStore, Node  # noqa: E402
from nodekit_asgi import AsgiConfig, AsgiTransport  # noqa: E402
from nodekit_function import FunctionRunner  # noqa: E402
from nodekit_guardian import Guardian  # noqa: E402
from nodekit_memory import MemoryStore  # noqa: E402
from nodekit_remote import RemoteContainer, RemoteRunner  # noqa: E402
from nodekit_sqlite import SqliteStore  # noqa: E402
from performance.counting import Counting, SystemCalls  # noqa: E402 - found only now


class Shape(NamedTuple):
    """A way to submit jobs. `size` is the number of jobs in one request."""

    steps: int
    jobs: int
    size: int


SHAPES = {"1 step": Shape(1, 20, 1), "3 steps": Shape(3, 20, 1), "batch of 100": Shape(1, 100, 100)}
ROUNDS, TRACED_ROUNDS = 4, 2
"""Each figure is the least of so many rounds: what a process does now and then only adds to it."""

Work = Callable[[Shape], Awaitable[None]]


@asynccontextmanager
async def in_process(store: JobStore) -> AsyncIterator[Work]:
    """Run a node without a server, with a function for its container."""

    async def echo(data: Any) -> Any:
        return data

    runner, numbers = FunctionRunner(), itertools.count()
    runner.add(Container(id="echo"), echo)
    async with Node(store=store, runners=[runner], plugins=[Guardian()]) as node:

        async def work(shape: Shape) -> None:
            for _ in range(shape.jobs // shape.size):
                requests = [JobRequest.of(*["echo"] * shape.steps, data=next(numbers)) for _ in range(shape.size)]
                if shape.size == 1:
                    accepted = [await node.submit(requests[0])]
                else:
                    accepted = [job for job in await node.submit_many(requests) if isinstance(job, Job)]
                jobs = await node.wait([job.id for job in accepted])
                for request, job in zip(requests, jobs, strict=True):
                    last = job.results[-1]
                    assert job.status is JobStatus.SUCCESS
                    assert isinstance(last, ContainerOutput)
                    assert last.output == request.data

        yield work


@asynccontextmanager
async def over_http(store: JobStore, server: Any) -> AsyncIterator[Work]:
    """Run a node with a server. Its client and its container are another process."""
    command = [sys.executable, str(HERE / "load.py")]
    load = await asyncio.create_subprocess_exec(*command, stdin=subprocess.PIPE, stdout=subprocess.PIPE)
    assert load.stdin
    assert load.stdout
    told, said = load.stdin, load.stdout
    runner = RemoteRunner(RemoteContainer(id="echo", url=f"http://127.0.0.1:{int(await said.readline())}"))
    transport = AsgiTransport(config=AsgiConfig(bind="127.0.0.1:0", server=server))
    async with Node(store=store, runners=[runner], transports=[transport], plugins=[Guardian()]) as node:
        told.write(f"{node.urls[0]}\n".encode())

        async def work(shape: Shape) -> None:
            told.write("{} {} {}\n".format(*shape).encode())
            if await said.readline() != b"done\n":
                raise RuntimeError("the client has failed: see its error above")

        yield work
        told.close()
        await load.wait()


async def measured(work: Work, shape: Shape, counting: Counting) -> dict[str, float]:
    """Return what one job of this shape costs."""
    await work(shape)  # caches fill, connections are made
    rounds: list[dict[str, int]] = []
    for _ in range(ROUNDS):
        with counting.counted() as figures:
            await work(shape)
        rounds.append(figures)
    return {name: min(one[name] for one in rounds) / shape.jobs for name in rounds[0]}


async def traced(work: Work, shape: Shape, folder: Path) -> dict[str, int]:
    """Return the system calls of all jobs of the shape, by name; none if they cannot be watched."""
    rounds: list[dict[str, int]] = []
    for number in range(TRACED_ROUNDS):
        strace = SystemCalls(os.getpid(), folder / f"strace-{number}")
        await work(shape)
        rounds.append(strace.ended())
    return min(rounds, key=lambda one: sum(one.values()))


async def count(store: str, server: str, most_called: str | None) -> None:
    counting = Counting()
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        kept = MemoryStore() if store == "memory" else SqliteStore(folder / "jobs.db")
        async with in_process(kept) if server == "none" else over_http(kept, server) as work:
            if most_called is not None:
                await measured(work, SHAPES[most_called], counting)
                show(counting, SHAPES[most_called])
                return
            figures: dict[str, dict[str, float]] = {}
            for shape_name, shape in SHAPES.items():
                figures[shape_name] = await measured(work, shape, counting)
                calls = await traced(work, shape, folder)
                if calls:
                    figures[shape_name]["system calls"] = sum(calls.values()) / shape.jobs
    print(json.dumps(figures))


def show(counting: Counting, shape: Shape) -> None:
    for what, number in counting.by_code().most_common(60):
        if isinstance(what, str):
            print(f"{number / shape.jobs:8.2f} {what}")
        else:
            place = "/".join(Path(what.co_filename).parts[-3:])
            print(f"{number / shape.jobs:8.2f} {what.co_qualname}  {place}:{what.co_firstlineno}")


def main() -> None:
    parser = argparse.ArgumentParser(prog="python tests/performance/counted.py", description=__doc__)
    parser.add_argument("store", choices=["memory", "sqlite"])
    parser.add_argument("server", choices=["none", "hypercorn", "uvicorn"])
    parser.add_argument("--functions", choices=SHAPES, metavar="SHAPE")
    asked = parser.parse_args()
    asyncio.run(count(asked.store, asked.server, asked.functions))


if __name__ == "__main__":
    main()
