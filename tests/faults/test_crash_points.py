"""A crash at every point of a job's life: answers stay true, and stored steps are not repeated.

A scenario runs once to record the node's calls of its table and its containers. Then it runs once per point: before,
during and after each of these calls. The process crashes there, and new nodes on the same data go on.
"""

import logging
from collections import Counter
from collections.abc import Awaitable, Callable, Mapping, Sequence
from contextlib import nullcontext
from itertools import count
from pathlib import Path
from typing import Any, Self, TypeAlias

import anyio
import pytest
from chance import each_run
from components import PATIENCE_SECONDS, SwitchRunner
from msgspec.structs import replace

from nodekit import (
    ClientLimits,
    Container,
    ContainerFailed,
    ContainerOutput,
    EmbeddedStore,
    Event,
    Job,
    JobFinished,
    JobId,
    JobQuery,
    JobRequest,
    JobStatus,
    JobTable,
    Node,
    NodeLimits,
    Retry,
    Step,
    decode_payload,
    encode_payload,
)
from nodekit.testing import Faults, Point, VirtualClock
from nodekit_memory import MemoryTable
from nodekit_sqlite import SqliteTable

pytestmark = [pytest.mark.anyio, pytest.mark.usefixtures("quiet")]

one_event_loop = pytest.mark.parametrize("anyio_backend", each_run(["asyncio"], ["asyncio", "trio"]))
"""Backends: both only for the store in memory; a crash looks the same to the others."""

TABLE_CALLS = ("enter", "unfinished", "add", "save", "get", "find")
HOUR_SECONDS = 3600

CONTAINERS = [
    Container(id="one"),
    Container(id="two"),
    Container(id="flaky", retry=Retry(attempts=2, first_delay_seconds=0)),
    Container(id="broken"),
    Container(id="held", concurrency=1),
]
PATHS = {
    "keyed": ("one", "two"),
    "long": ("one", "two", "one"),
    "retried": ("flaky", "two"),
    "failing": ("one", "broken", "two"),
    "running": ("held",),
    "queued": ("held", "one"),
}
"""The containers of the scenario's jobs."""
CANCELLED = ("queued", "running")


def asked(name: str) -> JobRequest:
    key = name if name == "keyed" else None
    data = encode_payload({"name": name, "n": 0})
    return JobRequest(containers=PATHS.get(name, ("one",)), data=data, client="alice", idempotency_key=key)


def name_of(job: Job) -> str:
    return str(decode_payload(job.request.data)["name"])


@pytest.fixture
def quiet(caplog: pytest.LogCaptureFixture) -> None:
    """Silence the log: a node whose process has crashed reports it again and again."""
    caplog.set_level(logging.CRITICAL, logger="nodekit")


# -- what is recorded ------------------------------------------------------------------------------


class Ledger:
    """A table that records what it kept, in every life: the arguments of `add` and `save`."""

    def __init__(self, table: JobTable, kept: dict[JobId, Job], changed: list[str]) -> None:
        self._table = table
        self._kept = kept
        self._changed = changed

    async def __aenter__(self) -> "Ledger":
        await self._table.__aenter__()
        return self

    async def __aexit__(self, *error: Any) -> None:
        await self._table.__aexit__(*error)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._table, name)

    async def add(self, jobs: Sequence[Job]) -> list[Job]:
        kept = await self._table.add(jobs)
        for job in kept:
            self._kept.setdefault(job.id, job)
        return kept

    async def save(self, job: Job) -> None:
        await self._table.save(job)
        before = self._kept[job.id]
        if before.status.finished and before != job:
            self._changed.append(f"{name_of(job)}: {before.status}, then {job.status}")
        self._kept[job.id] = job.over(before)


class Services:
    """The containers; they live on when a node dies."""

    def __init__(self) -> None:
        self.calls: list[tuple[str, int]] = []
        self.held = anyio.Event()
        self.let_go = anyio.Event()

    def runner(self) -> SwitchRunner:
        return SwitchRunner(*CONTAINERS, run=self.run)

    async def run(self, step: Step) -> ContainerOutput:
        self.calls.append((step.idempotency_key, step.attempt))
        await anyio.lowlevel.checkpoint()
        if step.container == "held":
            self.held.set()
            await self.let_go.wait()
        if step.container == "flaky" and step.attempt == 1:
            raise ContainerFailed("status", "busy", status=503)
        if step.container == "broken":
            raise ContainerFailed("status", "broken", status=400)
        data = decode_payload(step.input.data)
        output = encode_payload({**data, "n": data["n"] + 1})
        return ContainerOutput(container=step.container, output=output, instance="service")


