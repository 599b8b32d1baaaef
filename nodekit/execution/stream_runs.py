"""The run of one streaming job. It keeps its claim from beginning to end: no other run could continue it."""

import math
from collections.abc import Callable

import anyio
from msgspec.structs import replace

from nodekit.concurrency.budget import Reservation
from nodekit.execution.container_calls import Called
from nodekit.execution.job_runs import Runs
from nodekit.execution.job_stream import JobStream
from nodekit.execution.run import Run, RunContext
from nodekit.execution.stopping import STOPPED
from nodekit.execution.stream_slots import StreamSlots
from nodekit.interfaces.store import Claim
from nodekit.model.container import ContainerError, Location, Step
from nodekit.model.giving_back import interrupted_outcome
from nodekit.model.job import Job, JobStatus, Outcome


class StreamRun(Run):
    """A run whose last step is read while it goes on."""

    __slots__ = ("counted", "sent", "stream", "streamed")

    def __init__(self, claim: Claim, monotonic: Callable[[], float], memory: Reservation, stream: JobStream) -> None:
        super().__init__(claim, monotonic, memory)
        self.stream = stream
        self.counted = False
        """True while the run holds one of the node's slots."""
        self.sent = False
        """True once a piece was sent. From then on, nothing is tried again."""
        self.streamed = False
        """True once a step was read while it ran, even if its output had no bytes."""

    stream_slots = True

    @property
    def stored_job(self) -> Job:
        """The job as far as the store has it. If the claim was lost, that is not how it ended here."""
        return self.job if self.end_emitted or not self.job.status.finished else self.claim.job

    async def send(self, piece: bytes) -> None:
        self.sent = True
        await self.stream.send(piece)


class StreamRuns(Runs[StreamRun]):
    """Variant of `Runs` for streams. Other jobs go back to the queue; streams wait where they are."""

    def __init__(self, context: RunContext, stream_slots: StreamSlots) -> None:
        super().__init__(context)
        self._stream_slots = stream_slots

    async def go_on(self, run: StreamRun) -> None:
        """Run the steps of a job until its end. If the reader leaves, the job is cancelled."""
        try:
            await self._under_claim(run, self._while_read)
        finally:
            self._leave_slots(run)

    async def _while_read(self, run: StreamRun) -> None:
        with anyio.CancelScope() as reading:
            run.stream.when_left(reading.cancel)
            with anyio.move_on_after(run.seconds_left):
                await run.stream.wanted()
            await self._steps(run)
        if reading.cancelled_caught:
            self._keep_cut_short(run, "cancelled", "the reader left the stream")
            run.job = run.job.finished(Outcome(JobStatus.CANCELLED), self._now())  # a job that has ended stays
            await self._persist(run, lambda: self._store.save(run.claim, run.job))
            self._emit_stored(run)

    async def _without_slot(self, run: StreamRun) -> bool:
        self._look()
        self._leave_slots(run)
        queue_seconds = run.job.queue_timeout_seconds
        with anyio.move_on_after(min(run.seconds_left, math.inf if queue_seconds is None else queue_seconds)):
            await self._stream_slots.take(run.job.due or "", run.group)
            run.held, run.counted = run.job.due, True
            return True
        await self._keep(run, self._progress.expired(run.job, run.age_seconds))
        return True

    async def _step_aside(self, run: StreamRun) -> bool:
        return False  # its reader is here

    def _leave_slots(self, run: StreamRun) -> None:
        if run.counted:
            self._stream_slots.give_back(run.held, run.group)
            run.held, run.counted = None, False
            self._changed()

    async def _call(self, run: StreamRun, step: Step) -> Called:
        if step.input.destination is not Location.STREAM:
            return await super()._call(run, step)
        return await self._calls.call(step, run.job, run.seconds_left, instance=run.instance, send=run.send)

    def _after(self, run: StreamRun, step: Step, called: Called) -> Job:
        """Return the job after a step. Nothing follows a streamed step; if it broke off, the job failed."""
        job, error = super()._after(run, step, called), called.result
        if step.input.destination is not Location.STREAM:
            return job
        if isinstance(error, ContainerError):
            if run.sent and job.status is not JobStatus.FAILED:
                job = run.job.with_result(error, called.attempt).finished(Outcome(JobStatus.FAILED), self._now())
            return job
        run.streamed = True
        if job.status.finished:
            return job
        text = f"its pipeline streamed a step that was not the last: {job.due!r} follows"
        return self._progress.failed(replace(job, due=step.container), text)

    def _delay(self, run: StreamRun, step: Step, called: Called) -> float | None:
        return None if run.sent else super()._delay(run, step, called)

    async def _try_later(self, run: StreamRun, called: Called, delay: float) -> bool:
        await self._keep(run, run.job.with_failure(called.result.container, called.attempt))
        self._leave_slots(run)
        await anyio.sleep(delay)
        return True

    async def _give_up(self, run: StreamRun) -> bool:
        """Fail the job, because no other run could continue it. Observers get its end like any other."""
        job = run.job
        self._keep_cut_short(run, *STOPPED)
        run.job = run.job.finished(interrupted_outcome(job.due or ""), self._now())
        given_up = await super()._give_up(run)
        if not run.end_emitted:  # the write failed; the store fails the job when it can
            run.job = job
        return given_up
