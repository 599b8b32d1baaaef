"""A whole soak: load, faults and kills, samples meanwhile, and what is left of it all at the end."""

import asyncio
import math
import signal
import time
from collections.abc import Callable
from contextlib import AsyncExitStack, suppress
from pathlib import Path
from typing import Any

import msgspec

from soak.clients import GONE, WORKERS, Client, session_from
from soak.faults import Faults
from soak.judge import BOUNDS, MEGABYTE, Series, Verdict, judged
from soak.ledger import Ledger
from soak.lives import PATIENCE_SECONDS, Far, Lives
from soak.plan import Plan
from soak.sampling import Samples, taken

CLIENTS = range(2, 8)
GREEDY, PROBE = 8, 9
"""Last numbers of the addresses: of those who work, of one who wants everything, and of one who measures."""
LEFT = {"descriptors": 8, "threads": 8, "processes": 0, "tasks": 6}
"""Number of each that an idle node may have more than before its first job: threads and connections that are kept."""
DISK_LEFT = 16 * MEGABYTE
"""Size of everything on the disk once all jobs are deleted: files that are empty, and logs."""


class Report(msgspec.Struct, kw_only=True):
    """Everything that a soak has found."""

    plan: Plan
    seconds: float = 0.0
    accepted: int = 0
    ended: dict[str, int] = msgspec.field(default_factory=dict)
    unseen: int = 0
    broken: int = 0
    faults: dict[str, int] = msgspec.field(default_factory=dict)
    kills: list[float] = msgspec.field(default_factory=list)
    verdicts: list[Verdict] = msgspec.field(default_factory=list)
    series: dict[str, Series] = msgspec.field(default_factory=dict)
    left: dict[str, tuple[float, float]] = msgspec.field(default_factory=dict)
    wrong: list[str] = msgspec.field(default_factory=list)

    @property
    def problems(self) -> list[str]:
        return [*self.wrong, *(verdict.problem for verdict in self.verdicts if verdict.problem)]


