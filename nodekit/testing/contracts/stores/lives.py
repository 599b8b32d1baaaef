"""Processes that may be killed at any moment: their work, their reports, and the state that must be kept after it."""

import time
from collections import deque
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager
from itertools import count
from random import Random

import anyio
import msgspec
from msgspec.structs import replace

from nodekit import FINISHED, Claim, ContainerId, Job, JobId, JobQuery, JobStatus, JobStore, Outcome
from nodekit.testing.builders.jobs import SEQUENCE, make_job, succeeded, unnumbered, with_output
from nodekit.testing.contracts.stores.killing import Report

_TASKS = 4
_PATIENCE_SECONDS = 1.0
"""Time to wait for a job to claim; another task may have taken it."""
_CANCELLED = Outcome(JobStatus.CANCELLED)


class Note(msgspec.Struct, frozen=True, kw_only=True):
    """Report of a call and the state in which it leaves jobs, sent before the call begins and after it returns."""

    call: int
    returned: bool = False
    jobs: tuple[Job, ...] = ()
    gone: tuple[JobId, ...] = ()


class Found(msgspec.Struct, frozen=True, kw_only=True):
    """State that a store shows after it is opened again."""

    ids: Sequence[JobId]
    jobs: Sequence[Job]
    pending: int


class Life:
    """Uses a store from several tasks, leaves and reopens it now and then, and reports each call."""

    def __init__(
        self, open_store: Callable[[], JobStore], report: Report, chance: Random, *, stops_after: int | None = None
    ) -> None:
        self._open_store, self._report, self._chance = open_store, report, chance
        self._stops_after = stops_after
        self._words = 0
        self._calls = count()
        self._finished = deque[JobId]()
        """Jobs that were reported as finished and that no task has deleted yet."""

    async def begin(self, many: int) -> None:
        """Add many jobs that nobody claims, to slow down a store that rewrites all jobs at each change."""
        async with self._open_store() as store:
            with self._reporting(*(jobs := [make_job("later") for _ in range(many)])):
                await store.add(jobs)
            await anyio.sleep_forever()

    async def live(self) -> None:
        while True:
            self._say(Note(call=next(self._calls)))  # a kill may follow at once: while the store opens
            async with self._open_store() as store:
                self._finished = deque(await store.find(JobQuery(status=FINISHED, limit=1000)))
                async with anyio.create_task_group() as tasks:
                    for _ in range(_TASKS):
                        tasks.start_soon(self._work, store, self._chance.randrange(1, 5))
                self._say(Note(call=next(self._calls)))  # a kill may follow at once: while the store closes

    async def _work(self, store: JobStore, times: int) -> None:
        for _ in range(times):
            await self._chance.choice((self._run, self._run, self._cancel, self._delete))(store)

    async def _add(self, store: JobStore, *containers: ContainerId) -> Sequence[Job]:
        sizes = [self._chance.choice((10, 1000, 20_000)) for _ in range(self._chance.randrange(1, 4))]
        jobs = [make_job(*containers, data={"text": "x" * size}) for size in sizes]
        with self._reporting(*jobs):
            await store.add(jobs)
        return jobs

    async def _run(self, store: JobStore) -> None:
        await self._add(store, "echo", "reverse")
        claims: Sequence[Claim] = ()
        with anyio.move_on_after(_PATIENCE_SECONDS):
            claims = await store.claim(["echo", "reverse"], SEQUENCE, 2)
        for claim in claims:
            goes_on = with_output(claim.job, {"text": "y" * 100}, due="reverse")
            with self._reporting(goes_on):
                await store.save(claim, goes_on)
            await self._chance.choice((self._finish, self._release, self._settle_running, self._hold))(store, claim)

    async def _finish(self, store: JobStore, claim: Claim) -> None:
        done = succeeded(claim.job)
        with self._reporting(done):
            await store.save(claim, done)
        self._finished.append(done.id)

    async def _release(self, store: JobStore, claim: Claim) -> None:
        released = with_output(claim.job, due="echo")
        with self._reporting(released):
            await store.release(claim, released)

    async def _hold(self, store: JobStore, claim: Claim) -> None:
        """Leave the job claimed; the store gives it to a claim again after it is reopened."""

    async def _settle_running(self, store: JobStore, claim: Claim) -> None:
        await self._settle(store, claim.job)

    async def _cancel(self, store: JobStore) -> None:
        for job in await self._add(store, "later"):  # nobody claims this container
            await self._settle(store, job)

    async def _settle(self, store: JobStore, job: Job) -> None:
        self._say(note := Note(call=next(self._calls), jobs=(job.finished(_CANCELLED, time.time()),)))
        settlement = await store.settle(job.id, _CANCELLED, client=None)
        assert settlement is not None, f"settle does not know the job {job.id}, which was reported as kept"
        self._say(replace(note, jobs=(unnumbered(settlement.job),), returned=True))
        self._finished.append(job.id)

    async def _delete(self, store: JobStore) -> None:
        gone = [self._finished.popleft() for _ in range(min(3, len(self._finished)))]
        with self._reporting(gone=gone):
            await store.delete(gone)

    @contextmanager
    def _reporting(self, *jobs: Job, gone: Sequence[JobId] = ()) -> Iterator[None]:
        self._say(note := Note(call=next(self._calls), jobs=jobs, gone=tuple(gone)))
        yield
        self._say(replace(note, returned=True))

    def _say(self, note: Note) -> None:
        self._report(msgspec.json.encode(note))
        self._words += 1
        while self._words == self._stops_after:
            time.sleep(60)  # no other task gets a turn


