"""The way from requests to stored jobs: idempotency keys, limits, admission, ids. Only a stored job exists."""

import logging
import math
from collections.abc import Awaitable, Callable, Collection, Mapping, Sequence
from functools import partial
from types import TracebackType
from typing import Self, TypeAlias, get_args

from msgspec.structs import replace

from nodekit.errors import KeyReused, NodekitError, NotFailed, Refusal, StoreFailed, TooManyJobs, Unavailable
from nodekit.execution.job_stream import JobStream
from nodekit.execution.transitions import Progress
from nodekit.interfaces.store import JobStore, Pending
from nodekit.model.clock import NodeClock
from nodekit.model.container import ClientId, GroupId, Location
from nodekit.model.counting import counted
from nodekit.model.events import JobAccepted, JobFinished, RequestRefused
from nodekit.model.identity import OWN_GROUP, Identity
from nodekit.model.ids import JobIds
from nodekit.model.job import UNSUCCESSFUL, Job, JobRequest, JobStatus, RetryFrom
from nodekit.model.limits import ClientLimits, NodeLimits, finite, group_share
from nodekit.model.queries import JobQuery
from nodekit.model.subscription import SubscriptionRequest
from nodekit.node.cluster import Cluster
from nodekit.node.disk_quota import FULL_RETRY_SECONDS, DiskQuota, StoredRoom
from nodekit.node.emitter import Emitter
from nodekit.node.health import Trouble
from nodekit.node.requests import request_problem

logger = logging.getLogger("nodekit.node")

LONGEST_RETRY_SECONDS = 3600

Answer: TypeAlias = Job | Refusal | Unavailable | KeyReused
Begin: TypeAlias = Callable[[Job], Job]


