"""Known faults, each planted in a copy of the core or of the kit's store, and the run of simulations on that copy."""

import os
import re
import shutil
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

from paths import ROOT

PACKAGES = ("nodekit", "plugins/nodekit_memory")
"""Packages that a simulation imports. Faults are planted in copies of these."""


@dataclass(frozen=True, kw_only=True)
class Planted:
    """A fault: `was` occurs once in `file`, and becomes `now`.

    - `promises`: Names of the promises that may be reported as broken. It depends on the seed which one is seen first.
    - `quick`: True if nearly every seed finds it.
    """

    name: str
    file: str
    was: str
    now: str
    promises: frozenset[str]
    quick: bool = False


@dataclass(frozen=True)
class Report:
    """The answer of simulations.

    - `seed`: Seed with which a promise was broken; None if none was.
    - `text`: All that was printed.
    """

    seed: int | None
    promise: str
    text: str

    @property
    def test(self) -> str:
        """The printed test that repeats what was found."""
        return self.text.partition("runs:\n\n")[2]


def plant(fault: Planted, folder: Path) -> None:
    """Copy the packages to a folder, with the fault in them."""
    for package in PACKAGES:
        shutil.copytree(ROOT / package, folder / Path(package).name)
    path = folder / Path(fault.file).relative_to("plugins" if fault.file.startswith("plugins/") else ".")
    text = path.read_text()
    assert text.count(fault.was) == 1, fault.name
    path.write_text(text.replace(fault.was, fault.now))


def simulated(folder: Path, seeds: range, *options: str) -> Report:
    """Simulate clusters with the packages of a folder."""
    chosen = f"--seeds={seeds.start}:{seeds.stop}"
    done = _run(folder, "-m", "nodekit.testing.simulation", chosen, *options)
    found = re.search(r"^seed (\d+): ([^:\n]*)", done.stdout, re.MULTILINE)
    if found is None:
        assert done.returncode == 0, done.stdout + done.stderr
        return Report(None, "", done.stdout)
    return Report(int(found[1]), found[2], done.stdout)


def python(folder: Path, code: str) -> "subprocess.CompletedProcess[str]":
    """Run code with the packages of a folder."""
    return _run(folder, "-c", code)


def _run(folder: Path, *arguments: str) -> "subprocess.CompletedProcess[str]":
    env = {**os.environ, "PYTHONPATH": str(folder)}
    command = [sys.executable, *arguments]
    return subprocess.run(command, cwd=folder, env=env, capture_output=True, text=True, check=False)


def _promises(*names: str) -> frozenset[str]:
    return frozenset(names)


