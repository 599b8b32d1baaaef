"""The node's private loop: claims jobs and has them run. Every store uses this one code path.

Execution is at least once, completion exactly once: a step whose result was stored is never run again.
"""

import logging
from collections.abc import Awaitable, Callable, Collection, Iterator, KeysView, Sequence, Set
from typing import TypeVar, cast

import anyio
from anyio.abc import TaskGroup, TaskStatus
from msgspec.structs import replace

from nodekit.concurrency.budget import COPIES, Budget, Reservation, current
from nodekit.concurrency.scopes import cancel_scope
from nodekit.concurrency.signal import Signal
from nodekit.concurrency.tasks import Tasks
from nodekit.errors import Unavailable
from nodekit.execution.container_calls import Around, Calls
from nodekit.execution.descriptors import descriptor_share
from nodekit.execution.held_slots import HeldSlots
from nodekit.execution.job_runs import LONGEST_PAUSE_SECONDS, Runs
from nodekit.execution.job_stream import JobStream
from nodekit.execution.run import Run, RunContext
from nodekit.execution.slots import Slots
from nodekit.execution.stream_runs import StreamRun, StreamRuns
from nodekit.execution.stream_slots import StreamSlots
from nodekit.execution.suspects import Suspects
from nodekit.execution.transitions import Progress
from nodekit.interfaces.component_calls import Running, is_fault, named, said, unexpected
from nodekit.interfaces.runner import ContainerRunner
from nodekit.interfaces.store import Claim, JobStore
from nodekit.interfaces.store_abilities import EndingStore
from nodekit.model.container import ContainerId, GroupId, JobId
from nodekit.model.counting import counted
from nodekit.model.events import Event, JobAccepted, JobFinished
from nodekit.model.job import Job
from nodekit.model.limits import NodeLimits, SlotShares

logger = logging.getLogger("nodekit.executor")

EXPIRED_AT_ONCE = 256
CLAIMED_PART = 16
"""Fraction of the budget that is kept free for jobs that are about to be claimed."""

T = TypeVar("T")


