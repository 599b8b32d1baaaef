"""Counters of unfinished jobs, updated with every change, so that nothing has to be counted on request."""

from collections import Counter
from collections.abc import Collection, Sequence

from nodekit.interfaces.store import Pending, Unfinished
from nodekit.model.container import GroupId, Location
from nodekit.model.job import Job


class Counts:
    """Counters by origin and by group."""

    def __init__(self) -> None:
        self._origins: Counter[bool] = Counter()
        self._groups: dict[GroupId, int] = {}

    def pending(self, groups: Collection[GroupId] = ()) -> Pending:
        counts = {group: self._groups[group] for group in groups if group in self._groups}
        return Pending(self._origins[False], self._origins[True], counts)

    def jobs(self, jobs: Sequence[Job], by: int) -> None:
        """Count unfinished jobs in or out; finished ones do not count."""
        for job in jobs:
            if not job.status.finished:
                self._count(job.group, job.request.origin is Location.ONCHAIN, by)

    def one(self, entry: Unfinished, by: int) -> None:
        self._count(entry.group, entry.onchain, by)

    def _count(self, group: GroupId, onchain: bool, by: int) -> None:
        self._origins[onchain] += by
        if number := self._groups.get(group, 0) + by:
            self._groups[group] = number
        else:
            self._groups.pop(group, None)
