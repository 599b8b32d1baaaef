"""Claims of `EmbeddedStore`. They need no lease, since one process holds them all."""

from collections.abc import Sequence
from types import TracebackType

from nodekit.concurrency.scopes import cancel_scope
from nodekit.concurrency.signal import Signal
from nodekit.interfaces.store import JobTable, Unfinished
from nodekit.model.container import JobId
from nodekit.model.job import Job, StepRecord, result_bytes
from nodekit.model.queries import JobFields


class EmbeddedClaim:
    """The exclusive right to run one job of an embedded store, until the job is settled or given back."""

    takeovers = 0

    def __init__(self, job: Job, *, age_seconds: float = 0.0) -> None:
        self.job = job
        self.age_seconds = age_seconds
        self.scope = cancel_scope()
        self.lost = False
        self._writing = False
        self._written = Signal()

    async def __aenter__(self) -> None:
        """Take the right to write the job; other writers wait."""
        while self._writing:
            await self._written.wait()
        self._writing = True

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._writing = False
        self._written.set()


def number_within(jobs: Sequence[Unfinished], most_bytes: int | None) -> int:
    """Return how many of the first jobs have `most_bytes` together, at least one if there is any; None: all of them."""
    if most_bytes is None:
        return len(jobs)
    return _number_within([job.payload_bytes for job in jobs], most_bytes)


async def steps_of(table: JobTable, id: JobId, first: int, most_bytes: int) -> Sequence[StepRecord]:
    """Return steps of a job from `first` on: as many as have outputs of `most_bytes`, at least one if there is any."""
    if (ask := getattr(table, "steps", None)) is not None:
        found: Sequence[StepRecord] = await ask(id, first, most_bytes)
        return found
    jobs = await table.get([id], fields=JobFields.STEPS)
    steps = jobs[0].steps[first:] if jobs else ()
    return steps[: _number_within([result_bytes(step.result) for step in steps], most_bytes)]


def _number_within(sizes: Sequence[int], most_bytes: int) -> int:
    size = 0
    for number, one in enumerate(sizes):
        size += one
        if number and size > most_bytes:
            return number
    return len(sizes)