class Witness:
    """A plugin that records how jobs end."""

    def __init__(self) -> None:
        self.finished: list[Job] = []

    def nodekit_observe(self, event: Event) -> None:
        if isinstance(event, JobFinished):
            self.finished.append(event.job)


class Client:
    """A client that records its answers."""

    def __init__(self) -> None:
        self.given: dict[str, JobId] = {}
        self.cancelled: set[JobId] = set()
        self.answers: list[Job] = []

    async def submit(self, node: Node, *names: str) -> None:
        jobs = await node.submit_many([asked(name) for name in names])
        for name, job in zip(names, jobs, strict=True):
            assert isinstance(job, Job), f"{name} was not taken: {job!r}"
            assert self.given.get(name, job.id) == job.id, f"{name} was submitted again and got another id"
            newest = max((id for other, id in self.given.items() if other != "keyed"), default="")
            assert name == "keyed" or job.id > newest, f"the id of {name} is below one that was given before"
            self.given[name] = job.id
            self.answers.append(job)

    async def cancel(self, node: Node, name: str) -> None:
        job = await node.cancel(self.given[name], client="alice")
        assert job is not None
        self.answers.append(job)
        if job.status is JobStatus.CANCELLED:
            self.cancelled.add(job.id)

    async def fetch(self, node: Node) -> None:
        ids = list(self.given.values())
        jobs = await node.fetch(ids, client="alice")
        assert [job.id for job in jobs] == ids, "an id that was given out is unknown"
        self.answers += jobs

    async def wait(self, node: Node, ids: Sequence[JobId]) -> None:
        with anyio.fail_after(PATIENCE_SECONDS):
            self.answers += await node.wait(ids, client="alice")


# -- a world in which processes crash --------------------------------------------------------------


class World:
    """One set of data, and the nodes that use it one after the other."""

    def __init__(self, table: Callable[[], JobTable], *, clock_goes_back: bool = False) -> None:
        self._table = table
        self._clock_goes_back = clock_goes_back
        self.kept: dict[JobId, Job] = {}
        self.changed: list[str] = []
        """Jobs that were saved after they had finished."""
        self.services = Services()
        self.witness = Witness()
        self.client = Client()
        self.faults: list[Faults] = []

    def node(self, faults: Faults) -> Node:
        ledger: Any = Ledger(self._table(), self.kept, self.changed)
        return Node(
            store=EmbeddedStore(faults.around(ledger)),
            runners=[faults.around(self.services.runner())],
            plugins=[self.witness],
            limits=NodeLimits(concurrency=4, each_client=ClientLimits(concurrency=4)),
        )

    async def live(self, *crashes: Point) -> None:
        """Run a node that crashes at each of these points, then one that does not; then check everything."""
        for number, crash in enumerate([*crashes, None] if crashes else [None, None]):
            with VirtualClock() if number and self._clock_goes_back else nullcontext() as clock:
                if clock:
                    clock.jump(-HOUR_SECONDS)
                await self.one_life(self.recover if number else self.begin, crash)
        await self.check_jobs()

    async def one_life(self, use: Callable[[Node], Awaitable[None]], crash: Point | None) -> None:
        self.faults.append(faults := Faults())
        if crash is not None:
            faults.at(crash).crash()
        stored = {key for job in self.kept.values() for key in stored_steps(job)}
        attempts = {key: number for job in self.kept.values() for key, number in stored_attempts(job).items()}
        earlier = len(self.services.calls)
        await faults.run(self.node(faults), use)
        self.check_calls(self.services.calls[earlier:], stored, attempts)

    async def begin(self, node: Node) -> None:
        client = self.client
        await client.submit(node, "keyed")
        await client.submit(node, "keyed")
        await client.submit(node, "long", "retried", "failing")
        await client.submit(node, "running")
        await self.services.held.wait()
        await client.submit(node, "queued")
        await client.fetch(node)
        for name in CANCELLED:
            await client.cancel(node, name)
        await client.wait(node, list(client.given.values()))
        await client.fetch(node)

    async def recover(self, node: Node) -> None:
        client = self.client
        self.services.let_go.set()
        known = await node.find()
        assert {*client.given.values()} <= {*known}, "an id that was given out is not listed"
        await client.fetch(node)
        await client.submit(node, "keyed")
        name = f"later {len(self.faults)}"
        await client.submit(node, name)
        assert all(client.given[name] > id for id in known), "an id is below one that is in the store"
        await client.wait(node, await node.find())
        for name in CANCELLED:
            if name in client.given:
                await client.cancel(node, name)
        await client.fetch(node)

    # -- what has to be right ---------------------------------------------------------------------

    def check_calls(self, calls: Sequence[tuple[str, int]], stored: set[str], attempts: Mapping[str, int]) -> None:
        """Check the calls of one node against the results and attempts stored before it started."""
        again = [key for key, _ in calls if key in stored]
        assert again == [], "a step was called again although its result was stored before the crash"
        assert len(set(calls)) == len(calls), "a node made the same attempt twice"
        late = [key for key, attempt in calls if attempt <= attempts.get(key, 0)]
        assert late == [], "an attempt that was stored was made again"

    async def check_jobs(self) -> None:
        async with self._table() as table:
            jobs = {job.id: job for job in await table.get(await table.find(JobQuery(limit=1000)))}
        assert self.changed == [], "a job was finished, and finished again otherwise"
        assert jobs == self.kept, "the table holds something else than it has kept"
        names = Counter(map(name_of, jobs.values()))
        assert set(names.values()) == {1}, f"there are two of a job: {names}"
        for job in jobs.values():
            self.check_end(job)
        for told in (*self.client.answers, *self.witness.finished):
            assert told.id in jobs, f"{name_of(told)} was answered and is gone"
            if told.status.finished:
                same = told.without_earlier_outputs() == jobs[told.id].without_earlier_outputs()
                assert same, f"{name_of(told)} ended otherwise than was answered"
            assert stored_steps(told) <= stored_steps(jobs[told.id]), f"{name_of(told)} lost results that were answered"

    def check_end(self, job: Job) -> None:
        name = name_of(job)
        assert job.request == asked(name)
        expected = {JobStatus.FAILED if name == "failing" else JobStatus.SUCCESS}
        if name in CANCELLED:
            expected = {JobStatus.CANCELLED} if job.id in self.client.cancelled else {*expected, JobStatus.CANCELLED}
        assert job.status in expected, f"{name} ended as {job.status}"
        if job.status is JobStatus.SUCCESS:
            assert isinstance(job.result, ContainerOutput)
            assert job.result.value == {"name": name, "n": len(job.request.containers)}
        if name == "retried":
            assert [attempt.kind for attempt in job.steps[0].attempts] == ["status", None]


