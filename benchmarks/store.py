"""CPU per job of a store alone, driven as the executor drives it: add, claim, save each step, finish.

    python benchmarks/store.py [--jobs 2000] [--clients 32] [--steps 1] [--batch 1] [--rounds 9] [--filled 0]
                               [--store sqlite] [--counts]

Rounds of the store alternate with rounds of a table that keeps nothing; the lower quartile of each is shown. The first
figure is what a job costs in all, the second what it costs in the store's table, the third the same per read by id.
Most of what the first has beyond the second is the store's queue, and the clients and the executor of this program.
`--counts` shows what no other load disturbs: statements, commits, hand-overs between threads and Python calls.
"""

import argparse
import asyncio
import sqlite3
import statistics
import sys
import tempfile
import threading
import time
from collections import Counter
from collections.abc import Awaitable, Callable, Mapping, Sequence
from contextlib import AsyncExitStack, nullcontext
from pathlib import Path
from types import FrameType
from typing import Any

import anyio
import msgspec
from msgspec.structs import replace

from nodekit import (
    Attempt,
    ContainerOutput,
    EmbeddedStore,
    Job,
    JobRequest,
    JobStatus,
    JobTable,
    Outcome,
    Unfinished,
)
from nodekit.model.ids import JobIds
from nodekit.testing import make_job, succeeded
from nodekit_memory import MemoryTable
from nodekit_sqlite import SqliteTable

OUTPUT = msgspec.Raw(b'{"ok": "yes"}')
BATCH_OF_FILLING = 5000


class Nothing:
    """A table that keeps nothing: what a job costs with it is the cost of everything else."""

    shares_payloads = True

    async def __aenter__(self) -> "Nothing":
        return self

    async def __aexit__(self, *error: object) -> None:
        return None

    async def add(self, jobs: Sequence[Job]) -> list[Job]:
        return list(jobs)

    async def save(self, job: Job) -> None:
        return None

    async def get(self, ids: Sequence[str], **parts: object) -> list[Job]:
        return []

    async def find(self, query: object) -> list[str]:
        return []

    async def unfinished(self) -> list[Unfinished]:
        return []

    async def last_finish_number(self) -> int:
        return 0


class Counted(SqliteTable):
    """Counts the statements of its connections."""

    statements = 0
    commits = 0

    def _connect(self) -> sqlite3.Connection:
        connection = super()._connect()
        connection.set_trace_callback(self._count)
        return connection

    def _count(self, statement: str) -> None:
        self.statements += 1
        self.commits += statement == "COMMIT"


class Calls:
    """Counts the calls of Python functions in all threads, and those that hand work to another thread."""

    def __init__(self) -> None:
        self.calls, self.c_calls, self.of = 0, 0, Counter[str]()

    def _count(self, frame: FrameType, event: str, argument: Any) -> None:
        if event == "call":
            self.calls += 1
        elif event == "c_call":
            self.c_calls += 1
            name = argument.__name__
            if name in ("put", "call_soon_threadsafe", "create_task"):
                self.of[name] += 1

    def __enter__(self) -> "Calls":
        threading.setprofile(self._count)
        sys.setprofile(self._count)
        return self

    def __exit__(self, *error: object) -> None:
        sys.setprofile(None)
        threading.setprofile(None)


