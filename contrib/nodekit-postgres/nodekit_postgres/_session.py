"""The session of an entered store: its lease, and the claims that depend on it."""

import logging
import math
import time
from collections.abc import Awaitable, Callable, Collection
from typing import Any, TypeAlias
from uuid import UUID, uuid4

import anyio

from nodekit import HeldClaims, JobId, LeasedClaim, StoreFailed
from nodekit_postgres._connecting import Connection, Notice
from nodekit_postgres._errors import Gone, ReadOnly
from nodekit_postgres._lines import Lines
from nodekit_postgres._rows import octets, text

logger = logging.getLogger("nodekit.store")
BEATS_PER_LEASE = 4


PostgresClaim: TypeAlias = LeasedClaim[UUID]


class Session:
    """The lease of a store, with its claims. It is renewed with one statement, on a connection of its own."""

    def __init__(self, line: Lines, lease_seconds: float, call_seconds: float, schema: Callable[[str], bytes]) -> None:
        self._line, self.lease_seconds, self._call_seconds, self._sql = line, lease_seconds, call_seconds, schema
        self.id = uuid4()
        self.slot = 0
        self.claims = HeldClaims(lease_seconds, uuid4, time.monotonic)
        self._offset = 0.0
        self._entered_at = self._heard_at = math.inf
        """Engine's times at which this store was entered, and at which its lease was renewed last."""
        self.problem = ""
        """The loss of jobs. Empty while all is well."""
        self._kicked = Notice()
        self.on_orphans: Callable[[Collection[JobId]], Awaitable[None]]
        """Is called with streams that nobody holds any more."""
        self.on_missed: Callable[[], None]
        """Is called when jobs may have changed without anybody telling."""
        self.on_returned: Callable[[], None]
        """Is called when claims were given back that nobody has got."""

    def engine_time(self) -> float:
        """Return the engine's time, as far as the last renewal shows it."""
        return time.monotonic() + self._offset

    def give_up(self, token: UUID, *, soon: bool) -> None:
        """Forget a call for claims. What it claimed is given back: `soon` if it claimed something for sure."""
        self.claims.answered(token)
        if soon:
            self._kicked.set()

    # -- the lease --------------------------------------------------------------------------------

    async def begin(self) -> None:
        """Begin a session. Raise `StoreFailed`."""
        id, sent_at = uuid4(), time.monotonic()
        [(slot, now)] = await self._ask(
            "SELECT nodekit.begin_session(%s, %s), nodekit.engine_time()", [id, self.lease_seconds]
        )
        self.id, self.slot = id, slot
        self.claims.renewed(sent_at)
        self._entered_at, self._heard_at = min(now, self._entered_at), now
        self._set_clock(now, sent_at)

    async def end(self) -> Collection[JobId]:
        """Give back what is held. Return the streams that nobody holds now."""
        [(orphans,)] = await self._ask("SELECT nodekit.end_session(%s)", [self.id])
        self.claims.lose_all()
        return [text(id) for id in orphans]

    async def run(self) -> None:
        """Renew the lease until cancelled, and cancel the claims if that fails for too long."""
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(self._watch)
            while True:
                kicked, sent_at = self._kicked.next(), time.monotonic()
                try:
                    await self._beat()
                    pause = self.lease_seconds / BEATS_PER_LEASE
                except StoreFailed as error:
                    if isinstance(error, ReadOnly) and not await self._is_standby():
                        self.claims.renewed(sent_at)  # nobody can take the claims over meanwhile
                    if isinstance(error, Gone):
                        self._deleted()
                    logger.debug("the lease is not renewed: %s", error)
                    pause = min(self.lease_seconds / 20, 1.0)
                with anyio.move_on_after(pause):
                    await kicked.wait()

    async def _is_standby(self) -> bool:
        """Return True if this server may follow another one, which takes writes."""
        try:
            [(standby,)] = await self._ask("SELECT pg_is_in_recovery()", [])
        except StoreFailed:
            return True
        return bool(standby)

    async def _watch(self) -> None:
        while True:
            await anyio.sleep(self.lease_seconds / 20)
            self.claims.check_lease()

    async def _beat(self) -> None:
        held, sent_at = self.claims.keys, time.monotonic()
        [(alive, now, ids, tokens, taken_over, orphans, deleted_at)] = await self._ask(
            "SELECT alive, engine_time, ids, tokens, taken_over, orphans, deleted_at FROM nodekit.beat(%s, %s)",
            [self.id, self.lease_seconds],
        )
        self._set_clock(now, sent_at)
        if deleted_at is not None and deleted_at > self._entered_at:
            self._deleted()
        if not alive:
            if now - self._heard_at < self.lease_seconds:  # no other node may have ended this session
                self._deleted()
            self.claims.lose_all()
            await self.begin()
            self.on_missed()
            return
        self.claims.renewed(sent_at)
        self._heard_at = now
        there: set[tuple[JobId, UUID]] = {(text(id), token) for id, token in zip(ids or (), tokens or (), strict=True)}
        if differing := self.claims.differing(held, there):
            await self._give_back(differing)
        if taken_over:
            logger.warning("the jobs of %d nodes that are silent were queued again", taken_over)
            self.on_missed()
        if orphans:
            await self.on_orphans([text(id) for id in orphans])

    def _deleted(self) -> None:
        """Note that somebody has deleted what nodes work on."""
        if not self.problem:
            self.problem = "jobs were deleted from the tables while nodes worked on them"
            logger.error("%s", self.problem)

    async def _give_back(self, keys: Collection[tuple[JobId, UUID]]) -> None:
        """Queue jobs again whose claims nobody got, or that were cancelled here."""
        ids, tokens = [octets(id) for id, _ in keys], [token for _, token in keys]
        await self._ask("SELECT nodekit.requeue(%s, %s::bytea[], %s::uuid[], 0)", [self.id, ids, tokens])
        self.on_returned()

    def _set_clock(self, now: float, sent_at: float) -> None:
        self._offset = now - (sent_at + time.monotonic()) / 2

    async def _ask(self, query: str, parameters: list[Any]) -> list[tuple[Any, ...]]:
        async def call(connection: Connection, _: int) -> list[tuple[Any, ...]]:
            cursor = await connection.execute(self._sql(query), parameters, binary=True)
            return await cursor.fetchall()

        return await self._line.run(call, min(self._call_seconds, self.lease_seconds / 3), kept=True)
