"""Shared stores that break when their connection does, or their engine: clients, engines and what starts them."""

from collections.abc import AsyncIterator, Callable, Collection, Coroutine, Iterator, Sequence
from contextlib import ExitStack, asynccontextmanager, suppress
from pathlib import Path
from typing import Any, Self, TypeVar

import anyio
import pytest
from anyio.abc import SocketAttribute
from anyio.from_thread import start_blocking_portal
from msgspec.structs import replace

from nodekit import Announcement, ClaimLost, Job, JobId, JobQuery, Member, SharedStore, StoreFailed
from nodekit.testing import EngineFaultContract, make_job
from nodekit.testing.builders.components import make_table
from nodekit.testing.shared_store.engine import Engine, Granted, Welcome
from nodekit.testing.shared_store.line import Line
from nodekit.testing.shared_store.remote import SharedServerStore
from nodekit.testing.shared_store.server import HOST, Server

T = TypeVar("T")

# -- clients: connections --------------------------------------------------------------------------


class Sound(SharedServerStore):
    """A client that connects again."""


class NeverConnectsAgain(SharedServerStore):
    """Has one connection in its life."""

    async def _live(self, begun: Callable[[], None]) -> None:
        await super()._live(begun)
        await anyio.sleep_forever()


class WaitsForAnswers(SharedServerStore):
    """Waits for an answer as long as the connection is open."""

    async def _call(self, method: str, /, namespace: str = "", **arguments: Any) -> Any:
        return await (await self._reached()).call(method, namespace, **arguments)


class NeverNoticesSilence(SharedServerStore):
    """Waits for the answer to a renewal as long as the connection is open, and so never connects again."""

    async def _answered(self, call: Coroutine[Any, Any, T]) -> T:
        return await call


class RaisesWhatSocketsRaise(SharedServerStore):
    """Lets errors of its connection through as they are."""

    async def _call(self, method: str, /, namespace: str = "", **arguments: Any) -> Any:
        try:
            return await super()._call(method, namespace, **arguments)
        except StoreFailed as error:
            raise ConnectionError(str(error)) from error


class WaitsOnTheOldConnection(SharedServerStore):
    """Does not ask again for jobs on a new connection."""

    async def _wait(self, *wanted: Any) -> Sequence[Granted]:
        line = await self._reached()
        asked = dict(zip(("containers", "pipelines", "limit", "suspects", "room"), wanted, strict=True))
        try:
            granted: Sequence[Granted] = await line.call("claim", **asked)
        except StoreFailed:
            await anyio.sleep_forever()
        return granted


class _ListensAnew(SharedServerStore):
    """Has subscriptions of which it can lose something when it connects again."""

    async def _begin(self, line: Line) -> None:
        kept = set(self._subscriptions)
        begun = [one for one in kept if one.line is not None]
        self._subscriptions -= set(begun)
        await super()._begin(line)
        self._subscriptions |= set(begun)


class IsSilentAfterwards(_ListensAnew):
    """Forgets its subscriptions, and does not say so."""


class SaysThatItMissedSomethingAndIsSilent(_ListensAnew):
    async def _begin(self, line: Line) -> None:
        await super()._begin(line)
        for subscription in self._subscriptions:
            subscription.put(None)


class MissesQuietly(_ListensAnew):
    """Subscribes again, and does not say that it missed something."""

    async def _begin(self, line: Line) -> None:
        await super()._begin(line)
        for subscription in self._subscriptions:
            await subscription.begin(line)


class AnnouncesOnce(SharedServerStore):
    """Believes that the engine knows for ever what it was told."""

    async def announce(self, announcement: Announcement) -> None:
        if announcement.incarnation not in self._announced:
            await super().announce(announcement)

    async def _begin(self, line: Line) -> None:
        announced, self._announced = self._announced, {}
        await super()._begin(line)
        self._announced = announced


class LeavesOnceItCan(SharedServerStore):
    """Waits for its engine when it is left."""

    async def __aexit__(self, *error: object) -> None:
        try:
            await self._answered_at_last()
        finally:
            await super().__aexit__(*error)

    async def _answered_at_last(self) -> None:
        while True:
            with suppress(StoreFailed):
                await self.now()
                return


# -- clients: claims and writes --------------------------------------------------------------------


class KeepsItsClaims(SharedServerStore):
    """Believes in its claims until somebody tells it otherwise."""

    async def _watch_lease(self) -> None:
        await anyio.sleep_forever()


class ForgetsWhatItGaveUp(SharedServerStore):
    """Leaves a call for claims to itself when its caller has gone."""

    async def _wait(self, *wanted: Any) -> Sequence[Granted]:
        granted: list[Granted] = []
        answered = anyio.Event()

        async def ask() -> None:
            granted.extend(await super(ForgetsWhatItGaveUp, self)._wait(*wanted))
            answered.set()

        assert self._tasks is not None
        self._tasks.start_soon(ask)
        await answered.wait()
        return granted


class AddsOneByOne(SharedServerStore):
    async def add(self, jobs: Sequence[Job]) -> list[Job]:
        return [job for one in jobs for job in await super(AddsOneByOne, self).add([one])]


class AddsAgain(SharedServerStore):
    """Repeats what was not answered as new jobs."""

    async def add(self, jobs: Sequence[Job]) -> list[Job]:
        try:
            return await super().add(jobs)
        except StoreFailed:
            with suppress(StoreFailed):
                await super().add([replace(job, id=make_job().id) for job in jobs])
            raise


class AnswersBeforeItSaves(SharedServerStore):
    async def save(self, claim: Any, job: Job) -> None:
        self._check_held(claim)
        claim.job = job
        assert self._tasks is not None
        self._tasks.start_soon(self._save_later, claim, job)

    async def _save_later(self, claim: Any, job: Job) -> None:
        with suppress(StoreFailed, ClaimLost):
            await self._call("save", token=claim.token, job=job)


