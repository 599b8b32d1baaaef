"""The run of one claimed job: step after step, until it is finished, given back, or its claim is lost."""

import logging
from collections.abc import Awaitable, Callable
from typing import Generic, TypeVar

import anyio
import anyio.lowlevel

from nodekit.concurrency.budget import COPIES
from nodekit.concurrency.loop import let_others_run
from nodekit.errors import ClaimLost, FailureKind
from nodekit.execution.backoff import delay_before_retry
from nodekit.execution.container_calls import Called
from nodekit.execution.run import Run, RunContext
from nodekit.execution.stopping import STOPPED, interrupted, left_with_the_node
from nodekit.execution.transitions import job_timeout_text, poison_text
from nodekit.interfaces.component_calls import is_fault, said
from nodekit.model.container import ContainerError, ContainerId, Step
from nodekit.model.counting import counted
from nodekit.model.events import JobFinished, StepFinished, StepStarted
from nodekit.model.job import Held, Job
from nodekit.model.queries import JobFields

logger = logging.getLogger("nodekit.executor")

FIRST_PAUSE_SECONDS = 0.1
LONGEST_PAUSE_SECONDS = 5.0


RunT = TypeVar("RunT", bound=Run)


class Runs(Generic[RunT]):
    """Runner of claimed jobs, in slots that the executor gives."""

    def __init__(self, context: RunContext) -> None:
        self._store = context.store
        self._calls = context.calls
        self._suspects, self._refresh = context.suspects, context.refresh
        self._progress, self._now = context.progress, context.progress.clock.now
        self._slots, self._random = context.slots, context.random
        self._changed = context.changed
        self._look, self._stops = context.look, context.stops
        self._taken_over: Callable[[ContainerId, str], bool] | None = None
        self._problems = context.problems
        self._unsaved = context.unsaved
        self._emit = context.emit
        self._emit_started, self._under_way = context.emit_started, context.under_way

    def hand_over(self, taken_over: Callable[[ContainerId, str], bool]) -> None:
        """Give jobs back between two steps if another node runs the container and knows the pipeline, as this says."""
        self._taken_over = taken_over

    def go_on(self, run: RunT) -> Awaitable[None]:
        """Run the steps of a job one after another. Give the job back if the next step cannot run here and now."""
        return self._under_claim(run, self._steps)

    def fail_expired(self, run: RunT) -> Awaitable[None]:
        """End a job whose time ran out while it waited."""
        return self._under_claim(run, self._fail_expired)

    async def _under_claim(self, run: RunT, work: Callable[[RunT], Awaitable[None]]) -> None:
        job = run.job
        try:
            with run.claim.scope:
                await work(run)
        except ClaimLost:
            await self._lost(run)
        except BaseException as error:  # the one place where our own fault must not end the node
            if not is_fault(error):
                await self._give_up(run)
                raise
            logger.exception("job %s: the executor failed", job.id)
            run.delay_seconds = LONGEST_PAUSE_SECONDS
            while not await self._give_up(run):  # noqa: ASYNC110 - its claim would be renewed, and nobody would run it
                await anyio.sleep(LONGEST_PAUSE_SECONDS)

    async def _steps(self, run: RunT) -> None:
        if run.claim.scope.cancel_called:  # the job has ended since it was claimed
            await anyio.lowlevel.checkpoint_if_cancelled()
        if run.claim.takeovers:
            text = "job %s: taken over; nodes that ran it lost it %s in a row"
            logger.warning(
                text, run.job.id, counted(run.claim.takeovers, "time"), extra={"takeovers": run.claim.takeovers}
            )
        if run.claim.takeovers >= self._suspects.max_takeovers:
            await self._keep(run, self._progress.failed(run.job, poison_text(run.claim.takeovers), "poison"))
            self._suspects.poison += 1
        if self._progress.needs_all_outputs(run.job) and run.job.ended_steps > 1:
            await self._read_outputs(run)
        while not run.job.status.finished:
            if run.held is None or not (self._calls.runs(run.held) or await self._fails_at_once(run.held)):
                if not await self._without_slot(run):
                    return
                continue
            step, run.due_step = run.due_step or self._progress.next_step(run.job), None
            if step is None or step.container != run.job.due:  # the pipelines changed since the job was stored
                job, run.due_step = self._progress.transition(run.job)
                run.redecided = True
                await self._keep(run, job)
            elif run.seconds_left <= 0:
                await self._keep(run, self._progress.failed(run.job, job_timeout_text(run.job), "job_timeout"))
            elif not await self._step(run, step):
                return
            if run.job.status.finished:
                break
            if (run.memory.is_in_the_way or self._hands_over(run.job)) and await self._step_aside(run):
                return
        self._emit_stored(run)

    async def _read_outputs(self, run: RunT) -> None:
        """Read the outputs of all steps, which the claim did not have, for a pipeline that needs them."""
        await run.memory.grow(COPIES * (await self._store.sizes([run.job.id])).get(run.job.id, 0))
        for stored in await self._store.get([run.job.id], fields=JobFields.ALL):
            run.job = run.job.over(stored)

    async def _without_slot(self, run: RunT) -> bool:
        """Release the job; return False if this run must stop.

        If this node chose a container of another node, and that one had chosen one of this node, both might do so again
        at once, and so on for ever.
        """
        self._look()
        delay = 0.0
        if run.redecided and run.job.due not in self._calls.containers:
            delay = LONGEST_PAUSE_SECONDS
            text = "job %s: its pipeline chose container %r here and another container elsewhere; it waits for %g s"
            logger.warning(text, run.job.id, run.job.due, delay)
        await self._persist(run, lambda: self._store.release(run.claim, run.job, delay_seconds=delay))
        return False

    def _hands_over(self, job: Job) -> bool:
        """Return True if another node can go on with the job, now that this one drains."""
        return self._taken_over is not None and job.due is not None and self._taken_over(job.due, job.request.pipeline)

    async def _step_aside(self, run: RunT) -> bool:
        """Release a job between two steps, so that it gets its turn again. Return False if it cannot be.

        Others wait for its memory, which jobs of many steps would keep for as long as they run, or this node drains.
        """
        await self._persist(run, lambda: self._store.release(run.claim, run.job))
        return True

    async def _fails_at_once(self, id: ContainerId) -> bool:
        """Return True if a step must fail now because its container is down, here and on all other nodes."""
        if self._refresh is not None and self._slots.fails_at_once(id):
            await self._refresh()
        return self._slots.fails_at_once(id)

    async def _step(self, run: RunT, step: Step) -> bool:
        """Run one step. Return False if the job was given back to be tried again later."""
        if self._emit_started is not None:
            self._emit_started(StepStarted(run.job, step))
        run.instance = self._calls.instance(step.container)
        self._under_way[run.job.id] = call = self._now(), step.index, step.attempt, run.instance
        try:
            called = await self._call(run, step)
            stopped = await left_with_the_node(called, self._stops)
        except BaseException:  # a cancellation: every other end of a call is a result
            run.cut_short = Held("", *call)
            raise
        finally:
            del self._under_way[run.job.id]
        if stopped:
            return await self._interrupt(run, called)
        if (delay := self._delay(run, step, called)) is not None:
            return await self._try_later(run, called, delay)
        run.step_to_emit, run.redecided = step.index, False
        await self._keep(run, self._after(run, step, called))
        if run.claim.takeovers:
            self._suspects.end(run.claim)
            self._changed()
        self._emit_stored(run)
        if not run.job.status.finished:
            run.memory.resize(COPIES * run.job.payload_bytes)
            await let_others_run()  # its results are stored; a container might never yield
        return True

    async def _interrupt(self, run: RunT, called: Called) -> bool:
        """Give the job back as if the end of the node had cut the call short. Return False: this run must stop."""
        run.job = run.job.with_failure(called.result.container, interrupted(called))
        await self._give_up(run)
        return False

    def _after(self, run: RunT, step: Step, called: Called) -> Job:
        """Return the job with the result of a step and with what follows from it."""
        job = run.job.with_result(called.result, called.attempt)
        if not self._progress.needs_all_outputs(job):
            job = job.without_earlier_outputs()
        job, run.due_step = self._progress.transition(job)
        return job

    def _call(self, run: RunT, step: Step) -> Awaitable[Called]:
        return self._calls.call(step, run.job, run.seconds_left, instance=run.instance)

    def _delay(self, run: RunT, step: Step, called: Called) -> float | None:
        """Return the delay before the next attempt, or None if this outcome is the step's result."""
        if not isinstance(called.result, ContainerError):
            return None
        retry = self._calls.containers[step.container].retry
        delay = delay_before_retry(retry, run.job.attempt, called.result, called.retry_after, self._random)
        return delay if delay is not None and delay < run.seconds_left else None

    async def _try_later(self, run: RunT, called: Called, delay: float) -> bool:
        """Release the job, so that it holds no slot while it waits. Return False if this run must stop."""
        run.job, run.delay_seconds = run.job.with_failure(called.result.container, called.attempt), delay
        logger.info("job %s: container %r is tried again in %.1f s", run.job.id, called.result.container, delay)
        await self._persist(run, lambda: self._store.release(run.claim, run.job, delay_seconds=delay))
        return False

    async def _fail_expired(self, run: RunT) -> None:
        run.job = self._progress.expired(run.job, run.claim.age_seconds)
        logger.info("job %s: reached its time limit in the queue", run.job.id)
        await self._persist(run, lambda: self._store.save(run.claim, run.job))
        self._emit_stored(run)

    # -- storing ----------------------------------------------------------------------------------

    async def _keep(self, run: RunT, job: Job) -> None:
        """Store the changed job and take a slot of the container that is due next."""
        run.job = job
        if job.due != run.held:
            self._slots.give_back(run.held, stream=run.stream_slots)
            run.held = job.due if self._slots.take(job.due, stream=run.stream_slots) else None
            self._changed()
        await self._persist(run, lambda: self._store.save(run.claim, job))
        if run.claim.job.status.finished:  # as the store has it, which may have ended a job that is damaged
            run.job = run.claim.job

    async def _persist(self, run: RunT, write: Callable[[], Awaitable[None]]) -> None:
        """Repeat a write until it succeeds. A result is not thrown away because the disk is full for a while."""
        pause = FIRST_PAUSE_SECONDS
        try:
            while True:
                try:
                    return await write()
                except ClaimLost:
                    raise
                except BaseException as error:
                    if not is_fault(error):
                        raise
                    self._unsaved.add(run.job.id)
                    self._problems["save"] = f"the store cannot keep results: {said(error)}"
                    logger.error("job %s: the store failed (%r); trying again in %.1f s", run.job.id, error, pause)
                    await anyio.sleep(pause)
                    pause = min(2 * pause, LONGEST_PAUSE_SECONDS)
        finally:
            if self._unsaved:  # it was saved, or its claim was lost
                self._unsaved.discard(run.job.id)
                if not self._unsaved:
                    self._problems.pop("save", None)

    async def _give_up(self, run: RunT) -> bool:
        """Give the job back, even if the run is cancelled meanwhile. Return False if the store failed."""
        with anyio.CancelScope(shield=True):
            self._keep_cut_short(run, *STOPPED)
            try:
                await self._store.release(run.claim, run.job, delay_seconds=run.delay_seconds)
                self._emit_stored(run)
            except ClaimLost:
                await self._lost(run)
            except Exception as error:
                text = "job %s: cannot be given back to the store (%s); at the latest, it continues after a restart"
                logger.error(text, run.job.id, error)
                return False
        return True

    def _keep_cut_short(self, run: RunT, kind: FailureKind, text: str) -> None:
        """Add the call that was cut short, if there is one, to the history of the job."""
        call, run.cut_short = run.cut_short, None
        if call is not None:
            run.job = run.job.cut_short(call, self._now(), kind, text)

    async def _lost(self, run: RunT) -> None:
        """Handle a lost claim: the job was settled elsewhere, or ended here by a write whose answer was lost."""
        job = run.job
        logger.debug("job %s: its claim is lost", job.id)
        if not job.status.finished or run.end_emitted:
            return
        try:
            for stored in await self._store.get([job.id], fields=JobFields.RUN):
                if stored.ended_as(job):
                    run.job = stored
                    self._emit_stored(run)
        except Exception as error:
            logger.error("job %s: cannot be read (%s); if it has ended, no event is emitted", job.id, error)

    def _emit_stored(self, run: RunT) -> None:
        """Emit what is stored and was not emitted yet: the result of a step, the end of the job."""
        if run.claim.job.status.finished:  # as the store numbered it
            run.job = run.claim.job
        step, run.step_to_emit = run.step_to_emit, None
        if step is not None and step < len(run.job.steps):  # a job that is damaged has ended without its steps
            self._emit(StepFinished(run.job, step))
        if run.job.status.finished and not run.end_emitted:
            run.end_emitted = True
            self._emit(JobFinished(run.job))