class Admission:
    """Admission of requests: accepts each one, or gives the reason why not."""

    def __init__(
        self,
        *,
        store: JobStore,
        progress: Progress,
        cluster: Cluster,
        clock: NodeClock,
        ids: JobIds,
        limits: NodeLimits,
        guards: Callable[[JobRequest], Awaitable[None]],
        subscriptions: Callable[[SubscriptionRequest, Identity], Awaitable[None]],
        client_limits: Callable[[ClientId, GroupId], ClientLimits | None] | None,
        emitter: Emitter,
    ) -> None:
        self._store = store
        self._emitter = emitter
        self._progress = progress
        self._cluster = cluster
        self._now = clock.now
        self._ids = ids
        self._limits = limits
        self._guards = guards
        self._subscriptions = subscriptions
        self._client_limits = client_limits
        self._clients = {id: own.over(limits.each_client) for id, own in limits.clients.items()}
        known = [limits.each_client, *self._clients.values()]
        self._limits_disk = client_limits is not None or any(one.max_stored_bytes is not None for one in known)
        """True if any client may have a limit on its bytes in the store."""
        self._share = group_share(limits.max_pending)
        self._arriving = 0
        self._arriving_of: dict[GroupId, int] = {}
        self.open = False
        """True while requests are accepted."""
        self.trouble = Trouble(clock.monotonic)
        self.disk = DiskQuota(store)

    async def take(self, requests: Sequence[JobRequest], begin: Begin | None = None) -> list[Answer]:
        """Return an answer for each request, in their order. The admitted ones are stored together.

        `begin` turns a new job into its first state. By default, its first step is due.
        """
        again, begin = begin is not None, begin or self._progress.advance
        answered = [await self._at_once(request) for request in requests]
        new = [request for request, answer in zip(requests, answered, strict=True) if answer is None]
        taken = iter(await self._take_new(new, begin, again=again) if new else ())
        answers = [next(taken) if answer is None else answer for answer in answered]
        for request, answer in zip(requests, answers, strict=True):
            if not isinstance(answer, Job):
                self._emitter.emit(RequestRefused(request.client, answer, request))
        return answers

    async def take_again(self, old: Job, request: JobRequest, start: RetryFrom) -> Answer:
        """Take a request to try a job again; answer as `take` does. Raise `NotFailed` if there is nothing to retry."""

        def begin(job: Job) -> Job:
            again = self._progress.advance(job.retrying(old, start))
            if again.steps and again.status is JobStatus.FAILED:  # it would be stored as a job that has failed already
                raise NotFailed(
                    "failed by its pipeline after its last output, and would fail again", "retry it from the start"
                )
            return again

        if start not in get_args(RetryFrom):
            raise NodekitError(f"start: expected one of {', '.join(get_args(RetryFrom))}, got {start!r}")
        try:
            if old.status not in UNSUCCESSFUL:
                raise NotFailed("finished and successful" if old.status.finished else "not finished")
            (answer,) = await self.take([request], begin)
            return answer
        except NotFailed as objection:
            self._emitter.emit(RequestRefused(request.client, objection, request))
            raise

    async def _at_once(self, request: JobRequest) -> Job | KeyReused | Refusal | None:
        """Return the answer if no admission is needed: the request is invalid, or its key is known."""
        if text := request_problem(request):
            return Refusal(text)
        if request.destination is Location.STREAM:
            return Refusal("destination: nobody would read this stream; ask for it by Node.stream(request)")
        return None if request.idempotency_key is None else await self._known(request)

    async def _known(self, request: JobRequest) -> Job | KeyReused | None:
        """Return the answer to an earlier request with the same key, or None.

        It also works while the node drains, as long as the store answers.
        """
        try:
            query = JobQuery(client=request.client, idempotency_key=request.idempotency_key, limit=1)
            ids = await self._store.find(query)
            jobs = await self._store.get(ids, client=request.client) if ids else []
        except StoreFailed:
            if self.open:
                raise
            return None
        return _same(request, jobs[0]) if jobs else None

    async def _take_new(self, requests: Sequence[JobRequest], begin: Begin, *, again: bool) -> list[Answer]:
        disk = await self._room_on_disk(requests, again=again)
        try:
            with self._reserved(await self._store.pending(_groups(requests)), requests, disk) as room:
                answers: list[Answer] = [await self._admit(request, room, begin) for request in requests]
                admitted = [answer for answer in answers if isinstance(answer, Job)]
                if not admitted:
                    return answers
                leave = room.hand_on()
            return await self._emitter.to_its_end(partial(self._keep_admitted, answers, admitted, leave))
        finally:
            disk.leave()

    async def _keep_admitted(
        self, answers: Sequence[Answer], admitted: Sequence[Job], leave: Callable[[], None]
    ) -> list[Answer]:
        leave()  # from its next instruction on, the store counts these jobs
        try:
            kept = iter(await self._keep(admitted))
        except Unavailable as unavailable:
            return [unavailable if isinstance(answer, Job) else answer for answer in answers]
        return [self._accepted(answer, next(kept)) if isinstance(answer, Job) else answer for answer in answers]

    async def stream(self, request: JobRequest, begin: Callable[[Job, Callable[[], None]], JobStream]) -> JobStream:
        """Return the stream of a job that is admitted and stored; `begin` has the job stored and run.

        Raise `Refusal` or `Unavailable`. If the caller gives up, the stream ends.
        """
        try:
            return await self._stream(request, begin)
        except (Refusal, Unavailable) as objection:
            self._emitter.emit(RequestRefused(request.client, objection, request))
            raise

    async def _stream(self, request: JobRequest, begin: Callable[[Job, Callable[[], None]], JobStream]) -> JobStream:
        if text := request_problem(request):
            raise Refusal(text)
        disk = await self._room_on_disk([request], again=False)
        try:
            return await self._stream_within(request, disk, begin)
        finally:
            disk.leave()

    async def _stream_within(
        self, request: JobRequest, disk: StoredRoom, begin: Callable[[Job, Callable[[], None]], JobStream]
    ) -> JobStream:
        with self._reserved(await self._store.pending(_groups([request])), [request], disk) as room:
            job = await self._admit(request, room, self._progress.advance)
            if not isinstance(job, Job):
                raise job
            if elsewhere := self._not_here(request):
                raise elsewhere
            if job.status.finished:  # its pipeline has nothing to do
                return await self._emitter.to_its_end(partial(self._nothing_to_read, job))
            stream = begin(job, room.hand_on())  # it raises only while the node drains, when nobody needs the room
            try:
                await stream.accepted()
            except StoreFailed as error:
                stream.leave()
                raise self._not_kept(1, error) from error
            except BaseException:
                stream.leave()
                raise
        self.trouble.is_over()
        return stream

    async def _nothing_to_read(self, job: Job) -> JobStream:
        (kept,) = await self._keep([job])
        self._accepted(job, kept)
        stream = JobStream(kept)
        stream.end(kept, streamed=False)
        return stream

    def _not_here(self, request: JobRequest) -> Unavailable | None:
        """Return the objection to a stream that this node cannot run, because its containers are on other nodes."""
        missing = [id for id in request.containers if not self._cluster.here(id)]
        if not missing:
            return None
        others = self._cluster.with_all(request.containers, request.pipeline)
        named = ", ".join(" ".join([one.name, *(f"({url})" for url in one.urls[:1])]) for one in others)
        cure = f"ask a node that has all its containers: {named}" if named else "no node has all its containers now"
        return Unavailable(
            f"a stream runs on one node, and container {missing[0]!r} does not run here; {cure}", retry_after_seconds=5
        )

    # -- limits -----------------------------------------------------------------------------------

    async def _room_on_disk(self, requests: Sequence[JobRequest], *, again: bool) -> StoredRoom:
        limited = [(request, self._limits_of(request)) for request in requests] if self._limits_disk else ()
        return await self.disk.room(limited, again=again)

    def _reserved(self, pending: Pending, requests: Sequence[JobRequest], disk: StoredRoom) -> "_Room":
        """Reserve room for as many requests as possible until the store counts them, so that no other call fills it."""
        wanted: dict[GroupId, int] = {}
        most: dict[GroupId, int] = {}
        for request in requests:
            group, limit = request.in_group, self._most_of(request)
            wanted[group] = wanted.get(group, 0) + 1
            most[group] = min(limit, most.get(group, limit))
        groups: dict[GroupId, int] = {}
        for group, number in wanted.items():
            free = most[group] - pending.groups.get(group, 0) - self._arriving_of.get(group, 0)
            groups[group] = max(0, min(number, free))
        left = max(0, self._limits.max_pending - pending.total - self._arriving)
        total = min(sum(groups.values()), left)
        self._count_arriving(total, groups, +1)
        held = dict(groups)
        return _Room(left, groups, disk, leave=lambda: self._count_arriving(total, held, -1))

    def _count_arriving(self, total: int, groups: Mapping[GroupId, int], sign: int) -> None:
        self._arriving += sign * total
        for group, number in groups.items():
            self._arriving_of[group] = self._arriving_of.get(group, 0) + sign * number
            if not self._arriving_of[group]:
                del self._arriving_of[group]

    def _limits_of(self, request: JobRequest) -> ClientLimits:
        """Return the limits of the client, or else of its group, or else of every client; before all, a plugin's."""
        limits = self._limits.each_client
        if self._clients:
            limits = self._clients.get(request.client) or self._clients.get(request.in_group) or limits
        known = self._client_limits(request.client, request.in_group) if self._client_limits else None
        return limits if known is None else known.over(limits)

    def _most_of(self, request: JobRequest) -> int:
        """Return the number of unfinished jobs that the request's group may have."""
        if (own := self._limits_of(request).max_pending) is not None:
            return own
        return self._limits.max_pending if request.in_group == OWN_GROUP else self._share

    def _no_room(self, request: JobRequest, room: "_Room") -> Unavailable | None:
        if not self.open:
            return self._closed()
        if not room.total:
            return Unavailable(
                f"the node holds {counted(self._limits.max_pending, 'unfinished job')}", retry_after_seconds=1
            )
        if self.disk.full():
            return Unavailable("the disk of the node is almost full", retry_after_seconds=FULL_RETRY_SECONDS)
        if not room.groups[request.in_group]:
            text = f"you have {counted(self._most_of(request), 'unfinished job')}; wait until some are finished"
            return TooManyJobs(text, retry_after_seconds=1)
        return room.disk.objection(request)

    def _closed(self) -> Unavailable:
        retry_after = math.ceil(min(max(self._limits.drain_seconds, 1), LONGEST_RETRY_SECONDS))
        return Unavailable("the node is draining or has not started", retry_after_seconds=retry_after)

    # -- admission --------------------------------------------------------------------------------

    async def subscribe(self, request: SubscriptionRequest, identity: Identity) -> None:
        """Hand a subscription to the plugins. Raise `Refusal` or `Unavailable`."""
        try:
            if not self.open:
                raise self._closed()
            await self._subscriptions(request, identity)
        except (Refusal, Unavailable) as objection:
            self._emitter.emit(RequestRefused(identity.client, objection))
            raise

    async def _admit(self, request: JobRequest, room: "_Room", begin: Begin) -> Job | Refusal | Unavailable:
        least = self._limits_of(request).max_priority
        if least is not None:
            request = replace(request, priority=max(request.priority, least))
        if objection := self._no_room(request, room) or await self._objection(request):
            return objection
        room.take(request)
        timeout = finite(self._limits.job_timeout_seconds)
        job = Job(id=self._ids.next(), request=request, accepted_at=self._now(), timeout_seconds=timeout)
        return begin(job)

    async def _objection(self, request: JobRequest) -> Refusal | Unavailable | None:
        try:
            try:
                self._progress.check(request)
            except Refusal:  # other nodes may have announced meanwhile what it lacks
                if not await self._cluster.refresh():
                    raise
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
            kept = await self._store.add(admitted)
        except StoreFailed as error:
            raise self._not_kept(len(admitted), error) from error
        self.trouble.is_over()
        return kept

    def _not_kept(self, number: int, error: StoreFailed) -> Unavailable:
        logger.error("%s not accepted: %s", counted(number, "job"), error)
        self.trouble.happened(f"the store cannot keep jobs: {error}")
        return Unavailable("the store cannot keep jobs right now", retry_after_seconds=5)

    def _accepted(self, asked: Job, kept: Job) -> Job | KeyReused:
        if kept.id != asked.id:  # another request with the same key was faster
            return _same(asked.request, kept)
        self._emitter.emit(JobAccepted(kept))
        if kept.status.finished:  # its pipeline had nothing to do
            self._emitter.emit(JobFinished(kept))
        return kept


