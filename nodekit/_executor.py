"""The node's private loop: claims jobs and runs their steps. One code path for every store.

Execution is at least once, completion exactly once: a step whose result was stored is never run again.
"""

import logging
import math
import time
from collections.abc import Awaitable, Callable, Collection, Sequence

import anyio
from anyio.abc import TaskStatus

from nodekit._calls import Called, Calls
from nodekit._descriptors import descriptor_share
from nodekit._progress import Progress, expired, failed, over, stray
from nodekit._retry import delay_before_retry
from nodekit._signal import Signal
from nodekit._slots import Slots
from nodekit.container import ContainerError, ContainerId, Step
from nodekit.errors import ClaimLost
from nodekit.events import Event, JobFinished, StepFinished
from nodekit.job import Job, JobStatus, Outcome
from nodekit.runner import ContainerRunner
from nodekit.store import Claim, JobStore

logger = logging.getLogger("nodekit.executor")

FIRST_PAUSE_SECONDS = 0.1
LONGEST_PAUSE_SECONDS = 5.0
EXPIRED_AT_ONCE = 256


class Executor:
    """Runs as many jobs at once as there are slots."""

    def __init__(
        self,
        *,
        store: JobStore,
        runners: Sequence[ContainerRunner],
        progress: Progress,
        concurrency: int,
        tell: Callable[[Event], None],
    ) -> None:
        self._store = store
        self._runners = runners
        self._progress = progress
        self._tell = tell
        containers = {id: container for runner in runners for id, container in runner.containers.items()}
        self._calls = Calls(runners)
        self._slots = Slots(containers, concurrency, [pool for runner in runners if (pool := _pool(runner))])
        self._claiming: tuple[anyio.CancelScope, frozenset[ContainerId]] | None = None
        self._draining = False
        self.running = 0
        """How many jobs run right now."""
        self._changed = Signal()
        self.problems: dict[str, str] = {}
        """Why jobs are not getting on right now, by what fails."""

    # -- claiming ---------------------------------------------------------------------------------

    async def run(self, *, task_status: "TaskStatus[None]") -> None:
        """Claim and run until drained; cancelling it gives back what is running."""
        self._mind_descriptors()
        self._look_at_runners()
        async with anyio.create_task_group() as tasks:
            for runner in self._runners:
                tasks.start_soon(self._watch, runner)
            tasks.start_soon(self._expire)
            task_status.started()
            while not self._draining:
                for claim in await self._claim():
                    self.running += 1
                    self._slots.free -= 1
                    held = claim.job.due if self._slots.take(claim.job.due) else None
                    tasks.start_soon(self._run, claim, held)
            await self.drained()
            tasks.cancel_scope.cancel()

    def drain(self) -> None:
        """Claim nothing more; `run` ends with the last job that is running."""
        self._draining = True
        self._reconsider()

    async def drained(self) -> None:
        """Wait until nothing is running."""
        while self.running:
            await self._changed.wait()

    def _mind_descriptors(self) -> None:
        """Queue what the process has no descriptors for; a step takes one, except in a runner that says otherwise."""
        share = descriptor_share()
        outside = [id for r in self._runners if not getattr(r, "in_process", False) for id in r.containers]
        if share is not None and outside:
            self._slots.limit(outside, share)
            if share < self._slots.free:
                logger.warning("at most %d steps run at once, for lack of descriptors; raise it by ulimit -n", share)

    async def _watch(self, runner: ContainerRunner) -> None:
        name = type(runner).__name__
        while True:
            try:
                await runner.changed()
                self._look_at_runners()
                self.problems.pop(name, None)
            except Exception as error:
                self.problems[name] = f"runner {name} does not say what runs: {error}"
                logger.exception("runner %s: cannot tell what runs; asking again in %g s", name, LONGEST_PAUSE_SECONDS)
                await anyio.sleep(LONGEST_PAUSE_SECONDS)

    def _look_at_runners(self) -> None:
        self._slots.set_running({id for runner in self._runners for id in runner.running()})
        self._reconsider()

    async def _claim(self) -> Sequence[Claim]:
        containers, limit = self._slots.open, self._slots.at_most
        if not containers or not limit:
            await self._changed.wait()
            return ()
        with anyio.CancelScope() as scope:
            self._claiming = scope, containers
            try:
                claims = await self._store.claim(containers, limit)
                self.problems.pop("claim", None)
                return claims
            except Exception as error:
                self.problems["claim"] = f"the store gives no jobs: {error}"
                logger.exception("cannot claim; trying again in %s s", LONGEST_PAUSE_SECONDS)
                await anyio.sleep(LONGEST_PAUSE_SECONDS)
            finally:
                self._claiming = None
        return ()

    def _reconsider(self) -> None:
        """Something changed: claim anew where that changes which jobs come."""
        self._changed.set()
        if self._claiming is not None:
            scope, containers = self._claiming
            if self._draining or containers != self._slots.open:
                scope.cancel()

    # -- running ----------------------------------------------------------------------------------

    async def _run(self, claim: Claim, held: ContainerId | None) -> None:
        run = _Run(claim, held)
        try:
            await self._under(claim, run, self._steps)
        finally:
            self._slots.give_back(run.held)
            self._slots.free += 1
            self.running -= 1
            self._reconsider()

    async def _under(self, claim: Claim, run: "_Run", work: "Callable[[Claim, _Run], Awaitable[None]]") -> None:
        """Work on a claimed job; in the end it is finished, given back, or somebody else's."""
        try:
            with claim.scope:
                await work(claim, run)
        except ClaimLost:
            logger.debug("job %s: settled elsewhere", claim.job.id)
        except anyio.get_cancelled_exc_class():
            with anyio.CancelScope(shield=True):
                await self._give_up(claim, run)
            raise
        except Exception:  # the one place where a fault of ours must not end the node
            logger.exception("job %s: the executor failed", claim.job.id)
            with anyio.CancelScope(shield=True):
                await self._give_up(claim, run, delay_seconds=LONGEST_PAUSE_SECONDS)

    async def _steps(self, claim: Claim, run: "_Run") -> None:
        """Run step after step; give the job back where the next one cannot run here and now."""
        while not run.job.status.finished:
            if run.held is None or not self._calls.callable(run.held):
                self._look_at_runners()
                await self._store.release(claim, run.job)
                return
            step = self._progress.next_step(run.job)
            if step is None or step.container != run.job.due:  # the node's pipelines are others than when it was stored
                run.strays += 1
                await self._keep(claim, run, self._progress.advance(run.job) if run.strays == 1 else stray(run.job))
                continue
            if run.seconds_left <= 0:
                await self._keep(claim, run, failed(run.job, over(run.job.timeout_seconds or 0), "job_timeout"))
                break
            called = await self._calls.call(step, run.job, run.seconds_left)
            run.strays = 0
            delay = self._delay(run, step, called)
            if delay is not None:
                await self._try_later(claim, run, called, delay)
                return
            await self._keep(claim, run, self._after(run.job.with_result(called.result, called.attempt)))
            self._tell(StepFinished(run.job, step.index))
        self._tell(JobFinished(run.job))

    def _after(self, job: Job) -> Job:
        """What follows the step that was just finished; after a job's time nothing does, whatever its pipeline says."""
        last = job.steps[-1].result
        if isinstance(last, ContainerError) and last.kind == "job_timeout":
            return job.finished(Outcome(JobStatus.FAILED), time.time())
        return self._progress.advance(job)

    def _delay(self, run: "_Run", step: Step, called: Called) -> float | None:
        """When to try again; None: what came of the call is the step's result."""
        if not isinstance(called.result, ContainerError):
            return None
        retry = self._calls.containers[step.container].retry
        delay = delay_before_retry(retry, step.attempt, called.result, called.retry_after)
        return delay if delay is not None and delay < run.seconds_left else None

    async def _try_later(self, claim: Claim, run: "_Run", called: Called, delay: float) -> None:
        """Give the job back with what has happened: while it waits, it holds no slot."""
        job = run.job = run.job.with_failure(called.result.container, called.attempt)
        logger.info("job %s: %s is tried again in %.1f s", job.id, called.result.container, delay)
        await self._persist(lambda: self._store.release(claim, job, delay_seconds=delay), job)

    async def _expire(self) -> None:
        """Fail jobs whose time is over while they wait."""
        while True:
            try:
                claims = await self._store.claim_expired(EXPIRED_AT_ONCE)
                self.problems.pop("expire", None)
            except Exception as error:
                self.problems["expire"] = f"the store does not say which jobs' time is over: {error}"
                logger.exception("cannot claim expired jobs; trying again in %s s", LONGEST_PAUSE_SECONDS)
                await anyio.sleep(LONGEST_PAUSE_SECONDS)
                continue
            async with anyio.create_task_group() as tasks:
                for claim in claims:
                    tasks.start_soon(self._under, claim, _Run(claim, None), self._fail_expired)

    async def _fail_expired(self, claim: Claim, run: "_Run") -> None:
        job = expired(run.job, claim.age_seconds)
        logger.info("job %s: its time was over in the queue (%s)", job.id, job.due)
        await self._persist(lambda: self._store.save(claim, job), job)
        self._tell(JobFinished(job))

    async def _keep(self, claim: Claim, run: "_Run", job: Job) -> None:
        """Store what has happened, and move on to the container that is due."""
        run.job = job
        if job.due != run.held:
            self._slots.give_back(run.held)
            run.held = job.due if self._slots.take(job.due) else None
            self._reconsider()
        await self._persist(lambda: self._store.save(claim, job), job)

    async def _persist(self, write: Callable[[], Awaitable[None]], job: Job) -> None:
        """Write until it succeeds: a result in hand is not thrown away because the disk is full for a while."""
        pause = FIRST_PAUSE_SECONDS
        while True:
            try:
                await write()
            except ClaimLost:
                raise
            except Exception as error:
                self.problems["save"] = f"the store keeps no results: {error}"
                logger.error("job %s: the store failed (%s); trying again in %.1f s", job.id, error, pause)
                await anyio.sleep(pause)
                pause = min(2 * pause, LONGEST_PAUSE_SECONDS)
            else:
                self.problems.pop("save", None)
                return

    async def _give_up(self, claim: Claim, run: "_Run", *, delay_seconds: float = 0) -> None:
        try:
            await self._store.release(claim, run.job, delay_seconds=delay_seconds)
        except ClaimLost:
            pass
        except Exception as error:
            logger.error("job %s: not given back (%s); it goes on after a restart", run.job.id, error)


def _pool(runner: ContainerRunner) -> tuple[Collection[ContainerId], int] | None:
    """The limit that a `PooledRunner` sets, where it sets one."""
    limit: int | None = getattr(runner, "concurrency", None)
    return None if limit is None else (runner.containers, limit)


class _Run:
    """What one job's run has in hand: its newest snapshot and the slot it holds."""

    __slots__ = ("_ends_at", "held", "job", "strays")

    def __init__(self, claim: Claim, held: ContainerId | None) -> None:
        self.job = claim.job
        self.held = held
        timeout = claim.job.timeout_seconds
        self._ends_at = math.inf if timeout is None else time.monotonic() + timeout - claim.age_seconds
        self.strays = 0
        """How often in a row the pipeline named another step than before; one that does it twice has no rule."""

    @property
    def seconds_left(self) -> float:
        """Until the job's time is over."""
        return self._ends_at - time.monotonic() if self._ends_at < math.inf else math.inf
