"""Claims of `EmbeddedStore`. They need no lease, since one process holds them all."""

from types import TracebackType

import anyio

from nodekit.concurrency.signal import Signal
from nodekit.model.job import Job


class EmbeddedClaim:
    """The exclusive right to run one job of an embedded store, until the job is settled or given back."""

    takeovers = 0

    def __init__(self, job: Job, *, age_seconds: float = 0.0) -> None:
        self.job = job
        self.age_seconds = age_seconds
        self.scope = anyio.CancelScope()
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
