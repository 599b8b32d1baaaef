"""The node's private loop: claims jobs and has them run. Every store uses this one code path.

Execution is at least once, completion exactly once: a step whose result was stored is never run again.
"""

import logging
from collections.abc import Awaitable, Callable, Collection, Iterator, Sequence, Set
from contextlib import contextmanager
from typing import TypeVar, cast

import anyio
from anyio.abc import TaskGroup, TaskStatus

from nodekit.concurrency.signal import Signal
from nodekit.errors import Unavailable
from nodekit.execution.container_calls import Around, Calls
from nodekit.execution.descriptors import descriptor_share
from nodekit.execution.job_runs import LONGEST_PAUSE_SECONDS, Run, RunContext, Runs
from nodekit.execution.job_stream import JobStream
from nodekit.execution.slots import Slots
from nodekit.execution.stream_runs import StreamRun, StreamRuns
from nodekit.execution.stream_slots import StreamSlots
from nodekit.execution.suspects import Suspects
from nodekit.execution.transitions import Progress
from nodekit.interfaces.component_calls import Running, is_fault, named, said
from nodekit.interfaces.runner import ContainerRunner
from nodekit.interfaces.store import Claim, EndingStore, JobStore
from nodekit.model.container import ContainerId, JobId
from nodekit.model.events import Event, JobAccepted, JobFinished
from nodekit.model.job import Job
from nodekit.model.limits import NodeLimits

logger = logging.getLogger("nodekit.executor")

EXPIRED_AT_ONCE = 256

T = TypeVar("T")


