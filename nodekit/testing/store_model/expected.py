"""The model of a `JobStore` in plain Python. Where the contract leaves room, the model does so, too."""

from collections import Counter
from collections.abc import Collection, Iterator, Sequence

from msgspec.structs import replace

from nodekit import Claim, ContainerId, Job, JobId, JobQuery, JobStatus, Location, Outcome, Settlement
from nodekit.testing.store_model.fairness import Lane, TurnTaking

SLACK_SECONDS = 4.0
"""Longest duration of a sequence on a slow machine. The times in a sequence differ by more."""


class Entry:
    """Expected state of one job."""

    def __init__(self, job: Job, now: float, age_began: float) -> None:
        self.job = plain(job)
        self.claim: Claim | None = None
        self.accepted_at, self.age_began = now, age_began
        self.ready_from = self.ready_by = now
        """Between these two times the job may be due or not; the contract leaves it open."""
        self.not_before, self.delay_seconds = now, 0.0
        self.place = 0
        """Place among the finished jobs, from 1."""

    @property
    def queued(self) -> bool:
        return self.claim is None and not self.job.status.finished


def plain(job: Job) -> Job:
    """Return a job without the fields that the store adds for itself."""
    return replace(job, not_before=None, delay_seconds=None, finish_number=None)


class Expected:
    """Expected jobs and time: `now` flows, and `jumped` is the sum of the steps of the wall clock."""

    def __init__(self) -> None:
        self.entries: dict[JobId, Entry] = {}
        self.changed: set[JobId] = set()
        self._finishes = 0
        self.now = self.jumped = self.opened_at = self.closed_seconds = 0.0
        self._turns = TurnTaking()

    # -- present state ----------------------------------------------------------------------------

    def worth(self, claim: Claim) -> bool:
        """Return True if a claim is still valid."""
        entry = self.entries.get(claim.job.id)
        return entry is not None and entry.claim is claim

    def claim_of(self, id: JobId) -> Claim | None:
        return self.entries[id].claim if id in self.entries else None

    def streaming(self) -> list[JobId]:
        """Return the ids of the unfinished streams."""
        jobs = [entry.job for entry in self.entries.values()]
        return [job.id for job in jobs if job.request.destination is Location.STREAM and not job.status.finished]

    def due(self, containers: Collection[ContainerId] | None = None, *, surely: bool = True) -> list[Entry]:
        """Return the jobs that `claim` must give, or may give with `surely=False`. None: jobs in all containers."""
        return [
            entry
            for entry in self.entries.values()
            if entry.queued
            and (containers is None or entry.job.due in containers)
            and (entry.ready_by if surely else entry.ready_from) <= self.now
            and not (surely and self._over(entry, surely=False))
        ]

    def over(self, *, surely: bool = True) -> list[Entry]:
        """Return the jobs that `claim_expired` must give, or may give with `surely=False`."""
        return [entry for entry in self.entries.values() if entry.queued and self._over(entry, surely=surely)]

    def _over(self, entry: Entry, *, surely: bool) -> bool:
        since = max(entry.ready_by, self.opened_at) if surely else entry.ready_from
        limits = entry.job.timeout_seconds, entry.job.queue_timeout_seconds
        passed = self._ages(entry)[not surely], self.now - since
        return any(limit is not None and limit < so_far for limit, so_far in zip(limits, passed, strict=True))

    def _ages(self, entry: Entry) -> tuple[float, float]:
        """Return the lowest and the highest possible age; a store may count from the time it was opened."""
        return self.now - max(entry.accepted_at, self.opened_at), self.now - self.closed_seconds - entry.age_began

    def pending(self) -> tuple[int, int, dict[str, int]]:
        """Return the numbers of unfinished jobs: offchain, onchain and by client."""
        left = [entry.job for entry in self.entries.values() if not entry.job.status.finished]
        onchain = sum(job.request.onchain for job in left)
        return len(left) - onchain, onchain, Counter(job.group for job in left)

    def get(self, ids: Sequence[JobId], client: str | None) -> list[Job]:
        found = [self.entries[id].job for id in dict.fromkeys(ids) if id in self.entries]
        return [job for job in found if client in (None, job.client)]

    def find(self, query: JobQuery) -> list[JobId]:
        jobs = [replace(entry.job, finish_number=entry.place or None) for entry in self.entries.values()]
        return query.choose(jobs)

    def _number(self, entry: Entry) -> None:
        if entry.job.status.finished and not entry.place:
            self._finishes += 1
            entry.place = self._finishes

    # -- changes ----------------------------------------------------------------------------------

    def added(self, jobs: Sequence[Job], kept: Sequence[Job]) -> None:
        assert len(kept) == len(jobs)
        for job, answer in zip(jobs, kept, strict=True):
            there = [entry.job for entry in self._known(job)]
            assert plain(answer) in (there or [job])
            if not there:
                self.entries[job.id] = Entry(job, self.now, self.now - self.closed_seconds)
                self.changed.add(job.id)

    def _known(self, job: Job) -> Iterator[Entry]:
        for id, entry in self.entries.items():
            keys = (entry.job.client, entry.job.request.idempotency_key), (job.client, job.request.idempotency_key)
            if id == job.id or (job.request.idempotency_key is not None and keys[0] == keys[1]):
                yield entry

    def claimed(self, claims: Sequence[Claim], containers: Collection[ContainerId], limit: int) -> None:
        assert 1 <= len(claims) <= limit
        for claim in claims:
            entry = self._claimed(claim, self.due(containers, surely=False))
            self._check_order(entry, self.due(containers))
            entry.claim = claim

    def _check_order(self, entry: Entry, due: Sequence[Entry]) -> None:
        job, lane = entry.job, Lane.of(entry.job)
        assert all(other.job.request.priority >= lane.priority for other in due), "by priority"
        eligible: dict[Lane, JobId] = {}
        for other in sorted((other.job for other in due), key=lambda other: other.id):
            if other.request.priority == lane.priority:
                eligible.setdefault(Lane.of(other), other.id)
        assert eligible.get(lane, job.id) >= job.id, "oldest first"
        self._turns.take(job.id, lane, eligible)

    def claimed_expired(self, claims: Sequence[Claim], limit: int) -> None:
        assert 1 <= len(claims) <= limit
        for claim in claims:
            self._claimed(claim, self.over(surely=False)).claim = claim

    def _claimed(self, claim: Claim, candidates: Sequence[Entry]) -> Entry:
        entry = next((entry for entry in candidates if entry.job.id == claim.job.id), None)
        assert entry is not None, f"the store gave {claim.job.id}, which no claim may have now"
        assert plain(claim.job) == entry.job
        youngest, oldest = self._ages(entry)
        assert youngest - SLACK_SECONDS <= claim.age_seconds <= oldest + SLACK_SECONDS
        assert not claim.scope.cancel_called
        return entry

    def looked(self, containers: Collection[ContainerId] | None) -> None:
        """Note a cancelled claim. The contract leaves open if it costs a turn."""
        self._turns.forget()

    def waited(self) -> None:
        """Note who waits now, between two operations."""
        self._turns.wait({Lane.of(entry.job) for entry in self.due()})

    def streams(self, job: Job, claim: Claim) -> None:
        self.added([job], [claim.job])
        self.entries[job.id].claim = claim

    def saved(self, claim: Claim, job: Job) -> None:
        entry = self.entries[job.id]
        entry.job, entry.claim = plain(job), None if job.status.finished else claim
        self._number(entry)
        self.changed.add(job.id)

    def released(self, job: Job, delay_seconds: float) -> None:
        entry = self.entries[job.id]
        entry.job, entry.claim = plain(job), None
        self._number(entry)
        entry.ready_from = entry.ready_by = self.now + delay_seconds
        entry.not_before, entry.delay_seconds = entry.ready_by + self.jumped, delay_seconds
        self.changed.add(job.id)

    def settled(self, id: JobId, outcome: Outcome, client: str | None, answer: Settlement | None) -> None:
        entry = self.entries.get(id)
        if entry is None or client not in (None, entry.job.client):
            assert answer is None
            return
        assert answer is not None
        assert answer.now is not entry.job.status.finished
        if answer.now:
            assert answer.job.finished_at is not None
            entry.job, entry.claim = plain(entry.job.finished(outcome, answer.job.finished_at)), None
            self._number(entry)
            self.changed.add(id)
        assert plain(answer.job) == entry.job

    def deleted(self, ids: Sequence[JobId], count: int) -> None:
        gone = {id for id in ids if id in self.entries and self.entries[id].job.status.finished}
        assert count == len(gone)
        for id in gone:
            del self.entries[id]

    def interrupted(self, job: Job) -> None:
        """Check and note the end of a stream that lost its claim."""
        assert job.status is JobStatus.FAILED
        assert getattr(job.result, "kind", None) == "interrupted"
        entry = self.entries[job.id]
        expected = entry.job.finished(Outcome(JobStatus.FAILED, job.result), job.finished_at or 0.0)
        entry.job, entry.claim = plain(expected), None
        self._number(entry)
        assert plain(job) == entry.job
        self.changed.add(job.id)

    def reopened(self, closed_seconds: float) -> None:
        """Void all claims. Delays go on by the wall clock; if that was stepped, the time it shows is allowed, too."""
        self.closed_seconds += closed_seconds
        self.opened_at = self.now
        self._turns.forget()
        for entry in self.entries.values():
            left = min(max(0.0, entry.not_before - self.now - self.jumped), entry.delay_seconds)
            by_flow = (entry.ready_from, entry.ready_by) if entry.queued else (self.now, self.now)
            entry.ready_from, entry.ready_by = min(by_flow[0], self.now + left), max(by_flow[1], self.now + left)
            entry.claim = None
