"""Whether clients take turns, as far as the contract of `JobStore.claim` settles it."""

from collections import Counter
from collections.abc import Iterable
from typing import NamedTuple

from nodekit import ClientId, ContainerId, Job, JobId

PASSES = 1
"""How often one lane is served while one of another client waits."""
OWN_PASSES = 3
"""How often a newer job of the same client: where the others in its container wait for their turns, that may be so."""


class Lane(NamedTuple):
    """Jobs that may only come oldest first."""

    client: ClientId
    priority: int
    container: ContainerId

    @classmethod
    def of(cls, job: Job) -> "Lane":
        return cls(job.client, job.request.priority, job.due or "")


class Turns:
    """Counts who was passed over by whom while they waited.

    Which client begins is open, and so is whether a client has one turn in all or one in each container: any of these
    serves nobody twice from one container while somebody else, who could have been served, is not served at all. Nor
    do a client's newer jobs in one container come before an older one in another again and again.
    """

    def __init__(self) -> None:
        self._passed: dict[Lane, Counter[Lane]] = {}

    def forget(self) -> None:
        """Begin anew: the order of turns is not kept."""
        self._passed = {}

    def wait(self, lanes: Iterable[Lane]) -> None:
        """These wait now, and no others."""
        self._passed = {lane: self._passed.get(lane, Counter()) for lane in lanes}

    def take(self, id: JobId, lane: Lane, eligible: dict[Lane, JobId]) -> None:
        """A job was claimed; `eligible` has the oldest job of each lane of its priority that could have been, too."""
        for other, oldest in eligible.items():
            if other.client == lane.client and (other == lane or oldest > id):
                continue
            passed = self._passed.setdefault(other, Counter())
            passed[lane] += 1
            most = OWN_PASSES if other.client == lane.client else PASSES
            assert passed[lane] <= most, f"{lane} was served {passed[lane]} times while {other} waited, with {oldest}"
        for other, passed in self._passed.items():
            if other.client == lane.client:
                own_turn = other == lane or id < eligible.get(other, "")  # nothing of that lane was passed over
                self._passed[other] = Counter(
                    {by: n for by, n in passed.items() if by.client == lane.client and not own_turn}
                )