class Executor:
    """The loop that runs as many jobs at once as there are slots."""

    def __init__(
        self,
        *,
        store: JobStore,
        runners: Sequence[ContainerRunner],
        running: Running,
        progress: Progress,
        limits: NodeLimits,
        refresh: Callable[[], Awaitable[object]] | None,
        emit: Callable[[Event], None],
        observed: bool = True,
        around: Around | None = None,
        report_running: Callable[[], None],
    ) -> None:
        """`report_running` is called whenever other containers may run. `refresh` looks at the other nodes, if any."""
        self._store, self._runners, self._pipelines = store, runners, progress.claimed
        self._emit, self._look, self._report_running = emit, running, report_running
        calls = Calls(runners, around, progress.clock)
        self.containers = calls.containers
        self._slots = Slots(calls.containers, limits.concurrency, list(_pools(runners)))
        self._claiming: tuple[anyio.CancelScope, frozenset[ContainerId], bool] | None = None
        self._draining = False
        self.suspects = Suspects(limits.max_takeovers)
        self.running = 0
        """Number of jobs that run right now."""
        self._changed = Signal()
        self.under_way: dict[JobId, tuple[float, int, int, str]] = {}
        """The calls that are under way, by job, see `RunContext`."""
        self.problems = running.problems
        """Reasons why jobs do not progress right now, by what fails."""
        self._stream_slots = StreamSlots(self._slots, self._reconsider)
        self._tasks: TaskGroup | None = None
        context = RunContext(
            store=store,
            calls=calls,
            progress=progress,
            suspects=self.suspects,
            refresh=refresh,
            slots=self._slots,
            changed=self._reconsider,
            look=self._look_at_runners,
            problems=self.problems,
            unsaved=set(),
            emit=emit,
            emit_started=emit if observed else None,
            under_way=self.under_way,
        )
        self._runs: Runs[Run] = Runs(context)
        self._stream_runs = StreamRuns(context, self._stream_slots)

    async def run(self, *, task_status: "TaskStatus[None]") -> None:
        """Claim and run jobs until drained. Cancellation gives the running jobs back to the store."""
        self._mind_descriptors()
        self._look_at_runners()
        async with anyio.create_task_group() as tasks:
            self._tasks = tasks
            for name, runner in named("runners", self._runners):
                tasks.start_soon(self._watch, name, runner)
            tasks.start_soon(self._look_again)
            tasks.start_soon(self._expire)
            if hasattr(self._store, "ended"):
                tasks.start_soon(self._emit_ended, cast(EndingStore, self._store))
            task_status.started()
            while not self._draining:
                for claim in await self._claim():
                    self.running += 1
                    self._slots.free -= 1
                    if claim.takeovers:
                        self.suspects.begin(claim)
                    held = claim.job.due if self._slots.take(claim.job.due) else None
                    tasks.start_soon(self._run, Run(claim, held))
            await self.drained()
            tasks.cancel_scope.cancel()

    def drain(self) -> None:
        """Claim no more jobs; `run` ends with the last running job."""
        self._draining = True
        self._reconsider()

    async def drained(self) -> None:
        """Wait until nothing is running."""
        while self.running:
            await self._changed.wait()

    async def _run(self, run: Run) -> None:
        try:
            await self._runs.go_on(run)
        finally:
            self._slots.give_back(run.held)
            self._slots.free += 1
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
                run = StreamRun(await self._store.add_claimed(stream.job), stream)
            assert run is not None
            self._emit(JobAccepted(run.job))
            stream.accept()
            await self._stream_runs.go_on(run)
        except Exception as error:  # from the store: the job was not accepted
            stream.refuse(error)
        finally:
            if run is None:
                stream.refuse(Unavailable("the node has stopped meanwhile", retry_after_seconds=1))
            stream.end(run.job if run else stream.job, streamed=run is not None and run.streamed)
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
            if share < self._slots.free:
                logger.warning("at most %d steps run at once, for lack of descriptors; allow more by ulimit -n", share)

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

    async def _claim(self) -> Sequence[Claim]:
        containers, limit = self._slots.open, self._slots.at_most
        if not containers or limit < 1:
            await self._changed.wait()
            return ()
        with anyio.CancelScope() as scope:
            suspects = self.suspects.welcome
            self._claiming = scope, containers, suspects
            none: list[Claim] = []
            try:
                return await self._attempt(
                    "claim",
                    "the store fails to give jobs to run",
                    lambda: self._store.claim(containers, self._pipelines, limit, suspects=suspects),
                    none,
                )
            finally:
                self._claiming = None
        return ()

    def _reconsider(self) -> None:
        """Hand out free slots and wake waiters. Cancel the current claim if the change affects which jobs it would
        return.
        """
        granted = self._stream_slots.grant()
        self._changed.set()
        if self._claiming is not None:
            scope, containers, suspects = self._claiming
            changed = containers != self._slots.open or suspects != self.suspects.welcome
            if self._draining or granted or changed:
                scope.cancel()

    async def _expire(self) -> None:
        """Fail jobs whose time ran out while they waited."""
        none: list[Claim] = []
        while True:
            text = "the store fails to give the jobs that have waited too long"
            claims = await self._attempt("expire", text, lambda: self._store.claim_expired(EXPIRED_AT_ONCE), none)
            async with anyio.create_task_group() as tasks:
                for claim in claims:
                    tasks.start_soon(self._runs.fail_expired, Run(claim))

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
        try:
            with self._forgiving(name):
                answer = await call()
        except BaseException as error:
            if not is_fault(error):
                raise
            self.problems[name] = f"{text}: {said(error)}"
            logger.exception("%s; trying again in %g s", text, LONGEST_PAUSE_SECONDS)
            await anyio.sleep(LONGEST_PAUSE_SECONDS)
            return otherwise
        self.problems.pop(name, None)
        return answer

    @contextmanager
    def _forgiving(self, name: str) -> Iterator[None]:
        """Drop a problem while the call that had it waits."""
        waits = anyio.CancelScope()
        if name in self.problems and self._tasks is not None:
            self._tasks.start_soon(self._forgive, name, waits)
        try:
            yield
        finally:
            waits.cancel()

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