class _Room:
    """The number of further jobs there is room for: on the node, and for each group that asks.

    It is reserved until the context is left, unless it is handed on.
    """

    __slots__ = ("_leave", "disk", "groups", "total")

    def __init__(self, total: int, groups: dict[GroupId, int], disk: StoredRoom, *, leave: Callable[[], None]) -> None:
        self.total = total
        self.groups = groups
        self.disk = disk
        self._leave = leave

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._leave()

    def hand_on(self) -> Callable[[], None]:
        """Return what releases the reservation, and forget it: from now on, whoever stores the jobs has to call it."""
        leave, self._leave = self._leave, _nothing
        return leave

    def take(self, request: JobRequest) -> None:
        self.total -= 1
        self.disk.take(request)
        self.groups[request.in_group] -= 1


def _nothing() -> None:
    """Release nothing: somebody else does."""


def _groups(requests: Sequence[JobRequest]) -> Collection[GroupId]:
    return list({one.in_group: None for one in requests})  # in their order, unlike a set


def _same(request: JobRequest, job: Job) -> Job | KeyReused:
    return job if job.request.body_digest == request.body_digest else KeyReused()


def kept_or_raise(answer: Answer) -> Job:
    """Return the job that was accepted, or raise the objection."""
    if isinstance(answer, NodekitError):
        raise answer
    return answer
