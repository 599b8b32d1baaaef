"""From requests to jobs that are kept: idempotency keys, limits, admission, ids; only then is there a job."""

import logging
import math
import time
from collections import Counter
from collections.abc import Awaitable, Callable, Sequence
from typing import TypeAlias

from msgspec.structs import replace

from nodekit._health import Trouble
from nodekit._ids import JobIds
from nodekit._progress import Progress
from nodekit.container import ClientId
from nodekit.errors import KeyReused, Refusal, StoreFailed, TooManyJobs, Unavailable
from nodekit.events import Event, JobAccepted, JobFinished
from nodekit.job import Job, JobRequest
from nodekit.limits import NodeLimits, finite
from nodekit.store import JobStore, Pending

logger = logging.getLogger("nodekit.node")

LONGEST_RETRY_SECONDS = 3600

Answer: TypeAlias = Job | Refusal | Unavailable | KeyReused


class Intake:
    """Takes requests on, or says why not."""

    def __init__(
        self,
        *,
        store: JobStore,
        progress: Progress,
        ids: JobIds,
        limits: NodeLimits,
        guards: Callable[[JobRequest], Awaitable[None]],
        tell: Callable[[Event], None],
    ) -> None:
        self._store = store
        self._progress = progress
        self._ids = ids
        self._limits = limits
        self._guards = guards
        self._tell = tell
        self._arriving: Counter[ClientId | None] = Counter()
        self.open = False
        """Whether requests are taken on."""
        self.trouble = Trouble()

    async def take(self, requests: Sequence[JobRequest]) -> list[Answer]:
        """An answer for each request, in their order; those that are admitted are kept together."""
        known = {number: await self._known(r) for number, r in enumerate(requests) if r.idempotency_key is not None}
        new = {number: request for number, request in enumerate(requests) if known.get(number) is None}
        taken = dict(zip(new, await self._take_new(list(new.values())), strict=True))
        return [known.get(number) or taken[number] for number in range(len(requests))]

    async def _known(self, request: JobRequest) -> Job | KeyReused | None:
        """What came of an earlier request with the same key."""
        ids = await self._store.find(client=request.client, idempotency_key=request.idempotency_key, limit=1)
        jobs = await self._store.get(ids, client=request.client) if ids else []
        return _same(request, jobs[0]) if jobs else None

    async def _take_new(self, requests: Sequence[JobRequest]) -> list[Answer]:
        room = self._room(await self._store.pending(), Counter(request.client for request in requests))
        reserved = room.copy()
        self._arriving += reserved  # held until they are in the store, so that nobody else fills it
        try:
            answers: list[Answer] = [await self._admit(request, room) for request in requests]
            kept = iter(await self._keep([answer for answer in answers if isinstance(answer, Job)]))
        except Unavailable as unavailable:
            return [unavailable if isinstance(answer, Job) else answer for answer in answers]
        finally:
            self._arriving -= reserved
        return [self._accepted(answer, next(kept)) if isinstance(answer, Job) else answer for answer in answers]

    # -- limits -----------------------------------------------------------------------------------

    def _room(self, pending: Pending, wanted: "Counter[ClientId]") -> "Counter[ClientId | None]":
        """For how many of the jobs wanted there is room: of each client, and under None in all."""
        room: Counter[ClientId | None] = Counter()
        room[None] = min(wanted.total(), self._limits.max_pending - pending.total - self._arriving[None])
        for client, number in wanted.items():
            free = self._most_of(client) - pending.clients.get(client, 0) - self._arriving[client]
            room[client] = min(number, free)
        return +room  # below 0 there is no room either

    def _most_of(self, client: ClientId) -> int:
        return self._limits.of(client).max_pending or self._limits.max_pending

    def _no_room(self, client: ClientId, room: "Counter[ClientId | None]") -> Unavailable | None:
        if not self.open:
            retry_after = math.ceil(min(max(self._limits.drain_seconds, 1), LONGEST_RETRY_SECONDS))
            return Unavailable("the node is draining or has not started", retry_after_seconds=retry_after)
        if not room[None]:
            return Unavailable(f"the node holds {self._limits.max_pending} unfinished jobs", retry_after_seconds=1)
        if not room[client]:
            text = f"you have {self._most_of(client)} unfinished jobs; wait until some are finished"
            return TooManyJobs(text, retry_after_seconds=1)
        return None

    # -- admission --------------------------------------------------------------------------------

    async def _admit(self, request: JobRequest, room: "Counter[ClientId | None]") -> Job | Refusal | Unavailable:
        if objection := self._no_room(request.client, room) or await self._objection(request):
            return objection
        room.subtract((None, request.client))
        least = self._limits.of(request.client).max_priority or 0
        if request.priority < least:
            request = replace(request, priority=least)
        timeout = finite(self._limits.job_timeout_seconds)
        job = Job(id=self._ids.next(), request=request, accepted_at=time.time(), timeout_seconds=timeout)
        return self._progress.advance(job)

    async def _objection(self, request: JobRequest) -> Refusal | Unavailable | None:
        try:
            self._progress.check(request)
            await self._guards(request)
        except (Refusal, Unavailable) as objection:
            return objection
        except Exception:
            logger.exception("pipeline %r failed in check; its request is refused", request.pipeline)
            return Refusal("Admission failed")
        return None

    # -- keeping ----------------------------------------------------------------------------------

    async def _keep(self, admitted: Sequence[Job]) -> Sequence[Job]:
        try:
            kept = await self._store.add(admitted) if admitted else []
        except StoreFailed as error:
            logger.error("%d jobs not accepted: %s", len(admitted), error)
            self.trouble.happened(f"the store keeps no jobs: {error}")
            raise Unavailable("the store cannot keep jobs right now", retry_after_seconds=5) from error
        self.trouble.is_over()
        return kept

    def _accepted(self, asked: Job, kept: Job) -> Job | KeyReused:
        if kept.id != asked.id:  # a request with the same key was faster
            return _same(asked.request, kept)
        self._tell(JobAccepted(kept))
        if kept.status.finished:  # its pipeline had nothing to do
            self._tell(JobFinished(kept))
        return kept


def _same(request: JobRequest, job: Job) -> Job | KeyReused:
    return job if job.request.body_digest == request.body_digest else KeyReused()