async def look(store: JobStore, ids: Collection[JobId]) -> Found:
    """Return the ids of all jobs, and the jobs themselves together with those of `ids`."""
    found = await store.find(JobQuery(limit=10**6))
    jobs = await store.get(list(dict.fromkeys([*found, *ids])))
    return Found(ids=found, jobs=[*map(unnumbered, jobs)], pending=(await store.pending()).total)


class Memory:
    """Everything that all lives have reported."""

    def __init__(self) -> None:
        self._kept: dict[JobId, Job | None] = {}
        """Jobs as finished calls left them; None if the job does not exist."""
        self._begun: dict[JobId, dict[int, Job | None]] = {}
        """Possible states after calls that began since, oldest first."""
        self._together: dict[int, Sequence[JobId]] = {}
        """Ids of the jobs of each `add` that has begun and not returned."""

    @property
    def ids(self) -> Collection[JobId]:
        return self._kept.keys()

    def hear(self, line: bytes) -> None:
        note = msgspec.json.decode(line, type=Note)
        states = {**{job.id: job for job in note.jobs}, **dict.fromkeys(note.gone)}
        if note.returned:
            self._together.pop(note.call, None)
        elif states and not states.keys() & self._kept.keys():
            self._together[note.call] = list(states)
        for id, job in states.items():
            self._kept.setdefault(id, None)
            begun = self._begun.setdefault(id, {})
            if not note.returned:
                begun[note.call] = job
            elif note.call in begun:  # otherwise a call that began later has returned before
                self._kept[id] = job
                self._begun[id] = {call: state for call, state in begun.items() if call > note.call}

    def misses(self, found: Found) -> Iterator[str]:
        """Yield a sentence for each error in what was found. From then on, the state that was found must stay."""
        there = {job.id: job for job in found.jobs}
        for id in sorted(self._kept.keys() | there.keys()):
            if id not in self._kept:
                yield f"the job {id} is there, and was never added"
            elif not self._may_be(id, there.get(id)):
                yield f"the job {id} was reported as {_state(self._kept[id])} and is {_state(there.get(id))}"
        for added in self._together.values():
            ids = [id for id in added if len(self._begun[id]) == 1]  # no other task has changed these yet
            if 0 < len(there.keys() & ids) < len(ids):
                yield f"{len(there.keys() & ids)} jobs are there of {len(ids)} that one call adds"
        if set(found.ids) != there.keys():
            yield f"`find` returns {len(found.ids)} jobs and `get` returns {len(there)}"
        unfinished = sum(not job.status.finished for job in there.values())
        if found.pending != unfinished:
            yield f"`pending` counts {found.pending} jobs, and {unfinished} are not finished"
        self._kept = {id: there.get(id) for id in self._kept}
        self._begun, self._together = {}, {}

    def _may_be(self, id: JobId, job: Job | None) -> bool:
        begun: Mapping[int, Job | None] = self._begun.get(id, {})
        known = [_timeless(state) for state in begun.values()]
        return _light(job) == _light(self._kept[id]) or _light(_timeless(job)) in map(_light, known)


def _light(job: Job | None) -> Job | None:
    """Return a job for a comparison: claims leave out all outputs but the last one."""
    return job and job.without_earlier_outputs()


def _timeless(job: Job | None) -> Job | None:
    """Return the job without the time of its end, which the store chooses."""
    return job if job is None else replace(job, finished_at=None)


def _state(job: Job | None) -> str:
    return "gone" if job is None else f"{job.status} after {len(job.steps)} steps"