FAULTS = (
    Planted(
        name="a lost wake-up: a job that is queued with a delay wakes nobody",
        file="nodekit/embedded/queue.py",
        was="        self._queued.set()\n",
        now="        if due_at is None:\n            self._queued.set()\n",
        promises=_promises("no slot idles while a job waits", "every job ends"),
        quick=True,
    ),
    Planted(
        name="a second completion after a freeze: a claim is looked up by its job, not by its token",
        file="nodekit/testing/shared_store/engine.py",
        was="""\
    async def save(self, token: int, job: Job) -> Job:
        held = self.held_claim(token)
        async with held.writing:
""",
        now="""\
    async def save(self, token: int, job: Job) -> Job:
        token = next((t for t, held in self.claims.items() if held.claim.job.id == job.id), token)
        held = self.held_claim(token)
        async with held.writing:
""",
        promises=_promises("a job ends once", "outputs follow each other", "a stored step stays"),
    ),
    Planted(
        name="a lease that outlives its incarnation: a session that has lapsed is given claims",
        file="nodekit/testing/shared_store/engine.py",
        was="        if ticket.given_up or number not in self.sessions:  # it",
        now="        if ticket.given_up:  # it",
        promises=_promises("no slot idles while a job waits", "every job ends"),
    ),
    Planted(
        name="a release that forgets its delay",
        file="nodekit/testing/shared_store/engine.py",
        was="await self.store.release(held.claim, job, delay_seconds=delay_seconds)",
        now="await self.store.release(held.claim, job)",
        promises=_promises("a container gets the pause it asks for"),
        quick=True,
    ),
    Planted(
        name="a count that leaks: jobs that could not be stored are still counted",
        file="nodekit/embedded/store.py",
        was="""\
        except BaseException:
            self._counts.jobs(jobs, -1)
            raise
""",
        now="""\
        except BaseException:
            raise
""",
        promises=_promises("counts are right"),
    ),
    Planted(
        name="a slot that is never given back: that of a step before one in another container",
        file="nodekit/execution/job_runs.py",
        was="            self._slots.give_back(run.held, stream=run.stream_slots)\n            run.held = job.due",
        now="            run.held = job.due",
        promises=_promises("no slot idles while a job waits", "every job ends"),
        quick=True,
    ),
    Planted(
        name="suspects whose run ends without a result keep the place of other suspects",
        file="nodekit/execution/executor.py",
        was="            self.suspects.end(run.claim)\n",
        now="",
        promises=_promises("no slot idles while a job waits", "every job ends"),
    ),
    Planted(
        name="claims whose answer was lost are never given back",
        file="nodekit/testing/shared_store/engine.py",
        was="""\
            await self.give_back(
                session, [t for t, held in self.claims.items() if held.session == session and t not in tokens]
            )
""",
        now="",
        promises=_promises("no slot idles while a job waits", "every job ends"),
    ),
    Planted(
        name="a stored step does not end the count of takeovers in a row",
        file="nodekit/testing/shared_store/engine.py",
        was="""\
            if job.ended_steps > stored_steps:
                self.store.takeovers.pop(job.id, None)
""",
        now="",
        promises=_promises("only poison fails as poison"),
    ),
    Planted(
        name="poison is never ended: takeovers are noted, and not counted",
        file="nodekit/testing/shared_store/engine.py",
        was="        self.store.takeovers[claim.job.id] += died\n",
        now="        self.store.takeovers[claim.job.id] = int(died)\n",
        promises=_promises("every job ends", "poison ends few nodes"),
    ),
    Planted(
        name="an idempotency key is forgotten once its job has finished",
        file="plugins/nodekit_memory/__init__.py",
        was="            insort(self._finished, (job.finish_number, job.id))\n\n    async def get(",
        now="""\
            insort(self._finished, (job.finish_number, job.id))
            self._keys.pop((job.client, job.request.idempotency_key), None)

    async def get(""",
        promises=_promises("one key, one job"),
    ),
    Planted(
        name="a subscription is not begun again after a reconnection",
        file="nodekit/testing/shared_store/remote.py",
        was="if one.line is not line]:",
        now="if one.line is None]:",
        promises=_promises("a wait is answered"),
    ),
    Planted(
        name="a job whose claim was lost is nevertheless reported as finished",
        file="nodekit/execution/job_runs.py",
        was="                if stored.ended_as(job):\n                    run.job = stored\n",
        now="                if stored.status.finished:\n",
        promises=_promises("a job ends once"),
    ),
    Planted(
        name="finish numbers fall when the clock does",
        file="nodekit/embedded/finish_numbers.py",
        was="        self.last = max(self.last + 1, int(self._time() * 1e6))\n",
        now="        self.last = int(self._time() * 1e6)\n",
        promises=_promises("a reader of ends misses none"),
    ),
    Planted(
        name="a reader of ends is shown numbers above one that is still being written",
        file="nodekit/embedded/finish_numbers.py",
        was="        return min(self._writing) - 1 if self._writing else self.last\n",
        now="        return self.last\n",
        promises=_promises("a reader of ends misses none"),
    ),
    Planted(
        name="a write that fails once is given up",
        file="nodekit/execution/job_runs.py",
        was="                    await anyio.sleep(pause)\n                    pause = min(",
        now="                    raise ClaimLost(str(error)) from error\n                    pause = min(",
        promises=_promises("no slot idles while a job waits", "every job ends"),
    ),
    Planted(
        name="the newest job of a client comes first",
        file="nodekit/embedded/fair_schedule.py",
        was="        return self._entries.pop(heappop(self._ids))\n",
        now="        return self._entries.popitem()[1]\n",
        promises=_promises("older jobs come first"),
        quick=True,
    ),
    Planted(
        name="a group that was served keeps its place before the others",
        file="nodekit/embedded/fair_schedule.py",
        was="            rotation.places[group] = turn\n",
        now="            pass\n",
        promises=_promises("groups take turns"),
    ),
    Planted(
        name="a cancelled job goes on at another node: after a reconnection, the engine tells the old connection",
        file="nodekit/testing/shared_store/engine.py",
        was="            self.sessions[session].lose = lose\n",
        now="",
        promises=_promises("an ended job is not run"),
    ),
    Planted(
        name="a change is published before it is written",
        file="nodekit/embedded/store.py",
        was="""\
        try:
            job = await self._saving.save(ended)
""",
        now="""\
        self._feed.publish(Change(id, finished=True))
        try:
            job = await self._saving.save(ended)
""",
        promises=_promises("a wait ends with the job"),
        quick=True,
    ),
    Planted(
        name="a claim that is cancelled while its jobs are read loses them",
        file="nodekit/embedded/store.py",
        was="except BaseException:  # cancelled, or the table",
        now="except Exception:  # the table",
        promises=_promises("no slot idles while a job waits", "every job ends"),
    ),
)
