"""The schedule on a clock: waits for the next due or expired jobs. Jumps of the wall clock do not disturb it."""

import math
from collections.abc import Mapping

import anyio

from nodekit.concurrency.signal import Signal
from nodekit.embedded.fair_schedule import Schedule, Wanted
from nodekit.interfaces.shared_store import QueueState
from nodekit.interfaces.store import Unfinished
from nodekit.model.clock import Clock
from nodekit.model.container import ContainerId, JobId


class _Times:
    """Times of one job, on the steady clock."""

    __slots__ = ("due_at", "expires_at", "since")

    def __init__(self, since: float) -> None:
        self.since = self.due_at = since
        self.expires_at = math.inf


class Queue:
    """The known jobs, and which of them wait. No I/O."""

    def __init__(self, clock: Clock) -> None:
        self._time, self._monotonic = clock.time, clock.monotonic
        self._schedule = Schedule()
        self._times: dict[JobId, _Times] = {}
        self._queued = Signal()
        self._sooner = Signal()
        self._awaited_expiries: list[float] = []

    def __contains__(self, id: JobId) -> bool:
        return id in self._schedule

    def know(self, id: JobId) -> None:
        """Start to track a job; its age counts from now."""
        self._times[id] = _Times(self._monotonic())

    def forget(self, id: JobId) -> None:
        """Stop tracking a finished job."""
        self._schedule.remove(id)
        self._times.pop(id, None)

    def age_seconds(self, id: JobId) -> float:
        """Return the seconds since the job is known."""
        return self._monotonic() - self._times[id].since

    def put(self, entry: Unfinished, *, delay_seconds: float | None = None) -> None:
        """Queue a known job, due after a delay. None means the rest of the delay that was stored with it."""
        times = self._times[entry.id]
        times.due_at = self._monotonic() + (self._delay_left(entry) if delay_seconds is None else delay_seconds)
        queue = math.inf if entry.queue_timeout_seconds is None else times.due_at + entry.queue_timeout_seconds
        job = math.inf if entry.timeout_seconds is None else times.since + entry.timeout_seconds
        times.expires_at = min(queue, job)
        self.put_back(entry)

    def put_back(self, entry: Unfinished) -> None:
        """Queue a job again that was taken out and not claimed. Its waiting time continues."""
        times = self._times[entry.id]
        due_at = times.due_at if times.due_at > self._monotonic() else None
        self._schedule.add(entry, due_at=due_at, expires_at=times.expires_at if times.expires_at < math.inf else None)
        self._queued.set()
        for at in self._awaited_expiries:
            if times.expires_at < at:
                self._sooner.set()

    def remove(self, id: JobId) -> None:
        """Remove a job from the queue; it stays known."""
        self._schedule.remove(id)

    async def take(self, wanted: Wanted, limit: int) -> list[Unfinished]:
        """Wait for at least one job that is due, and take out up to `limit`."""
        while not (taken := self._schedule.take(wanted, limit, now=self._monotonic())):
            await self._until(self._queued, self._schedule.next_due_at())
        return taken

    def states(self) -> Mapping[ContainerId, QueueState]:
        """Return the state of the queue by due container. It looks at each queued job."""
        now = self._monotonic()
        counts = self._schedule.count(lambda id: self._times[id].due_at)
        return {id: QueueState(jobs, max(0.0, now - since)) for id, (jobs, since) in counts.items()}

    async def take_expired(self, limit: int) -> list[Unfinished]:
        """Wait for at least one job whose time is over, and take out up to `limit`."""
        while not (taken := self._schedule.take_expired(limit, now=self._monotonic())):
            at = self._schedule.next_expiry_at()
            self._awaited_expiries.append(awaited := math.inf if at is None else at)
            try:
                await self._until(self._sooner, at)
            finally:
                self._awaited_expiries.remove(awaited)
        return taken

    async def _until(self, signal: Signal, at: float | None) -> None:
        if at is None:
            await signal.wait()
        else:
            with anyio.move_on_after(max(0.0, at - self._monotonic())):
                await signal.wait()

    def _delay_left(self, entry: Unfinished) -> float:
        """Return the rest of a delay by the wall clock, which may have jumped: never more than the whole delay."""
        if entry.not_before is None:
            return 0.0
        longest = math.inf if entry.delay_seconds is None else entry.delay_seconds
        return min(max(0.0, entry.not_before - self._time()), longest)
