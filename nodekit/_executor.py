"""The node's private loop: claims jobs and runs their steps. One code path for every store.

Execution is at least once, completion exactly once: a step whose result was stored is never run again.
"""

import logging
from collections.abc import Awaitable, Callable, Collection, Mapping, Sequence

import anyio
from anyio.abc import TaskStatus

from nodekit._advance import advance, next_step, stray
from nodekit._calls import Calls
from nodekit._signal import Signal
from nodekit._slots import Slots
from nodekit.container import ContainerId
from nodekit.errors import ClaimLost
from nodekit.events import Event, JobFinished, StepFinished
from nodekit.job import Job
from nodekit.pipeline import Pipeline
from nodekit.runner import ContainerRunner
from nodekit.store import Claim, JobStore

logger = logging.getLogger("nodekit.executor")

FIRST_PAUSE_SECONDS = 0.1
LONGEST_PAUSE_SECONDS = 5.0


class Executor:
    """Runs as many jobs at once as there are slots."""

    def __init__(
        self,
        *,
        store: JobStore,
        runners: Sequence[ContainerRunner],
        pipelines: Mapping[str, Pipeline],
        concurrency: int,
        tell: Callable[[Event], None],
    ) -> None:
        self._store = store
        self._runners = runners
        self._pipelines = pipelines
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
        self._look_at_runners()
        async with anyio.create_task_group() as tasks:
            for runner in self._runners:
                tasks.start_soon(self._watch, runner)
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
        run = _Run(claim.job, held)
        try:
            with claim.scope:
                await self._steps(claim, run)
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
        finally:
            self._slots.give_back(run.held)
            self._slots.free += 1
            self.running -= 1
            self._reconsider()

    async def _steps(self, claim: Claim, run: "_Run") -> None:
        """Run step after step; give the job back where the next one cannot run here and now."""
        while not run.job.status.finished:
            if run.held is None or not self._calls.callable(run.held):
                self._look_at_runners()
                await self._store.release(claim, run.job)
                return
            pipeline = self._pipelines.get(run.job.request.pipeline)
            step = next_step(run.job, pipeline)
            if step is None or step.container != run.job.due:  # the node's pipelines are others than when it was stored
                run.strays += 1
                job = advance(run.job, pipeline, self._calls.containers) if run.strays == 1 else stray(run.job)
                await self._keep(claim, run, job)
                continue
            result, attempt = await self._calls.call(step)
            run.strays = 0
            job = run.job.with_result(result, attempt)
            await self._keep(claim, run, advance(job, pipeline, self._calls.containers))
            self._tell(StepFinished(run.job, step.index))
        self._tell(JobFinished(run.job))

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

    __slots__ = ("held", "job", "strays")

    def __init__(self, job: Job, held: ContainerId | None) -> None:
        self.job = job
        self.held = held
        self.strays = 0
        """How often in a row the pipeline named another step than before; one that does it twice has no rule."""
