"""Claims that wait for jobs. Those of the node that queues a job look first; others are told of what they leave."""

from collections.abc import Callable, Collection, Iterable, Iterator, Sequence
from contextlib import contextmanager
from typing import Protocol

import anyio

from nodekit.concurrency.event import Event
from nodekit.model.container import ContainerId, JobId
from nodekit.model.job import Job

OWN_SECONDS = 1.0
"""Time that a node has for its own look before others are told."""


class Timer(Protocol):
    """A call that comes later, unless it is cancelled."""

    def cancel(self) -> None: ...


class WaitingClaim:
    """A claim that looks for jobs, and waits between two looks.

    It owes the jobs that its node has queued for it, as long as no other node is told of them. Those that its next look
    leaves are passed on: all other claims are woken, here and elsewhere.
    """

    def __init__(
        self,
        containers: Collection[ContainerId] | None,
        limit: int,
        pass_on: Callable[["WaitingClaim", Collection[ContainerId]], None],
        call_later: Callable[[float, Callable[[], None]], Timer],
    ) -> None:
        self._containers, self._limit = None if containers is None else frozenset(containers), limit
        self._pass_on, self._call_later = pass_on, call_later
        self._woken = Event()
        self._sought: dict[JobId, ContainerId] = {}
        self._new: dict[JobId, ContainerId] = {}
        """Jobs that were queued since the latest look began. It may have missed them."""
        self._timer: Timer | None = None

    @property
    def room(self) -> int:
        """Number of jobs that it may still owe: it takes no more at once."""
        return self._limit - len(self._sought) - len(self._new)

    def begin_look(self) -> None:
        """Begin a look, which sees all that was queued before."""
        self._woken = Event()
        self._sought |= self._new
        self._new = {}

    def end_look(self, claimed: Iterable[JobId] = ()) -> None:
        """End a look, and pass on what it was to claim and did not."""
        for id in claimed:
            self._sought.pop(id, None)
            self._new.pop(id, None)
        self._give_up(self._sought, keep=self._new)

    def leave(self) -> None:
        """Pass on all that it owes."""
        self._give_up(self._sought | self._new, keep={})

    async def wait(self, seconds: float) -> None:
        """Wait until it is woken, which may have been since the latest look began, or until this time is over."""
        with anyio.move_on_after(max(0.001, seconds)):
            await self._woken.wait()

    # -- for the claims of a store ----------------------------------------------------------------

    def wants(self, containers: Collection[ContainerId], *, expiring: bool = False) -> bool:
        """Return True if it waits for one of these containers, or for jobs whose time is over."""
        return expiring if self._containers is None else not self._containers.isdisjoint(containers)

    def wake(self) -> None:
        self._woken.set()

    def owe(self, id: JobId, container: ContainerId) -> None:
        """Look for a job that was queued, before others do."""
        self._new[id] = container
        if self._timer is None:
            self._timer = self._call_later(OWN_SECONDS, self.leave)
        self.wake()

    def _give_up(self, jobs: dict[JobId, ContainerId], *, keep: dict[JobId, ContainerId]) -> None:
        self._sought, self._new = {}, keep
        if self._timer is not None and not keep:
            self._timer.cancel()
            self._timer = None
        if jobs:
            self._pass_on(self, list(jobs.values()))


class WaitingClaims:
    """The claims of a store that wait for jobs, woken by news of those that were queued.

    A job that comes alone to idle nodes then costs one look, and not one of each node. The node that queued it may die
    before it looks. So other nodes look for themselves now and then. Use it in the thread of the event loop.

    - `tell`: Is called with the containers of jobs that no claim here has taken. Let the claims of other nodes look.
    - `look_seconds`: Time after which a waiting claim looks by itself. Jobs whose time is over later wake nobody.
    - `call_later`: Calls a function after some seconds, as the method of an event loop does.
    """

    def __init__(
        self,
        tell: Callable[[Collection[ContainerId]], None],
        look_seconds: float,
        call_later: Callable[[float, Callable[[], None]], Timer],
    ) -> None:
        self._tell, self._look_seconds, self._call_later = tell, look_seconds, call_later
        self._claims: dict[WaitingClaim, None] = {}

    @contextmanager
    def waiting(self, containers: Collection[ContainerId] | None, limit: int) -> Iterator[WaitingClaim]:
        """Give a claim of up to `limit` jobs. With None for `containers`, it is of jobs whose time is over."""
        claim = WaitingClaim(containers, limit, self._pass_on, self._call_later)
        self._claims[claim] = None
        try:
            yield claim
        finally:
            del self._claims[claim]
            claim.leave()

    def may_take(self, jobs: Sequence[Job]) -> bool:
        """Return True if the claims here may take all of these jobs, so that others need not be told yet."""
        return all(claim is not None for _, claim in self._takers(jobs))

    def queued(self, jobs: Sequence[Job]) -> None:
        """Wake the claims here for jobs that this node has queued. Tell others of those that none of them may take."""
        left = list[ContainerId]()
        for job, claim in self._takers(jobs):
            if claim is None:
                left.append(job.due or "")
            else:
                claim.owe(job.id, job.due or "")
        self._pass_on(None, left)

    def pass_on(self, jobs: Sequence[Job]) -> None:
        """Wake all claims, here and elsewhere, for jobs that may have been queued."""
        self._pass_on(None, [job.due or "" for job in jobs])

    def wake(self, containers: Collection[ContainerId], *, seconds_left: float | None = None) -> None:
        """Wake the claims that may want a job that was queued for one of these containers.

        `seconds_left` is the time until its time limit is over. Claims of jobs whose time is over are woken if that is
        soon: each job would cost all nodes another look otherwise.
        """
        expiring = seconds_left is not None and seconds_left < self._look_seconds
        for claim in self._claims:
            if claim.wants(containers, expiring=expiring):
                claim.wake()

    def wake_all(self) -> None:
        for claim in self._claims:
            claim.wake()

    def leave(self) -> None:
        """Pass on all that the claims owe, since the store is being left."""
        for claim in self._claims:
            claim.leave()

    def _takers(self, jobs: Iterable[Job]) -> Iterator[tuple[Job, WaitingClaim | None]]:
        """Yield each job with the claim that looks for it first. None does if it is not due yet."""
        rooms = {claim: claim.room for claim in self._claims}
        for job in jobs:
            due = (job.due or "",)
            taker = next((claim for claim, room in rooms.items() if room > 0 and claim.wants(due)), None)
            if job.not_before is not None:
                taker = None
            if taker is not None:
                rooms[taker] -= 1
            yield job, taker

    def _pass_on(self, but: WaitingClaim | None, containers: Collection[ContainerId]) -> None:
        if containers:
            for claim in self._claims:
                if claim is not but and claim.wants(containers):
                    claim.wake()
            self._tell(list(dict.fromkeys(containers)))