def stored_steps(job: Job) -> set[str]:
    """Return the idempotency keys of steps that have a result."""
    return {f"{job.id}:{index}" for index, record in enumerate(job.steps) if record.result is not None}


def stored_attempts(job: Job) -> dict[str, int]:
    """Return the number of stored attempts of each step, by idempotency key."""
    return {f"{job.id}:{index}": len(record.attempts) for index, record in enumerate(job.steps)}


# -- every point -----------------------------------------------------------------------------------

NewWorld: TypeAlias = Callable[[], World]


async def points(new_world: NewWorld, *first: Point) -> list[Point]:
    """Return the points at which a node can crash after these crashes."""
    world = new_world()
    await world.live(*first)
    faults = world.faults[len(first)]
    return [*faults.points(*TABLE_CALLS), *faults.points("run", moments=["before", "during", "after"])]


async def what_is_wrong(world: World, *crashes: Point) -> str:
    """Return the error after these crashes; it must be empty."""
    try:
        await world.live(*crashes)
    except (AssertionError, TimeoutError, ExceptionGroup) as error:
        return f"{', then '.join(map(str, crashes))}: {error!r}"
    return ""


async def crash_everywhere(new_world: NewWorld, *first: Point, at_once: int = 1) -> tuple[list[str], int]:
    """Crash at each point after these crashes; return the errors, and the number of points not reached."""
    wrong: list[str] = []
    missed: list[Point] = []
    limiter = anyio.CapacityLimiter(at_once)

    async def crash(point: Point) -> None:
        async with limiter:
            wrong.append(await what_is_wrong(world := new_world(), *first, point))
            if not world.faults[len(first)].crashed:
                missed.append(point)

    async with anyio.create_task_group() as tasks:
        for point in await points(new_world, *first):
            tasks.start_soon(crash, point)
    return [text for text in wrong if text], len(missed)


def in_memory(table: JobTable | None = None, *, clock_goes_back: bool = False) -> World:
    """Make a world whose table is the same object for each node."""
    kept = table or MemoryTable()
    return World(lambda: kept, clock_goes_back=clock_goes_back)


async def test_there_is_a_point_at_every_call_of_the_scenario() -> None:
    found = await points(in_memory)
    assert {str(point) for point in found} >= {
        "before enter 1", "after enter 2", "after unfinished 1", "before add 1", "after add 4", "before save 1",
        "after save 12", "after get 3", "after find 3", "before run 1", "during run 5", "after run 11",
    }  # fmt: skip


