"""A node's way to the engine: its connections, its session, and news between nodes."""

from asyncio import get_running_loop
from collections.abc import Collection, Mapping, Sequence
from types import TracebackType
from typing import Any, Self

import anyio
from anyio.abc import TaskGroup

from nodekit import Change, ChangeFeed, ContainerId, Job, JobId, StoreFailed, WaitingClaims
from nodekit_postgres._config import PostgresConfig, check_schema, check_url
from nodekit_postgres._connecting import Connection
from nodekit_postgres._ear import Ear, News, Teller
from nodekit_postgres._lines import Lines, Server
from nodekit_postgres._schema import check_version, continue_numbers, in_schema, migrate, opened
from nodekit_postgres._session import BEATS_PER_LEASE, Session
from nodekit_postgres._work import Statement
from nodekit_postgres._writing import seconds_left

SHARDS_PER_SESSION = 128
FORGET_SECONDS = 60.0
"""Pause between two rounds in which one node deletes the counts of groups that have no job any more."""
GROUPS_AT_ONCE = 500


class Client:
    """The connections of an entered store, and what runs beside its calls."""

    _tasks: TaskGroup

    def __init__(self, config: PostgresConfig) -> None:
        check_schema(config.schema)
        check_url("url", config.url)
        check_url("listen_url", config.listen_url)
        self.config = config
        self._entered = False

    @property
    def lease_seconds(self) -> float:
        return self.config.lease_seconds

    def sql(self, query: str) -> bytes:
        return in_schema(query, self.config.schema)

    # -- entering ---------------------------------------------------------------------------------

    async def __aenter__(self) -> Self:
        config, url = self.config, self.config.url.reveal()
        async with opened(config) as connection:
            if config.migrate:
                await migrate(connection, config.schema)
            await check_version(connection, config.schema)
            await continue_numbers(connection, config.schema)
        server = Server(url, config.connect_seconds, config.lease_seconds)
        self.writes, self.reads = Lines(server, config.connections), Lines(server, config.read_connections)
        self._lease = Lines(server, 1)
        self.session = Session(self._lease, config.lease_seconds, config.seconds_per_call, self.sql)
        self.session.on_orphans = self.end_streams
        self.session.on_missed, self.session.on_returned = self._tell_missed, self._tell_returned
        self.feed, self._teller = ChangeFeed(), Teller(self._notify)
        self.waiting = WaitingClaims(self._tell_queued, config.look_seconds, get_running_loop().call_later)
        self.ear = Ear(
            url if config.listen_url is None else config.listen_url.reveal(),
            config.schema,
            connect_seconds=config.connect_seconds,
            beat_seconds=config.lease_seconds / BEATS_PER_LEASE,
            test=lambda payload: self._notify([payload]),
            hear=self._hear,
            missed=self._missed,
        )
        self._tasks = await anyio.create_task_group().__aenter__()
        try:
            connected = [some.connected.next() for some in (self.writes, self.reads, self._lease)]
            for some in (self.writes, self.reads, self._lease):
                some.start(self._tasks)
            with anyio.fail_after(2 * config.connect_seconds):
                for event in connected:
                    await event.wait()
            await self.session.begin()
            self._tasks.start_soon(self.ear.run)
            await self.ear.tested.wait()
            self._tasks.start_soon(self.session.run)
            self._tasks.start_soon(self._teller.run)
            self._tasks.start_soon(self._forget_groups)
            self._entered = True
        except BaseException as error:
            await self._close(at_once=True)
            if isinstance(error, TimeoutError):
                raise StoreFailed(f"cannot reach PostgreSQL: {self.writes.cause}") from error
            raise
        return self

    async def end_streams(self, ids: Collection[JobId]) -> None:
        """End streams that nobody holds any more; other nodes may be about to do so, too."""
        raise NotImplementedError

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> bool | None:
        self._entered = False
        with anyio.CancelScope(shield=True):
            with anyio.move_on_after(min(self.config.lease_seconds, 5.0)):
                try:
                    await self.end_streams(await self.session.end())
                    self._teller.put(queued=("",), missed=True)
                    if payloads := self._teller.take():
                        await self._notify(payloads)
                except StoreFailed:
                    pass  # the lease runs out
        await self._close(at_once=False)
        return None

    async def _close(self, *, at_once: bool) -> None:
        self.ear.close()
        for some in (self.writes, self.reads, self._lease):
            some.close(at_once=at_once)
        self._tasks.cancel_scope.cancel()
        with anyio.CancelScope(shield=True):
            with anyio.move_on_after(min(self.config.lease_seconds, 5.0)):
                for some in (self.writes, self.reads, self._lease):
                    await some.ended.wait()
            for some in (self.writes, self.reads, self._lease):
                some.close(at_once=True)
        await self._tasks.__aexit__(None, None, None)

    async def _forget_groups(self) -> None:
        """Delete the counts of groups without jobs, some at a time. One node does so for all."""
        after = b""
        while True:
            await anyio.sleep(1.0 if after else FORGET_SECONDS)
            if self.session.slot:
                after = b""
                continue
            try:
                [(last,)] = await self.write("SELECT nodekit.forget_groups(%s, %s)", [after, GROUPS_AT_ONCE])
            except StoreFailed:
                continue
            after = last or b""

    # -- calls ------------------------------------------------------------------------------------

    async def _ask(self, lines: Lines, query: str, given: Any, *, kept: bool) -> list[tuple[Any, ...]]:
        async def call(connection: Connection, _: int) -> list[tuple[Any, ...]]:
            return await (await connection.execute(self.sql(query), given, binary=True)).fetchall()

        return await lines.run(call, self.config.seconds_per_call, kept=kept)

    async def read(self, query: str, given: Any = ()) -> list[tuple[Any, ...]]:
        return await self._ask(self.reads, query, given, kept=False)

    async def write(self, query: str, given: Any) -> list[tuple[Any, ...]]:
        return await self._ask(self.writes, query, given, kept=True)

    async def count(self, query: str, given: Mapping[str, Any]) -> list[tuple[Any, ...]]:
        """Make a write that counts jobs, in the shard of its connection. It may share its commit with others."""

        def in_shard(number: int) -> Mapping[str, Any]:
            return {**given, "shard": self.shard(number)}

        statement = Statement(self.sql(query), in_shard)
        return await self.writes.write(statement, self.config.seconds_per_call)

    def shard(self, number: int) -> int:
        """Return the shard in which a connection counts jobs. No other connection of any node has it."""
        return self.session.slot * SHARDS_PER_SESSION + number

    # -- news -------------------------------------------------------------------------------------

    async def _notify(self, payloads: Sequence[str]) -> None:
        query = "SELECT pg_notify(%s, payload) FROM unnest(%s::text[]) AS payload"
        await self._ask(self.writes, query, [self.config.schema, list(payloads)], kept=True)

    def changed(self, *jobs: Job, queued: Sequence[Job] = ()) -> None:
        """Publish changes, here and to the other nodes."""
        for job in jobs:
            self.feed.publish(Change(job.id, finished=job.status.finished))
        seconds = seconds_left(queued, self.session.engine_time())
        self.waiting.wake((), seconds_left=seconds)
        self.waiting.queued(queued)
        self._teller.put([(job.id, job.status.finished) for job in jobs], limit_seconds=seconds)

    def _tell_queued(self, containers: Collection[ContainerId]) -> None:
        self._teller.put(queued=containers)

    def _hear(self, news: News) -> None:
        if news.sender == self._teller.name:
            return
        if news.missed:
            self._missed()
        for id, finished in news.jobs:
            if finished:
                self.session.claims.lose(id)
            self.feed.publish(Change(id, finished=finished))
        self.waiting.wake(news.queued, seconds_left=news.limit_seconds)

    def _missed(self) -> None:
        """Look at everything again: something may have changed unheard."""
        self.feed.publish(None)
        self.waiting.wake_all()

    def _tell_missed(self) -> None:
        self._missed()
        self._teller.put(missed=True)

    def _tell_returned(self) -> None:
        self.waiting.wake_all()
        self._teller.put(missed=True)
