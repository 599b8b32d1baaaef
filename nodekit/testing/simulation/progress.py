"""Checks that a whole cluster makes progress: no slot idles while a job waits, and groups of clients take turns."""

from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import dataclass

from nodekit import Container, ContainerId, GroupId, JobId
from nodekit.testing.simulation.containers import Call
from nodekit.testing.simulation.ledger import Ledger, PromiseBroken
from nodekit.testing.simulation.workload import PlannedJob

IDLE_SECONDS = 2.5
"""Time that a due job may wait while a node has a free slot for it. Pauses before retries are shorter."""
AT_ONCE_SECONDS = 0.1
"""Time within which the order of what different nodes do says nothing about the order of their claims."""
PASSES = 1
"""Number of times that a container may serve a group while another one waits for it."""


@dataclass
class _Limit:
    """A number of slots. `free_since` is infinite while none is free."""

    number: int
    free_since: float
    taken: int = 0

    def take(self) -> None:
        self.taken += 1
        if self.taken >= self.number:
            self.free_since = float("inf")

    def give_back(self, now: float) -> None:
        self.taken -= 1
        self.free_since = min(self.free_since, now)


class _Slots:
    """The slots of one life of a node: those of the node, and of each container that is limited."""

    def __init__(self, containers: Mapping[ContainerId, Container], number: int, now: float) -> None:
        self.running: dict[int, Call] = {}
        """Calls that have not ended, by number."""
        self._node = _Limit(number, now)
        self._limits = {id: [self._node] for id in containers}
        for id, container in containers.items():
            if container.concurrency is not None:
                self._limits[id].append(_Limit(container.concurrency, now))

    def begin(self, call: Call) -> None:
        self.running[call.number] = call
        for limit in self._limits[call.container]:
            limit.take()

    def end(self, call: Call, now: float) -> None:
        del self.running[call.number]
        for limit in self._limits[call.container]:
            limit.give_back(now)

    def limited(self, id: ContainerId) -> bool:
        """Return True if the container has fewer slots than the node."""
        return len(self._limits[id]) > 1

    def free_since(self, id: ContainerId) -> float:
        """Return the time since which a job of a container would find a slot."""
        return max((limit.free_since for limit in self._limits.get(id, ())), default=float("inf"))


@dataclass
class _Started:
    """A call. `first` says that its job came from the queue for it: later steps may follow on the same node."""

    at: float
    container: ContainerId
    planned: PlannedJob
    first: bool


class Progress:
    """The slots of all nodes, and the order in which jobs are begun."""

    def __init__(self, ledger: Ledger, up: Callable[[str, ContainerId], bool]) -> None:
        self._ledger, self._up = ledger, up
        self._slots: dict[str, _Slots] = {}
        self._started: list[_Started] = []
        self._begun: set[JobId] = set()
        self._last_call: dict[JobId, Call] = {}

    def node_started(self, name: str, life: str, containers: Mapping[ContainerId, Container], slots: int) -> None:
        for other in [other for other in self._slots if other.partition("#")[0] == name]:
            del self._slots[other]
        self._slots[life] = _Slots(containers, slots, self._ledger.now())

    def node_ended(self, life: str) -> None:
        self._slots.pop(life, None)

    def call_began(self, call: Call, planned: PlannedJob, whole_since: float) -> None:
        """Note a call. Check that the job did not wait for others out of turn."""
        self._last_call[call.job] = call
        if (slots := self._slots.get(call.node)) is not None:
            slots.begin(call)
        first = (
            call.step == 0 and call.job not in self._begun and planned.then != "stream"
        )  # streams wait in their node
        known = self._ledger.jobs.get(call.job)
        if first and known is not None and known.accepted_at is not None and known.accepted_at >= whole_since:
            self._check_turns(call, planned, known.accepted_at)
            self._check_age(call, planned, known.accepted_at)
        self._begun.add(call.job)
        self._started.append(_Started(call.began_at, call.container, planned, first))

    def call_ended(self, call: Call) -> None:
        if (slots := self._slots.get(call.node)) is not None and call.number in slots.running:
            slots.end(call, self._ledger.now())

    def _check_turns(self, call: Call, planned: PlannedJob, accepted_at: float) -> None:
        begin, end = accepted_at + AT_ONCE_SECONDS, call.began_at - AT_ONCE_SECONDS
        served: Counter[GroupId] = Counter()
        for started in self._started:
            group = started.planned.client
            if group == planned.client:  # anywhere: a group that is served elsewhere may wait here
                served.clear()
            elif started.first and _rivals(started, call, planned) and begin < started.at < end:
                served[group] += 1
                if served[group] > PASSES:
                    raise PromiseBroken(
                        "groups take turns",
                        f"{call.container} began {served[group]} jobs of {group} since {begin:.3f} s, "
                        f"and none of {planned.client}, whose job {call.job} waited until {call.began_at:.3f} s",
                    )

    def _check_age(self, call: Call, planned: PlannedJob, accepted_at: float) -> None:
        """Check that no job of the same group was begun before, which was submitted after this one was accepted.

        One may have been, if a node was given this one when the last slot of its container had just been taken there.
        """
        slots = self._slots.get(call.node)  # None for a node that is starting
        passes = PASSES if slots is None or slots.limited(call.container) else 0
        for started in self._started:
            later = started.planned.at > accepted_at + AT_ONCE_SECONDS
            same = started.planned.client == planned.client and _rivals(started, call, planned)
            if started.first and same and later and started.at < call.began_at - AT_ONCE_SECONDS:
                passes -= 1
            if passes < 0:
                raise PromiseBroken(
                    "older jobs come first",
                    f"{call.job} of {planned.client} was accepted at {accepted_at:.3f} s and begins in "
                    f"{call.container} at {call.began_at:.3f} s; {started.planned.key} was submitted at "
                    f"{started.planned.at:.3f} s and has begun there at {started.at:.3f} s",
                )

    def check_slots(self, due: Mapping[JobId, ContainerId], whole_since: float) -> None:
        """Check that no job waits for long while a node with its container has a free slot."""
        now = self._ledger.now()
        for id, container in due.items():
            since = self._waits_since(id, whole_since)
            if now - since < IDLE_SECONDS:
                continue
            for life, slots in self._slots.items():
                up, free_since = self._up(life.partition("#")[0], container), slots.free_since(container)
                suspect = any(map(self._may_be_suspect, slots.running.values()))  # no other one runs beside it
                if up and not suspect and now - free_since >= IDLE_SECONDS:
                    raise PromiseBroken(
                        "no slot idles while a job waits",
                        f"{id} waits for {container} since {since:.3f} s, and {life} has a free slot since "
                        f"{free_since:.3f} s",
                    )

    def _may_be_suspect(self, call: Call) -> bool:
        return any(other.node != call.node for other in self._ledger.calls[call.job, call.step])

    def _waits_since(self, id: JobId, whole_since: float) -> float:
        known = self._ledger.jobs[id]
        call = self._last_call.get(id)
        if call is not None and call.ended_at is None and not self._ledger.gone(call.node):
            return float("inf")
        ended_at = 0.0 if call is None or call.ended_at is None else call.ended_at
        return max(whole_since, known.accepted_at or 0.0, ended_at)


def _rivals(started: _Started, call: Call, planned: PlannedJob) -> bool:
    return started.container == call.container and started.planned.priority == planned.priority