async def test_a_crash_anywhere_contradicts_no_answer_and_repeats_no_stored_step() -> None:
    wrong, missed = await crash_everywhere(lambda: in_memory(clock_goes_back=True))
    assert wrong == []
    assert missed < 20  # concurrent calls do not come in the same order each time


@one_event_loop
async def test_a_crash_anywhere_on_sqlite_contradicts_no_answer_and_repeats_no_stored_step(tmp_path: Path) -> None:
    numbers = count()

    def on_disk() -> World:
        path = tmp_path / f"{next(numbers)}.db"
        return World(lambda: SqliteTable(path, synchronous="NORMAL"))

    wrong, missed = await crash_everywhere(on_disk, at_once=10)
    assert wrong == []
    assert missed < 20


@one_event_loop
@pytest.mark.parametrize("first", [Point("after", "add", 2), Point("during", "run", 4)], ids=str)
async def test_a_crash_anywhere_after_a_crash_does_no_more_harm(first: Point) -> None:
    wrong, missed = await crash_everywhere(in_memory, first)
    assert wrong == []
    assert missed < 20


# -- it can fail -----------------------------------------------------------------------------------


class Reopened(MemoryTable):
    """A table that behaves differently when it is opened for the second time, after the first crash."""

    def __init__(self) -> None:
        super().__init__()
        self._opened = 0

    async def __aenter__(self) -> Self:
        self._opened += 1
        if self._opened == 2:
            self.reopen()
        return self

    def reopen(self) -> None:
        raise NotImplementedError


class ForgetsTheLastSave(Reopened):
    _before: Job | None = None

    async def save(self, job: Job) -> None:
        self._before = self._jobs[job.id]
        await super().save(job)

    def reopen(self) -> None:
        if self._before:
            self._jobs[self._before.id] = self._before


class AcknowledgesBeforeItKeeps(Reopened):
    """Keeps the last add only in memory."""

    _last: Sequence[Job] = ()

    async def add(self, jobs: Sequence[Job]) -> list[Job]:
        self._last = await super().add(jobs)
        return [*self._last]

    def reopen(self) -> None:
        for job in self._last:
            self._jobs.pop(job.id, None)
            self._ids = {client: [id for id in ids if id != job.id] for client, ids in self._ids.items()}
            self._keys.clear()


class ForgetsSteps(Reopened):
    def reopen(self) -> None:
        for job in self._jobs.values():
            if not job.status.finished:
                self._jobs[job.id] = replace(job, steps=(), due=job.request.containers[0])


class ForgetsFailedAttempts(Reopened):
    def reopen(self) -> None:
        for job in self._jobs.values():
            if job.steps and job.steps[-1].result is None:
                self._jobs[job.id] = replace(job, steps=job.steps[:-1])


class ForgetsKeys(Reopened):
    def reopen(self) -> None:
        self._keys.clear()

    async def find(self, query: JobQuery) -> list[JobId]:
        hidden = query.idempotency_key is not None and self._opened > 1
        return [] if hidden else await super().find(query)


class RevivesFinishedJobs(Reopened):
    def reopen(self) -> None:
        for job in self._jobs.values():
            if job.status is JobStatus.CANCELLED:
                due = job.request.containers[0]
                self._jobs[job.id] = replace(job, status=JobStatus.ACCEPTED, outcome=None, finished_at=None, due=due)


class HidesTheNewest(Reopened):
    """Hides the newest id from the node, so that the next id is below it when the clock goes back."""

    def reopen(self) -> None:
        pass

    async def find(self, query: JobQuery) -> list[JobId]:
        return [] if query.after else await super().find(query)


@one_event_loop
@pytest.mark.parametrize(
    ("table", "point", "words"),
    [
        (ForgetsTheLastSave, Point("after", "save", 3), "again"),  # a step, or an attempt: whose save is the third
        (AcknowledgesBeforeItKeeps, Point("after", "get", 1), "an id that was given out is not listed"),
        (ForgetsSteps, Point("after", "save", 5), "called again although its result was stored"),
        (ForgetsFailedAttempts, Point("before", "save", 9), "an attempt that was stored was made again"),
        (ForgetsKeys, Point("after", "get", 1), "was submitted again and got another id"),
        (RevivesFinishedJobs, Point("after", "get", 7), "finished again otherwise"),
        (HidesTheNewest, Point("after", "get", 1), "an id is below one that is in the store"),
    ],
)
async def test_what_a_crash_breaks_is_found(table: type[Reopened], point: Point, words: str) -> None:
    assert words in await what_is_wrong(in_memory(table(), clock_goes_back=True), point)
