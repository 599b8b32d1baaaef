"""A budget of bytes: what clients and containers make the node hold is reserved in it before it is there."""

from contextvars import ContextVar
from types import TracebackType
from typing import Self

import anyio

from nodekit.concurrency.event import Event
from nodekit.errors import Unavailable

COPIES = 3
"""Number of times that a payload may be in memory at once: as it was read, as it is encoded for a call, a reply or a
file, and in the buffers on that way."""
REQUESTS, JOBS = 4, 2
"""Parts of the budget that the requests of one group, and its running jobs, may have: a quarter, and half. The last
quarter is always for others."""
LEAST_SHARE = 48 << 20
"""Share of the requests of a group in a small budget: that of one request or reply of the default largest size."""
LARGE_BYTES = 1 << 20
"""Size above which a job is given back between two steps if others wait. Below, it would cost more than it helps."""
WAIT_SECONDS = 10.0
"""Time for which a request waits for room. Clients and proxies often give up after 30 seconds."""
RETRY_AFTER_SECONDS = 2


class Budget:
    """Bytes that may be in memory at once. Who comes first gets room first; nobody waits behind another group's limit.

    A job gets room although there is none, or its group has had its share, if no other one overdraws. So of the jobs
    that hold their input and wait for room for their output, one can always go on.
    """

    def __init__(self, total: int) -> None:
        self.total = total
        self.reserved = 0
        self.waiting = 0
        """Number of reservations that wait for room right now."""
        self._groups: dict[str, int] = {}
        """Bytes of the requests of a group, and of its jobs, under two names."""
        self._queue: dict[_Wait, None] = {}
        self._overdrawer: Reservation | None = None

    def reservation(self) -> "Reservation":
        """Return an empty reservation that belongs to no group."""
        return Reservation(self, None, self.total, overdraws=False)

    def for_request(self, group: str) -> "Reservation":
        """Return an empty reservation for a request of a group, or its reply."""
        return Reservation(self, f"requests {group}", max(self.total // REQUESTS, LEAST_SHARE), overdraws=False)

    def for_job(self, group: str) -> "Reservation":
        """Return an empty reservation for a running job of a group. It may overdraw."""
        return Reservation(self, f"jobs {group}", self.total // JOBS, overdraws=True)

    def has_its_share(self, group: str) -> bool:
        """Return True if the running jobs of a group hold as much as they may."""
        return self._groups.get(f"jobs {group}", 0) >= self.total // JOBS

    def fits(self, one: "Reservation", size: int) -> bool:
        """Return True if a reservation may grow by `size` bytes right now."""
        fits = self.reserved + size <= self.total or not self.reserved
        return (fits and self._is_within_share(one, size)) or (one.overdraws and self._overdrawer in (None, one))

    def count(self, one: "Reservation", size: int) -> None:
        """Count bytes that a reservation has more, or less."""
        self.reserved += size
        if one.group is not None:
            held = self._groups[one.group] = self._groups.get(one.group, 0) + size
            if not held:
                del self._groups[one.group]
            if one.overdraws:
                over = self.reserved > self.total or held > one.most
                if over or self._overdrawer is one:
                    self._note_overdraft(one, over=over)
        if size < 0 and self._queue:
            self._grant()

    def _note_overdraft(self, one: "Reservation", *, over: bool) -> None:
        if over and self._overdrawer is None:
            self._overdrawer = one
        elif self._overdrawer is one and (not over or not one.bytes):
            self._overdrawer = None

    async def wait(self, one: "Reservation", size: int) -> None:
        """Wait until a reservation has grown by `size` bytes."""
        turn = _Wait(one, size)
        self._queue[turn] = None
        self.waiting += 1
        self._grant()  # those before it may wait for the limit of their group
        try:
            await turn.granted.wait()
        except BaseException:
            if turn.granted.is_set():
                one.shrink(size)
            raise
        finally:
            self.waiting -= 1
            self._queue.pop(turn, None)
            self._grant()  # those behind one that has given up may fit

    def _is_within_share(self, one: "Reservation", size: int) -> bool:
        held = 0 if one.group is None else self._groups.get(one.group, 0)
        return not held or held + size <= one.most

    def _grant(self) -> None:
        for turn in list(self._queue):
            if self.fits(turn.reservation, turn.size):
                del self._queue[turn]
                turn.reservation.add(turn.size)
                turn.granted.set()
            elif self._is_within_share(turn.reservation, turn.size) and not turn.reservation.overdraws:
                break  # a large request would otherwise never get room


class _Wait:
    __slots__ = ("granted", "reservation", "size")

    def __init__(self, reservation: "Reservation", size: int) -> None:
        self.reservation, self.size = reservation, size
        self.granted = Event()


class Reservation:
    """Bytes of a budget that are held for one purpose, until the context is left or `release` is called."""

    __slots__ = ("_budget", "bytes", "group", "most", "overdraws")

    def __init__(self, budget: Budget, group: str | None, most: int, *, overdraws: bool) -> None:
        self._budget = budget
        self.group, self.most, self.overdraws = group, most, overdraws
        self.bytes = 0

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.release()

    @property
    def is_in_the_way(self) -> bool:
        """True if it is large, and others wait for room."""
        return self._budget.waiting > 0 and self.bytes > LARGE_BYTES

    async def grow(self, size: int) -> None:
        """Reserve `size` bytes more, as soon as there is room for them."""
        if not self.grow_at_once(size):
            await self._budget.wait(self, size)

    async def grow_soon(self, size: int) -> None:
        """Reserve `size` bytes more. Raise `Unavailable` if there is no room within `WAIT_SECONDS`."""
        if self.grow_at_once(size):
            return None
        with anyio.move_on_after(WAIT_SECONDS):
            return await self._budget.wait(self, size)
        raise Unavailable("the node has no memory left for this right now", retry_after_seconds=RETRY_AFTER_SECONDS)

    def grow_at_once(self, size: int) -> bool:
        """Reserve `size` bytes more if there is room for them and nobody waits. Return False otherwise."""
        budget = self._budget
        fits = (not budget.waiting or self.overdraws or self.bytes > 0) and budget.fits(self, size)
        if fits:
            self.add(size)
        return fits

    def add(self, size: int) -> None:
        """Count `size` bytes that are there already."""
        self.bytes += size
        self._budget.count(self, size)

    def shrink(self, size: int) -> None:
        """Give back `size` bytes."""
        self.add(-size)

    def resize(self, size: int) -> None:
        """Count `size` bytes from now on, which are there already."""
        more, self.bytes = size - self.bytes, size
        if more:
            self._budget.count(self, more)

    def release(self) -> None:
        """Give back everything."""
        if self.bytes:
            self.resize(0)


current: ContextVar[Reservation | None] = ContextVar("nodekit_reservation", default=None)
"""The reservation of the job that runs in this task."""


async def reserve_output(size: int) -> None:
    """Reserve room for `size` more bytes of a step's output before they are read, as a runner does during `run`.

    It waits while the node has no memory left, so that the container waits, too. Outside of a step it returns at once.
    """
    reservation = current.get()
    if reservation is not None and not reservation.grow_at_once(COPIES * size):
        await reservation.grow(COPIES * size)
