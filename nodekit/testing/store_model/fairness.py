"""The turns of groups of clients, as far as the contract of `JobStore.claim` settles them."""

from collections import Counter
from collections.abc import Iterable
from typing import NamedTuple

from nodekit import ContainerId, GroupId, Job, JobId

PASSES = 1
"""Maximum number of times that a lane is served while a lane of another group waits."""
OWN_PASSES = 3
"""Maximum number of times that a group's newer job is served before an older one. This happens where other groups in
the older job's container wait for their turns."""


class Lane(NamedTuple):
    """Jobs that must come oldest first."""

    group: GroupId
    priority: int
    container: ContainerId

    @classmethod
    def of(cls, job: Job) -> "Lane":
        return cls(job.group, job.request.priority, job.due or "")


class TurnTaking:
    """Counts how often each lane was passed over while it waited.

    The contract leaves open which group begins, and if a group has one turn in all or one in each container. Either
    way, nobody is served twice from one container while another group, which could have been served, is not served at
    all. Nor do a group's newer jobs in one container come before an older one in another container again and again.
    """

    def __init__(self) -> None:
        self._passed: dict[Lane, Counter[Lane]] = {}

    def forget(self) -> None:
        """Forget the turns so far: a store need not keep their order."""
        self._passed = {}

    def wait(self, lanes: Iterable[Lane]) -> None:
        """Set the lanes that wait now."""
        self._passed = {lane: self._passed.get(lane, Counter()) for lane in lanes}

    def take(self, id: JobId, lane: Lane, eligible: dict[Lane, JobId]) -> None:
        """Note a claimed job. `eligible` is the oldest job of each lane that could have been claimed with its
        priority."""
        for other, oldest in eligible.items():
            if other.group == lane.group and (other == lane or oldest > id):
                continue
            passed = self._passed.setdefault(other, Counter())
            passed[lane] += 1
            most = OWN_PASSES if other.group == lane.group else PASSES
            assert passed[lane] <= most, f"{lane} was served {passed[lane]} times while {other} waited, with {oldest}"
        for other, passed in self._passed.items():
            if other.group == lane.group:
                own_turn = other == lane or id < eligible.get(other, "")  # no job of that lane was passed over
                self._passed[other] = Counter(
                    {by: n for by, n in passed.items() if by.group == lane.group and not own_turn}
                )
