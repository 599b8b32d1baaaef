"""State of a random trial: the store, its model, the given claims, and the choices."""

from collections.abc import Awaitable, Callable
from contextlib import AsyncExitStack
from types import TracebackType
from typing import Any, Self, TypeVar

import anyio
import anyio.lowlevel
from msgspec.structs import replace

from nodekit import Claim, Job, JobId, JobQuery, JobStore
from nodekit.testing.builders.jobs import make_job
from nodekit.testing.contracts.bounds import turn, within
from nodekit.testing.store_model.choices import (
    CLIENTS,
    KNOWN,
    NEW,
    OLDER,
    ORIGINS,
    PRIORITIES,
    TIME_LIMITS,
    Choices,
    id_of,
)
from nodekit.testing.store_model.expected import Expected, plain
from nodekit.testing.store_model.leaping_clock import LeapingClock

T = TypeVar("T")

TURNS = 5
"""Turns of the event loop before a claim is cancelled."""


class Trial:
    """State and helpers that all operations share."""

    def __init__(
        self,
        clock: LeapingClock,
        new_store: Callable[[], JobStore],
        expected: Expected,
        *,
        timeout_seconds: float,
    ) -> None:
        self._clock, self._new_store = clock, new_store
        self._timeout_seconds = timeout_seconds
        self._expected = expected
        self._claims: list[Claim] = []
        self._serial = 0
        self._skipped: list[int] = []
        self._choices = Choices(b"")
        self._words: list[str] = []
        """Choices so far, for the report of a failure."""

    async def __aenter__(self) -> Self:
        self._stack = AsyncExitStack()
        await self._open()
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self._stack.aclose()

    async def _open(self) -> None:
        self._store = await self._stack.enter_async_context(self._new_store())
        self._changes = await self._stack.enter_async_context(self._store.changes())

    def _choose(self, *values: T) -> T:
        value = self._choices.of(values)
        self._words.append(str(value))
        return value

    async def _soon(self, call: Awaitable[T]) -> T:
        with within(self._timeout_seconds, f"{getattr(call, '__qualname__', 'the call')} answers"):
            return await call

    def _id(self) -> JobId:
        """Make an id, mostly newer than all others: ids are given out in order, but may arrive out of order."""
        kind = self._choose(NEW, NEW, NEW, OLDER, KNOWN)
        if kind == KNOWN and self._expected.entries:
            return self._choose(*self._expected.entries)
        if kind == OLDER and self._skipped:
            return id_of(self._skipped.pop(0))
        self._serial += 2
        self._skipped.append(self._serial - 1)
        return id_of(self._serial)

    def _job(self, **fields: Any) -> Job:
        fields = {
            "client": self._choose(*CLIENTS),
            "priority": self._choose(*PRIORITIES),
            "origin": self._choose(*ORIGINS),
            "idempotency_key": self._choose(None, None, None, None, "k", ""),
            **fields,
        }
        job = make_job(self._choose("x", "y", "z"), id=self._id(), data=self._choose(0, 1), **fields)
        timeout, queue_timeout = self._choose(*TIME_LIMITS)
        return replace(job, timeout_seconds=timeout, queue_timeout_seconds=queue_timeout)

    def _some_claim(self) -> Claim | None:
        """Return one of the claims, mostly a valid one."""
        worth = [claim for claim in self._claims if self._expected.worth(claim)]
        mostly = self._choose(True, True, True, False)
        claims = worth if worth and mostly else self._claims
        if not claims:
            return None
        claim = self._choices.of(claims)
        self._words.append(claim.job.id)
        return claim

    def _some_ids(self) -> list[JobId]:
        return [self._choose(*self._expected.entries, id_of(999)) for _ in range(self._choose(1, 2, 5, 0))]

    def _pass(self, seconds: float) -> None:
        self._expected.now += seconds
        self._clock.leap(seconds)

    async def _compare(self) -> None:
        """Compare everything that is visible from outside, and the reported changes."""
        self._expected.waited()
        ids = list(self._expected.entries)
        got = await self._store.get(ids)
        assert [plain(job) for job in got] == self._expected.get(ids, None)
        for query in (JobQuery(), JobQuery(order="finished"), JobQuery(container="x"), JobQuery(error="no reply")):
            assert await self._store.find(query) == self._expected.find(query)
        expected = self._expected.pending()
        pending = await self._store.pending(["nobody", *expected[-1]])
        assert (pending.offchain, pending.onchain, dict(pending.groups)) == expected
        if self._expected.changed:
            await self._soon(self._hear())

    async def _hear(self) -> None:
        while self._expected.changed:
            await turn()
            change = await anext(self._changes)
            if change is None:
                self._expected.changed.clear()
            else:
                self._expected.changed.discard(change.id)


async def for_some_turns(call: Awaitable[list[Claim]]) -> list[Claim]:
    """Return the claims that come within a few turns; cancel the call then."""
    claims: list[Claim] = []

    async def ask() -> None:
        claims.extend(await call)

    async with anyio.create_task_group() as tasks:
        tasks.start_soon(ask)
        for _ in range(TURNS):
            await anyio.lowlevel.checkpoint()
        tasks.cancel_scope.cancel()
    return claims


async def cancelled(scope: anyio.CancelScope) -> None:
    """Wait until the scope is cancelled."""
    with scope:
        await anyio.sleep_forever()
