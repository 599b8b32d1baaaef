"""The schedule on a clock: waits for who is next, and for whose time is over. Not disturbed by jumps of the clock."""

import math
import time
from collections.abc import Set

import anyio

from nodekit.concurrency.signal import Signal
from nodekit.embedded.schedule import Schedule
from nodekit.interfaces.store import Unfinished
from nodekit.model.container import ContainerId, JobId


class _Times:
    """Of one job, on the steady clock."""

    __slots__ = ("due_at", "expires_at", "since")

    def __init__(self) -> None:
        self.since = self.due_at = time.monotonic()
        self.expires_at = math.inf


class Queue:
    """Jobs that are known, and those of them that wait. No I/O."""

    def __init__(self) -> None:
        self._schedule = Schedule()
        self._times: dict[JobId, _Times] = {}
        self._queued = Signal()
        self._sooner = Signal()
        self._awaited_expiries: list[float] = []

    def __contains__(self, id: JobId) -> bool:
        return id in self._schedule

    def know(self, id: JobId) -> None:
        """The job's age counts from here."""
        self._times[id] = _Times()

    def forget(self, id: JobId) -> None:
        """The job is finished."""
        self._schedule.remove(id)
        self._times.pop(id, None)

    def age_seconds(self, id: JobId) -> float:
        """How long the job has been known."""
        return time.monotonic() - self._times[id].since

    def put(self, entry: Unfinished, *, delay_seconds: float | None = None) -> None:
        """Queue a known job, due after a delay; None: what is left of the one that was stored with it."""
        times = self._times[entry.id]
        times.due_at = time.monotonic() + (_delay_left(entry) if delay_seconds is None else delay_seconds)
        queue = math.inf if entry.queue_timeout_seconds is None else times.due_at + entry.queue_timeout_seconds
        job = math.inf if entry.timeout_seconds is None else times.since + entry.timeout_seconds
        times.expires_at = min(queue, job)
        self.put_back(entry)

    def put_back(self, entry: Unfinished) -> None:
        """Queue a job again that was taken out in vain: it has waited all the while."""
        times = self._times[entry.id]
        due_at = times.due_at if times.due_at > time.monotonic() else None
        self._schedule.add(entry, due_at=due_at, expires_at=times.expires_at if times.expires_at < math.inf else None)
        self._queued.set()
        for at in self._awaited_expiries:
            if times.expires_at < at:
                self._sooner.set()

    def remove(self, id: JobId) -> None:
        """Take a job out that stays known."""
        self._schedule.remove(id)

    async def take(self, containers: Set[ContainerId], limit: int) -> list[Unfinished]:
        """Wait for at least one job that is due in `containers`, and take up to `limit` out."""
        while not (taken := self._schedule.take(containers, limit, now=time.monotonic())):
            await _until(self._queued, self._schedule.next_due_at())
        return taken

    async def take_expired(self, limit: int) -> list[Unfinished]:
        """Wait for at least one job whose time is over, and take up to `limit` out."""
        while not (taken := self._schedule.take_expired(limit, now=time.monotonic())):
            at = self._schedule.next_expiry_at()
            self._awaited_expiries.append(awaited := math.inf if at is None else at)
            try:
                await _until(self._sooner, at)
            finally:
                self._awaited_expiries.remove(awaited)
        return taken


async def _until(signal: Signal, at: float | None) -> None:
    if at is None:
        await signal.wait()
    else:
        with anyio.move_on_after(max(0.0, at - time.monotonic())):
            await signal.wait()


def _delay_left(entry: Unfinished) -> float:
    """By the wall clock, which may have jumped since: never more than the whole delay."""
    if entry.not_before is None:
        return 0.0
    longest = math.inf if entry.delay_seconds is None else entry.delay_seconds
    return min(max(0.0, entry.not_before - time.time()), longest)