class Soak:
    """The parts of a soak, while it runs."""

    def __init__(self, plan: Plan, folder: Path, say: Callable[[str], None]) -> None:
        self.plan, self.folder, self._say = plan, folder, say
        self.far = Far()
        self.lives = Lives(plan, folder, self.far)
        self.ledger = Ledger(plan.keep_seconds)
        self.samples = Samples()
        self.stop = asyncio.Event()
        self.report = Report(plan=plan)
        self.clients: list[Client] = []
        self.probe: Client

    async def run(self) -> Report:
        async with AsyncExitStack() as stack:
            stack.callback(self.far.end)
            for number in (*CLIENTS, GREEDY, PROBE):
                session = await stack.enter_async_context(session_from(f"127.0.0.{number}"))
                self.clients.append(Client(number, self.lives, self.ledger, self.plan.seed, session))
            self.probe = self.clients.pop()
            await stack.enter_async_context(self.lives.open())
            try:
                await self._run()
            except* RuntimeError as group:
                self.report.wrong += map(str, group.exceptions)
        return self._reported()

    async def _run(self) -> None:
        before = await self._idle({})
        self.samples = Samples()
        faults = Faults(self.lives, self.far, self.clients[-1], self.folder, self.plan.seed)
        async with asyncio.TaskGroup() as tasks:
            beside = [self._sample(), self._probe(), *(client.check() for client in self.clients)]
            watching = [tasks.create_task(one) for one in beside]
            working = [
                tasks.create_task(client.work(self.stop)) for client in self.clients[:-1] for _ in range(WORKERS)
            ]
            working.append(tasks.create_task(faults.run(self.stop, self.plan.fault_seconds)))
            working.append(tasks.create_task(self._kill()))
            await self._until(self.plan.seconds)
            self.stop.set()
            await asyncio.wait(working)
            await self._settled()
            for task in watching:
                task.cancel()
        self.report.seconds = self.samples.now
        self.report.faults = dict(faults.counts)
        await self._leave(before)

    async def _kill(self) -> None:
        """Kill the node again and again, and start it at once."""
        for at in self.plan.kills:
            await self._until(at)
            self.report.kills.append(self.samples.now)
            await self.lives.restart(signal.SIGKILL)
        self.lives.is_last = True

    async def _until(self, seconds: float) -> None:
        while (left := seconds - self.samples.now) > 0:
            self.lives.check()
            await asyncio.sleep(min(left, 1))

    async def _settled(self) -> None:
        """Wait until each job has ended."""
        end = time.monotonic() + PATIENCE_SECONDS
        while left := sum(len(client.open) for client in self.clients):
            self.lives.check()
            if time.monotonic() > end:
                raise RuntimeError(f"{left} jobs have not ended after {PATIENCE_SECONDS} s: {await self._unfinished()}")
            await asyncio.sleep(0.2)

    async def _unfinished(self) -> str:
        """Return the histories of some jobs that have not ended."""
        some = [(client, id) for client in self.clients for id in client.open][:3]
        return "; ".join([str((await client.api.get(f"/api/jobs/{id}")).body)[:1000] for client, id in some])

    async def _leave(self, before: dict[str, float]) -> None:
        """Wait until the node is as it was before the first job, and end it."""
        after = await self._idle(before)
        for key, most in LEFT.items():
            if key in before:
                self.report.left[key] = before[key], after[key]
                if after[key] > before[key] + most:
                    self.report.wrong.append(f"{key} left: {after[key]:.0f} instead of {before[key]:.0f}")
        await self._deleted(before["disk"])
        await self.lives.end(signal.SIGTERM)

    async def _deleted(self, before: float) -> None:
        """Wait until all jobs are deleted, and the disk is free again."""
        end = time.monotonic() + (0 if self.plan.plant else self.plan.keep_seconds + PATIENCE_SECONDS)
        while (after := taken(self.lives.served.process.pid, self.folder)["disk"]) > DISK_LEFT:
            if time.monotonic() > end:
                if not self.plan.plant:
                    self.report.wrong.append(f"disk left: {after / MEGABYTE:.0f} MiB")
                break
            await asyncio.sleep(1)
        self.report.left["MiB of disk"] = before / MEGABYTE, after / MEGABYTE

    async def _idle(self, before: dict[str, float]) -> dict[str, float]:
        """Return what an idle node takes, once it is not much more than before; or at last."""
        end = time.monotonic() + self.plan.idle_seconds
        while True:
            await asyncio.sleep(1)
            found = {**taken(self.lives.served.process.pid, self.folder), **(await self._inside() or {})}
            is_as_before = all(found[key] <= before.get(key, math.inf) + LEFT[key] for key in LEFT if key in found)
            if "tasks" in found and is_as_before:
                return found
            if time.monotonic() > end:
                return found

    # -- samples --------------------------------------------------------------------------------------

    async def _sample(self) -> None:
        last_jobs, last_at, said = 0, self.samples.now, 0.0
        while True:
            await asyncio.sleep(self.plan.sample_seconds)
            if not self.lives.listening.is_set():
                continue
            self.samples.add(**taken(self.lives.served.process.pid, self.folder))
            if (now := self.samples.now) > last_at + max(1.0, 5 * self.plan.sample_seconds):
                jobs = sum(self.ledger.ended.values())
                self.samples.add(jobs=(jobs - last_jobs) / (now - last_at))
                last_jobs, last_at = jobs, now
            if now > said + 30:
                said = now
                self._say(f"{now:5.0f} s  {self.ledger.accepted} jobs, {dict(self.ledger.ended)}  {self._last()}")

    def _last(self) -> str:
        return "  ".join(
            f"{bound.key} {bound.shown(series[-1][1])}"
            for bound in BOUNDS
            if (series := self.samples.series(bound.key))
        )

    async def _probe(self) -> None:
        while True:
            await asyncio.sleep(self.plan.sample_seconds)
            await self.lives.listening.wait()
            if found := await self._inside():
                self.samples.add(**found)

    async def _inside(self) -> dict[str, float] | None:
        """Ask a function in the node for what only its process knows."""
        body: Any = {"containers": ["probe"], "data": {}}
        with suppress(*GONE):
            answer = await self.probe.api.post("/api/jobs", body, headers={"Prefer": "wait=10", "Priority": "u=0"})
            if answer.status == 200 and answer.json["status"] == "success":
                found: dict[str, float] = answer.json["result"]["output"]
                return found
        return None

    def _reported(self) -> Report:
        report, ledger = self.report, self.ledger
        report.accepted, report.ended, report.unseen = ledger.accepted, dict(ledger.ended), ledger.unseen
        report.broken = sum(client.broken for client in self.clients)
        report.wrong += self.lives.wrong + _few("lost", ledger.lost) + _few("wrong", ledger.wrong)
        if ledger.unseen > 0.01 * ledger.accepted:
            report.wrong.append(
                f"{ledger.unseen} jobs were deleted before they were looked at: the machine is too busy"
            )
        keys = [*(bound.key for bound in BOUNDS), "jobs"]
        report.series = {key: self.samples.series(key) for key in keys if self.samples.series(key)}
        report.verdicts = [
            judged(report.series[bound.key], self.plan.judged_from, self.plan.seconds, bound)
            for bound in BOUNDS
            if bound.key in report.series
        ]
        return report


def _few(word: str, found: list[str]) -> list[str]:
    return [f"{len(found)} {word}: {'; '.join(found[:5])}"] if found else []


async def soak(plan: Plan, folder: Path, say: Callable[[str], None] = print) -> Report:
    """Run a soak in a folder, and report what it has found."""
    return await Soak(plan, folder, say).run()