class SavesWithAnyClaim(SharedServerStore):
    """Takes a lost claim for a save that was not answered."""

    async def save(self, claim: Any, job: Job) -> None:
        with suppress(ClaimLost):
            await super().save(claim, job)


class WritesWhenItReads(SharedServerStore):
    """Counts in the engine how often it reads."""

    async def get(self, ids: Sequence[JobId], **asked: Any) -> list[Job]:
        await self.storage("reads").put("last", repr(ids).encode())
        return await super().get(ids, **asked)


class HidesThatItIsReadOnly(SharedServerStore):
    async def add(self, jobs: Sequence[Job]) -> list[Job]:
        try:
            return await super().add(jobs)
        except StoreFailed as error:
            if "read-only" in str(error):
                return list(jobs)
            raise


class DropsWhatCannotBeWritten(SharedServerStore):
    """Takes a claim whose job cannot be written for lost."""

    async def save(self, claim: Any, job: Job) -> None:
        try:
            await super().save(claim, job)
        except StoreFailed as error:
            if "read-only" not in str(error):
                raise
            self._lose(claim.token)
            raise ClaimLost("it cannot be written") from error


class IsAlwaysWell(SharedServerStore):
    """Answers from memory if the engine does not."""

    async def find(self, query: JobQuery) -> list[JobId]:
        with suppress(StoreFailed):
            return await super().find(query)
        return []

    async def nodes(self) -> Sequence[Member]:
        with suppress(StoreFailed):
            return await super().nodes()
        return []

    async def now(self) -> float:
        with suppress(StoreFailed):
            return await super().now()
        return 0.0

    async def announce(self, announcement: Announcement) -> None:
        with suppress(StoreFailed):
            await super().announce(announcement)

    async def save(self, claim: Any, job: Job) -> None:
        while True:
            with suppress(StoreFailed):
                return await super().save(claim, job)
            await anyio.sleep(0.01)


# -- engines ---------------------------------------------------------------------------------------


class ForgetsWhatItGranted(Engine):
    """Keeps claims whose answers were lost as long as their client lives."""

    async def resume(self, session: int | None, tokens: Collection[int], lose: Callable[[int], None]) -> Welcome:
        mine = {token for token, held in self.claims.items() if held.session == session}
        return await super().resume(session, {*tokens, *mine}, lose)

    async def give_back(self, number: int, tokens: Collection[int]) -> None:
        pass


class TakesOverWithoutAWord(Engine):
    """Gives the jobs of a client that connects again to others, and does not say so."""

    async def resume(self, session: int | None, tokens: Collection[int], lose: Callable[[int], None]) -> Welcome:
        return replace(await super().resume(session, (), lose), lost=[])


class NeverTakesOver(Engine):
    async def watch(self) -> None:
        await anyio.sleep_forever()


class LosesTheFence(Engine):
    """Stores what anybody saves."""

    async def save(self, token: int, job: Job) -> Job:
        if token in self.claims:
            return await super().save(token, job)
        await self.store.table.save(job)
        return job


class SaysThatItSaved(SharedServerStore):
    """Keeps to itself that a claim was lost."""

    async def save(self, claim: Any, job: Job) -> None:
        with suppress(ClaimLost):
            await super().save(claim, job)


class ForgetsAtRestart(Engine):
    """Keeps its jobs in memory."""


class InAThread:
    """The handles on an engine in a thread of this process, which is quicker to start than a process of its own."""

    def __init__(self, path: Path, lease_seconds: float, engine: type[Engine]) -> None:
        self.address = HOST, 0
        self._path = None if issubclass(engine, ForgetsAtRestart) else path
        self._lease_seconds, self._engine = lease_seconds, engine

    def __enter__(self) -> Self:
        with ExitStack() as stack:
            self._portal = stack.enter_context(start_blocking_portal())
            self._running = stack.enter_context(ExitStack())
            self._start()
            self._stack = stack.pop_all()
        return self

    def __exit__(self, *error: object) -> None:
        self._stack.close()

    @asynccontextmanager
    async def _run(self) -> AsyncIterator[Server]:
        engine = self._engine(make_table(self._path), self._lease_seconds)
        listening = await anyio.create_tcp_listener(local_host=HOST, local_port=self.address[1])
        async with engine.store, listening as listener, anyio.create_task_group() as tasks:
            self.address = HOST, listener.extra(SocketAttribute.local_port)
            server = Server(engine, tasks)
            tasks.start_soon(engine.watch)
            tasks.start_soon(listener.serve, server.serve)
            yield server
            tasks.cancel_scope.cancel()

    def _start(self) -> None:
        self._server = self._running.enter_context(self._portal.wrap_async_context_manager(self._run()))

    async def kill(self) -> None:
        await anyio.to_thread.run_sync(self._running.close)

    async def start(self) -> None:
        await anyio.to_thread.run_sync(self._start)

    async def read_only(self, on: bool, /) -> None:
        self._server.read_only = on


class Suite(EngineFaultContract):
    subject: type[Engine] | type[SharedServerStore]

    @pytest.fixture
    def engine(self, tmp_path: Path) -> Iterator[InAThread]:
        engine = self.subject if issubclass(self.subject, Engine) else Engine
        with InAThread(tmp_path / "jobs.db", self.lease_seconds, engine) as running:
            yield running

    @pytest.fixture
    def open_at(self) -> Callable[[str, int], SharedStore]:
        return SharedServerStore if issubclass(self.subject, Engine) else self.subject


HURRIED = {"timeout_seconds": 1.0, "quiet_seconds": 0.03, "lease_seconds": 0.3}