class Executor:
    """The loop that runs as many jobs at once as there are slots."""

    _tasks: TaskGroup | None = None
    running: int
    """Number of jobs that run right now."""

    def __init__(
        self,
        *,
        store: JobStore,
        runners: Sequence[ContainerRunner],
        running: Running,
        progress: Progress,
        limits: NodeLimits,
        random: Callable[[], float],
        refresh: Callable[[], Awaitable[object]] | None,
        emit: Callable[[Event], None],
        observed: bool = True,
        around: Around | None = None,
        budget: Budget,
        report_running: Callable[[], None],
    ) -> None:
        """`report_running` is called whenever other containers may run. `refresh` looks at the other nodes, if any."""
        self._store, self._runners, self._pipelines = store, runners, progress.claimed
        self._emit, self._look, self._report_running = emit, running, report_running
        self._budget, self._claim_bytes = budget, budget.total // CLAIMED_PART
        calls, self._monotonic = Calls(runners, around, progress.clock), progress.clock.monotonic
        self.containers = calls.containers
        self._slots = Slots(calls.containers, limits.concurrency, list(_pools(runners)))
        self._limits, self._held = limits, HeldSlots(SlotShares(limits))
        self._claiming: tuple[anyio.CancelScope, KeysView[ContainerId], bool, Set[GroupId]] | None = None
        self.suspects = Suspects(limits.max_takeovers)
        self._draining, self._changed, self.running = False, Signal(), 0
        self.under_way: dict[JobId, tuple[float, int, int, str]] = {}
        """The calls that are under way, by job, see `RunContext`."""
        self.problems = running.problems
        """Reasons why jobs do not progress right now, by what fails."""
        self._stream_slots = StreamSlots(self._slots, self._held, self._reconsider)
        context = RunContext(
            store=store,
            calls=calls,
            progress=progress,
            suspects=self.suspects,
            random=random,
            refresh=refresh,
            slots=self._slots,
            changed=self._reconsider,
            look=self._look_at_runners,
            problems=self.problems,
            stops=self._stops,
            unsaved=set(),
            emit=emit,
            emit_started=emit if observed else None,
            under_way=self.under_way,
        )
        self._runs, self._stream_runs = Runs[Run](context), StreamRuns(context, self._stream_slots)

    async def run(self, *, task_status: "TaskStatus[None]") -> None:
        """Claim and run jobs until drained. Cancellation gives the running jobs back to the store."""
        self._mind_descriptors()
        self._look_at_runners()
        async with anyio.create_task_group() as tasks:
            self._tasks, runs = tasks, Tasks(tasks)
            for name, runner in named("runners", self._runners):
                tasks.start_soon(self._watch, name, runner)
            tasks.start_soon(self._look_again)
            tasks.start_soon(self._expire)
            if hasattr(self._store, "ended"):
                tasks.start_soon(self._emit_ended, cast(EndingStore, self._store))
            task_status.started()
            while not self._draining:
                with self._budget.reservation() as memory:
                    self._begin(runs, await self._claim(memory))
            await self.drained()
            tasks.cancel_scope.cancel()

    def _begin(self, tasks: Tasks, claims: Sequence[Claim]) -> None:
        """Begin the runs of claimed jobs. Nothing here refers to them afterwards: they may be large."""
        for claim in claims:
            self.running += 1
            self._slots.free -= 1
            if claim.takeovers:
                self.suspects.begin(claim)
            held = claim.job.due if self._slots.take(claim.job.due) else None
            run = Run(claim, self._monotonic, self._memory(claim), held)
            self._held.take(run.group)
            tasks.start(self._run, run)

    def drain(self, taken_over: Callable[[ContainerId, str], bool]) -> None:
        """Claim no more jobs; `run` ends with the last running job.

        After a step, a job goes on elsewhere if `taken_over` says that another node runs its container and knows its
        pipeline.
        """
        self._draining = True
        self._runs.hand_over(taken_over)
        self._reconsider()

    async def _stops(self, seconds: float) -> bool:
        """Return True if the executor drains, now or within some seconds."""
        with anyio.move_on_after(seconds):
            while not self._draining:
                await self._changed.wait()
        return self._draining

    async def drained(self) -> None:
        """Wait until nothing is running."""
        while self.running:
            await self._changed.wait()

    def _memory(self, claim: Claim) -> Reservation:
        """Return a reservation of the payloads of a job, which are in memory already."""
        memory = self._budget.for_job(claim.job.group)
        memory.add(COPIES * claim.job.payload_bytes)
        return memory

    async def _run(self, run: Run) -> None:
        current.set(run.memory)
        try:
            await self._runs.go_on(run)
        finally:
            run.memory.release()
            self._slots.give_back(run.held)
            self._slots.free += 1
            self._held.give_back(run.group)
            self.running -= 1
            self.suspects.end(run.claim)
            self._reconsider()

    # -- streams ----------------------------------------------------------------------------------

    def stream(self, job: Job, asked: Callable[[], None]) -> JobStream:
        """Store an admitted job and run it for the reader of the stream. The job ends if its reader leaves.

        `asked` is called right before the store is asked to add the job. Once the job is stored, `JobAccepted` is
        emitted, even if no reader is left. Raise `Unavailable` while the executor drains.
        """
        if self._tasks is None or self._draining:  # draining may have begun after the job was admitted
            raise Unavailable("the node is draining", retry_after_seconds=1)
        stream = JobStream(job)
        self.running += 1
        self._tasks.start_soon(self._stream, stream, asked)
        return stream

    async def _stream(self, stream: JobStream, asked: Callable[[], None]) -> None:
        run: StreamRun | None = None
        try:
            asked()
            with anyio.CancelScope(shield=True):  # without it, a job might be stored that nobody runs and nobody ends
                claim = await self._store.add_claimed(stream.job)
                run = StreamRun(claim, self._monotonic, self._memory(claim), stream)
            assert run is not None
            current.set(run.memory)
            self._emit(JobAccepted(run.job))
            stream.accept()
            await self._stream_runs.go_on(run)
        except Exception as error:  # from the store: the job was not accepted
            stream.refuse(error)
        finally:
            if run is None:
                stream.refuse(Unavailable("the node has stopped meanwhile", retry_after_seconds=1))
            stream.end(run.stored_job if run else stream.job, streamed=run is not None and run.streamed)
            if run is not None:
                stream.when_read(run.memory.release)
            self.running -= 1
            self._reconsider()

    # -- what runs --------------------------------------------------------------------------------

    def _mind_descriptors(self) -> None:
        """Limit steps to the free descriptors; the rest is queued.

        A step takes one descriptor, except in a runner that declares `in_process`.
        """
        share = descriptor_share()
        outside = [id for r in self._runners if not getattr(r, "in_process", False) for id in r.containers]
        if share is not None and outside:
            self._slots.limit(outside, share)
            if len(outside) == len(self.containers):
                self._held.shares = SlotShares(self._limits, share)
            if share < self._slots.free:
                logger.warning(
                    "only %s at once, for lack of descriptors; allow more by ulimit -n",
                    counted(share, "step", "runs", "run"),
                )

    async def _watch(self, name: str, runner: ContainerRunner) -> None:
        async def look_after_change() -> None:
            await runner.changed()
            self._look_at_runners()

        while True:
            await self._attempt(
                f"{name}.changed", f"{name} fails to report which containers run", look_after_change, None
            )

    async def _look_again(self) -> None:
        """Look at the runners after a pause while one fails to answer. Nothing reports when it answers again."""
        while True:
            if not self._look.silent:
                await self._look.broke.wait()
            await anyio.sleep(LONGEST_PAUSE_SECONDS)
            self._look_at_runners()

    def _look_at_runners(self) -> None:
        self._slots.set_running(self._look.look())
        self._reconsider()
        self._report_running()

    def set_elsewhere(self, elsewhere: Set[ContainerId]) -> None:
        """Set the containers that run on other nodes, so that jobs need not fail because they are down here."""
        self._slots.set_elsewhere(elsewhere)
        self._reconsider()

    # -- claiming ---------------------------------------------------------------------------------

    async def _claim(self, memory: Reservation) -> Sequence[Claim]:
        """Wait for jobs and claim them. Their payloads have as much room together as `memory` holds at the end."""
        containers, limit = self._slots.open, self._slots.at_most
        if not containers or limit < 1:
            await self._changed.wait()
            return ()
        with cancel_scope() as scope:
            suspects, room = self.suspects.welcome, self._held.room(limit, self._claim_bytes // COPIES)
            heavy = self._heavy()
            room = replace(room, groups={**room.groups, **dict.fromkeys(heavy, 0)}) if heavy else room
            self._claiming = scope, containers, suspects, frozenset(self._held.full | heavy)
            none: list[Claim] = []
            try:
                await memory.grow(self._claim_bytes)
                return await self._attempt(
                    "claim",
                    "the store fails to give jobs to run",
                    lambda: self._store.claim(list(containers), self._pipelines, limit, suspects=suspects, room=room),
                    none,
                )
            finally:
                self._claiming = None
        return ()

    def _heavy(self) -> set[GroupId]:
        """Return the groups whose running jobs have as much memory as they may."""
        if self._budget.reserved < self._budget.total // 2:
            return set()
        return {group for group in self._held.groups if self._budget.has_its_share(group)}

    def _reconsider(self) -> None:
        """Hand out free slots and wake waiters. Cancel the current claim if the change affects which jobs it would
        return.
        """
        granted = self._stream_slots.grant()
        self._changed.set()
        if self._claiming is not None:
            scope, containers, suspects, full = self._claiming
            open = self._slots.open
            changed = (containers is not open and containers != open) or suspects != self.suspects.welcome
            if self._draining or granted or changed or not self._held.full | self._heavy() >= full:
                scope.cancel()

    async def _expire(self) -> None:
        """Fail jobs whose time ran out while they waited."""
        none: Sequence[Claim] = ()
        while True:
            text = "the store fails to give the jobs that have waited too long"
            claims = await self._attempt("expire", text, self._claim_expired, none)
            async with anyio.create_task_group() as tasks:
                for claim in claims:
                    tasks.start_soon(self._fail_expired, Run(claim, self._monotonic, self._memory(claim)))

    async def _claim_expired(self) -> Sequence[Claim]:
        return await self._store.claim_expired(EXPIRED_AT_ONCE, most_bytes=self._claim_bytes // COPIES)

    async def _fail_expired(self, run: Run) -> None:
        with run.memory:
            await self._runs.fail_expired(run)

    async def _emit_ended(self, store: EndingStore) -> None:
        """Emit the end of jobs that the store has ended by itself."""
        none: Sequence[Job] = ()
        text = "the store fails to give the jobs that it has ended"
        while True:
            for job in await self._attempt("ended", text, store.ended, none):
                self._emit(JobFinished(job))

    async def _attempt(self, name: str, text: str, call: Callable[[], Awaitable[T]], otherwise: T) -> T:
        """Return the answer of a component, or `otherwise` after a pause if it fails.

        A failure is listed in `problems` until the same call succeeds, or waits for as long as the pause before it. A
        call that waits for jobs may have nothing to return for days.
        """
        waits = self._forgiving(name) if name in self.problems else None
        try:
            try:
                answer = await call()
            finally:
                if waits is not None:
                    waits.cancel()
        except BaseException as error:
            if not is_fault(error):
                raise
            self.problems[name] = f"{text}: {said(error)}"
            problem = self.problems[name]
            logger.error("%s; trying again in %g s", problem, LONGEST_PAUSE_SECONDS, exc_info=unexpected(error))
            await anyio.sleep(LONGEST_PAUSE_SECONDS)
            return otherwise
        self.problems.pop(name, None)
        return answer

    def _forgiving(self, name: str) -> anyio.CancelScope:
        """Drop a problem while the call that had it waits. Cancel the returned scope when the call has ended."""
        waits = anyio.CancelScope()
        if self._tasks is not None:
            self._tasks.start_soon(self._forgive, name, waits)
        return waits

    async def _forgive(self, name: str, waits: anyio.CancelScope) -> None:
        with waits:
            await anyio.sleep(LONGEST_PAUSE_SECONDS)
            self.problems.pop(name, None)


def _pools(runners: Sequence[ContainerRunner]) -> Iterator[tuple[Collection[ContainerId], int]]:
    """Yield the containers and the limit of each `PooledRunner` that sets one."""
    for runner in runners:
        limit: int | None = getattr(runner, "concurrency", None)
        if limit is not None:
            yield runner.containers, limit
