"""The session of an entered store: its lease, and the claims that depend on it."""

import logging
import time
from collections.abc import Awaitable, Callable, Collection, Sequence
from typing import Any, TypeAlias
from uuid import uuid4

import anyio

from nodekit import HeldClaims, JobId, LeasedClaim, StoreFailed
from nodekit_redis._errors import Refused
from nodekit_redis._line import Line, Notice
from nodekit_redis._scripts import Scripts

logger = logging.getLogger("nodekit.store")
BEATS_PER_LEASE = 4
MOST_AGAIN = 100
"""Number of jobs of silent nodes that one call queues again."""


RedisClaim: TypeAlias = LeasedClaim[str]
"""A claim, whose token is the text that names the call for it."""


class Session:
    """The lease of a store, with its claims. It is renewed with one script, on a connection of its own."""

    def __init__(self, line: Line, scripts: Scripts, lease_seconds: float, call_seconds: float) -> None:
        self._line, self._scripts = line, scripts
        self.lease_seconds, self._call_seconds = lease_seconds, min(call_seconds, lease_seconds)
        self.id = ""
        self.claims = HeldClaims(lease_seconds, lambda: uuid4().hex, time.monotonic)
        self._unwanted: list[tuple[JobId, str]] = []
        """Claims to give back: nobody waits for them any more."""
        self._offset = 0.0
        self._beats = 0
        self._data = ""
        self.problem = ""
        """The loss of the data. Empty while all is well."""
        self._kicked = Notice()
        self._running = anyio.CancelScope()
        self.on_orphans: Callable[[Collection[JobId]], Awaitable[None]]
        """Is called with streams that nobody holds any more."""
        self.on_missed: Callable[[], None]
        """Is called when jobs may have changed without anybody telling."""

    def engine_time(self) -> float:
        """Return the server's time, as far as the last renewal shows it."""
        return time.monotonic() + self._offset

    def give_back(self, token: str, ids: Collection[JobId]) -> None:
        """Give claims back soon, without waiting for it."""
        self.claims.answered(token)
        self._unwanted += [(id, token) for id in ids]
        if self._unwanted:
            self._kicked.set()

    # -- the lease --------------------------------------------------------------------------------

    async def begin(self) -> None:
        """Begin a session. Raise `StoreFailed`."""
        self.id = uuid4().hex
        await self._beat(begin=True)

    async def leave(self) -> None:
        """End the session, and give back what it holds. Raise `StoreFailed`.

        A beat that was sent before is made before, on the same connection.
        """
        self._running.cancel()
        while await self._run("give_back", [self.id, MOST_AGAIN]) == MOST_AGAIN:
            pass
        self.claims.lose_all()

    async def run(self) -> None:
        """Renew the lease until cancelled, and cancel the claims if that fails for too long."""
        with self._running:  # cancelled before, if the store is left at once
            await self._renew()

    async def _renew(self) -> None:
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(self._watch)
            while True:
                kicked = self._kicked.next()
                pause = self.lease_seconds / BEATS_PER_LEASE
                try:
                    await self._beat()
                except StoreFailed as error:
                    logger.debug("the lease is not renewed: %s", error)
                    pause = min(self.lease_seconds / 20, 1.0)
                with anyio.move_on_after(pause):
                    await kicked.wait()

    async def _watch(self) -> None:
        while True:
            await anyio.sleep(self.lease_seconds / 20)
            self.claims.check_lease()

    async def _beat(self, *, begin: bool = False) -> None:
        held, sent_at = self.claims.keys, time.monotonic()
        self._beats += 1
        number = -1 if self._beats % BEATS_PER_LEASE == 0 else len(held)
        try:
            await self._give_back()
            answer = await self._run("beat", [self.id, self.lease_seconds, int(begin), MOST_AGAIN, number, uuid4().hex])
        except Refused as error:
            if error.no_writes:  # nor can others take anything over, and they get a new lease afterwards
                self.claims.renewed(sent_at)
            raise
        alive, now, again, orphans, name, claims = answer
        self._offset = float(now) - (sent_at + time.monotonic()) / 2
        if not alive:
            logger.warning("the lease of this node was over; it begins a new one")
            self.claims.lose_all()
            await self.begin()
            self.on_missed()
            return
        self.claims.renewed(sent_at)
        self._know(name.decode())
        if claims is not None:
            words = claims.decode().split()
            self._unwanted += self.claims.differing(held, set(zip(words[::2], words[1::2], strict=True)))
        if again:
            logger.warning("%d jobs of nodes that are silent were queued again", again)
        if again == MOST_AGAIN or self._unwanted:
            self._kicked.set()
        if orphans:
            await self.on_orphans([id.decode() for id in orphans])

    def _know(self, name: str) -> None:
        """Note the name of the data. If it is another one, all that was there before is gone."""
        if self._data not in ("", name):
            self.problem = (
                "the jobs of this prefix were deleted while nodes worked on them, or lost in a restart of Redis"
            )
            logger.error("%s", self.problem)
        self._data = name

    async def _give_back(self) -> None:
        """Queue jobs again whose claims nobody got, or that were cancelled here."""
        while self._unwanted:
            some = self._unwanted[:MOST_AGAIN]
            await self._run("give_back", [self.id, 0, *(part for key in some for part in key)])
            del self._unwanted[: len(some)]

    async def _run(self, script: str, arguments: Sequence[Any]) -> Any:
        return await self._scripts.run(self._line, self._call_seconds, script, arguments)