class Driver:
    """Clients that each have one job under way, and an executor that runs what they add."""

    def __init__(self, store: EmbeddedStore, options: argparse.Namespace) -> None:
        self.store, self.steps, self.clients, self.batch = store, options.steps, options.clients, options.batch
        self.request = JobRequest.of(*["echo"] * self.steps, data={"text": "hello", "n": 1})
        self.ids = JobIds()
        self.ended: dict[str, asyncio.Future[None]] = {}
        self.newest: list[str] = []

    async def run(self, jobs: int) -> None:
        loop = asyncio.get_running_loop()
        executor = loop.create_task(self._execute())
        await asyncio.gather(*[self._client(jobs // self.clients // self.batch) for _ in range(self.clients)])
        executor.cancel()

    async def _client(self, rounds: int) -> None:
        loop = asyncio.get_running_loop()
        for _ in range(rounds):
            jobs = [
                Job(id=self.ids.next(), request=self.request, accepted_at=time.time(), due="echo")
                for _ in range(self.batch)
            ]
            waits = [self.ended.setdefault(job.id, loop.create_future()) for job in jobs]
            await self.store.add(jobs)
            for wait in waits:
                await wait
            self.newest = [job.id for job in jobs]

    async def _execute(self) -> None:
        async with anyio.create_task_group() as tasks:
            while True:
                for claim in await self.store.claim(["echo"], None, 64):
                    tasks.start_soon(self._run, claim)

    async def _run(self, claim: Any) -> None:
        job, now = claim.job, time.time()
        with claim.scope:
            for number in range(self.steps):
                attempt = Attempt(started_at=now, finished_at=now, instance="http://127.0.0.1:8000")
                job = job.with_result(ContainerOutput(container="echo", output=OUTPUT), attempt)
                if number + 1 < self.steps:
                    job = replace(job.without_earlier_outputs(), due="echo")
                else:
                    job = job.finished(Outcome(JobStatus.SUCCESS), now)
                await self.store.save(claim, job)
        self.ended.pop(job.id).set_result(None)

    async def read(self, number: int) -> None:
        async def client() -> None:
            for _ in range(number // self.clients):
                await self.store.get(self.newest[:1])

        await asyncio.gather(*[client() for _ in range(self.clients)])


async def fill(table: JobTable, count: int) -> None:
    done, ids = succeeded(make_job(data={"text": "hello", "n": 1})), JobIds()
    for first in range(1, count + 1, BATCH_OF_FILLING):
        numbers = range(first, min(first + BATCH_OF_FILLING, count + 1))
        await table.add([replace(done, id=ids.next(), finish_number=number) for number in numbers])


async def microseconds(work: Callable[[int], Awaitable[None]], number: int) -> float:
    before = time.process_time()
    await work(number)
    return (time.process_time() - before) / number * 1e6


def quartile(times: Sequence[float]) -> float:
    return statistics.quantiles(times, n=4)[0] if len(times) > 1 else times[0]


def made_table(options: argparse.Namespace, folder: Path) -> JobTable:
    if options.store == "memory":
        return MemoryTable()
    synchronous = "NORMAL" if options.store == "sqlite-normal" else "FULL"
    return (Counted if options.counts else SqliteTable)(folder / "jobs.db", synchronous=synchronous)


async def times(drivers: Mapping[str, Driver], options: argparse.Namespace) -> None:
    jobs: dict[str, list[float]] = {name: [] for name in drivers}
    reads: dict[str, list[float]] = {name: [] for name in drivers}
    for number in range(options.rounds + 1):
        for name, driver in drivers.items():
            took = await microseconds(driver.run, options.jobs)
            read = await microseconds(driver.read, options.jobs)
            if number:  # the first round warms up
                jobs[name].append(took)
                reads[name].append(read)
    (job, without), (read, unread) = map(quartile, jobs.values()), map(quartile, reads.values())
    print(f"{job:6.1f} µs per job, {job - without:6.1f} of it in the table; {read - unread:5.1f} µs per read")


async def counts(table: JobTable, driver: Driver, jobs: int, calls: Calls) -> None:
    await driver.run(jobs)
    before = (getattr(table, "statements", 0), getattr(table, "commits", 0))
    made = calls.calls, calls.c_calls, Counter(calls.of)
    await driver.run(jobs)
    of = {name: number - made[2][name] for name, number in calls.of.items()}
    print(
        f"per job: {(getattr(table, 'statements', 0) - before[0]) / jobs:.2f} statements, "
        f"{(getattr(table, 'commits', 0) - before[1]) / jobs:.3f} commits, "
        f"{(calls.calls - made[0]) / jobs:.1f} calls of Python's functions, "
        f"{(calls.c_calls - made[1]) / jobs:.1f} of C's; "
        + ", ".join(f"{number / jobs:.2f} {name}" for name, number in sorted(of.items()))
    )


async def main(options: argparse.Namespace) -> None:
    with tempfile.TemporaryDirectory() as folder, Calls() if options.counts else nullcontext() as calls:
        table = made_table(options, Path(folder))
        async with AsyncExitStack() as stack:
            driver = Driver(await stack.enter_async_context(EmbeddedStore(table)), options)
            await fill(table, options.filled)
            if calls is not None:
                await counts(table, driver, options.jobs, calls)
            else:
                nothing = await stack.enter_async_context(EmbeddedStore(Nothing()))  # type: ignore[arg-type]
                await times({"table": driver, "nothing": Driver(nothing, options)}, options)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--jobs", type=int, default=2000)
    parser.add_argument("--clients", type=int, default=32)
    parser.add_argument("--steps", type=int, default=1)
    parser.add_argument("--batch", type=int, default=1)
    parser.add_argument("--rounds", type=int, default=9)
    parser.add_argument("--filled", type=int, default=0, help="finished jobs that are stored before")
    parser.add_argument("--store", choices=["sqlite", "sqlite-normal", "memory"], default="sqlite")
    parser.add_argument("--counts", action="store_true", help="show counts instead of times")
    asyncio.run(main(parser.parse_args()))
