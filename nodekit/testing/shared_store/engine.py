"""The engine of the kit's shared store: a queue, a clock, sessions of clients, and fenced claims.

An `EmbeddedStore` is its queue. A client renews its session. When the session lapses, its claims are queued again and
its node counts as gone. Each claim has a token; a write with an invalid token is refused.
"""

import logging
from collections import Counter
from collections.abc import Awaitable, Callable, Collection, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from itertools import count
from random import Random
from typing import Any, cast

import anyio
import msgspec
from msgspec.structs import replace

from nodekit import (
    REMEMBERED_SECONDS,
    Announcement,
    Claim,
    ClaimLost,
    ClaimRoom,
    ClientId,
    Clock,
    ContainerId,
    EmbeddedStore,
    Held,
    Job,
    JobId,
    JobTable,
    Member,
    Outcome,
    PluginStorage,
    QueueState,
    Settlement,
    StoreFailed,
    SystemClock,
    Unfinished,
)

logger = logging.getLogger("nodekit.testing.shared_store")

SHORTEST_INTERVAL_SECONDS = 0.05
"""Shortest time between two looks at the sessions."""

OF_SESSION = {"add_claimed", "announce", "claim", "give_back", "renew"}
"""Calls in the session of their client. Their parameter `number` is that session's number; the server sets it, so that
no client acts in the session of another."""


class Granted(msgspec.Struct):
    """A claim, as the engine gives it to a client.

    - `lost`: True if it was invalid before the client got it.
    """

    token: int
    job: Job
    takeovers: int
    age_seconds: float
    lost: bool = False


class Welcome(msgspec.Struct, frozen=True):
    """The engine's answer to a client that begins a session or goes on with it.

    - `lost`: Tokens of claims that the client has and the engine does not know.
    """

    session: int
    lease_seconds: float
    lost: Sequence[int] = ()


@dataclass
class Session:
    """A client as the engine knows it; `lose` is called with the tokens of claims that have become invalid."""

    lose: Callable[[int], None]
    lapses_at: float = 0.0
    name: str = ""


@dataclass
class Ticket:
    """A call for claims, which may be given up at any time."""

    scope: anyio.CancelScope | None = None
    given_up: bool = False
    claims: list[Granted] = field(default_factory=list[Granted])


@dataclass
class HeldClaim:
    """A claim in the hands of a session, since a time of the engine's clock."""

    session: int
    claim: Claim
    since: float
    writing: anyio.Lock = field(default_factory=anyio.Lock)


class JobsOfEngine(EmbeddedStore):
    """The jobs and their queue, with the number of times that nodes have lost each job in a row."""

    def __init__(self, table: JobTable, *, clock: Clock | None = None) -> None:
        super().__init__(table, clock=clock)
        self.takeovers: Counter[JobId] = Counter()

    def _entry(self, job: Job) -> Unfinished:
        return replace(super()._entry(job), suspect=self.takeovers[job.id] > 0)

    def storage(self, namespace: str) -> PluginStorage:
        table: Any = self.table
        storage: PluginStorage = table.storage(namespace)
        return storage


class Engine:
    """The engine that all clients call. Its methods run in one event loop, and use its clock."""

    def __init__(
        self, table: JobTable, lease_seconds: float, *, clock: Clock | None = None, random: Random | None = None
    ) -> None:
        """`random` draws the first number of the sessions and claims. By default, clock and chance are the system's."""
        self.clock = SystemClock() if clock is None else clock
        self.lease_seconds = lease_seconds
        self.store = JobsOfEngine(table, clock=self.clock)
        self.sessions: dict[int, Session] = {}
        self.claims: dict[int, HeldClaim] = {}
        self.orphans: list[Claim] = []
        """Claims of clients that have gone, whose jobs could not be queued again."""
        self.members: dict[str, tuple[int, Member]] = {}
        first = (Random() if random is None else random).getrandbits(62)
        self.numbers = count(first)  # no number of an earlier engine means anything to this one

    def method(self, name: str, namespace: str = "") -> Callable[..., Awaitable[Any]]:
        """Return a method that clients call: of the records of a namespace, of the engine, or of its store."""
        owner = self.store.storage(namespace) if namespace else self if hasattr(self, name) else self.store
        method: Callable[..., Awaitable[Any]] = getattr(owner, name)
        return method

    # -- sessions ---------------------------------------------------------------------------------

    async def open(self, lose: Callable[[int], None]) -> int:
        number = next(self.numbers)
        self.sessions[number] = Session(lose)
        await self.renew(number)
        return number

    async def resume(self, session: int | None, tokens: Collection[int], lose: Callable[[int], None]) -> Welcome:
        """Go on with a session, or begin one, and agree with the client on its claims.

        Claims that are not among the client's `tokens` are given back: their answers were lost on the way.
        """
        if session is not None and session in self.sessions:
            self.sessions[session].lose = lose
            await self.renew(session)
            await self.give_back(
                session, [t for t, held in self.claims.items() if held.session == session and t not in tokens]
            )
        else:
            session = await self.open(lose)
        lost = [token for token in tokens if token not in self.claims]
        return Welcome(session, self.lease_seconds, lost)

    async def give_back(self, number: int, tokens: Collection[int]) -> None:
        """Queue again the jobs of claims that a client never got or does not want."""
        for token in tokens:
            if token in self.claims and self.claims[token].session == number:
                with suppress(ClaimLost):
                    await self.release(token, self.claims[token].claim.job, 0)

    async def leave(self, session: int) -> None:
        """End the session of a client that leaves."""
        await self.end(session, died=False)

    async def end_streams(self) -> None:
        """Let the store fail the streams of an earlier engine, which could not be written at once."""
        while True:
            with suppress(StoreFailed):
                await self.store.ended()
            await anyio.sleep(self.lease_seconds / 4)

    async def renew(self, number: int) -> bool:
        """Renew the session; return False if it is gone."""
        if (session := self.sessions.get(number)) is not None:
            session.lapses_at = self.clock.monotonic() + self.lease_seconds
            self.see(number, live=True)
        return session is not None

    async def run(self) -> None:
        """Do what no client asks for, until cancelled."""
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(self.watch)
            tasks.start_soon(self.end_streams)

    async def watch(self) -> None:
        """End the sessions whose clients stopped renewing them, but for time in which the engine itself stood still.

        A machine that is frozen stops both, and one that is busy delays both.
        """
        interval = max(self.lease_seconds / 20, SHORTEST_INTERVAL_SECONDS)
        while True:
            slept_from = self.clock.monotonic()
            await anyio.sleep(interval)
            stood_still = max(0.0, self.clock.monotonic() - slept_from - 2 * interval)
            for number, session in list(self.sessions.items()):
                session.lapses_at += stood_still
                if session.lapses_at <= self.clock.monotonic():
                    await self.end(number, died=True)
            orphans, self.orphans = self.orphans, []
            for claim in orphans:
                await self.queue_again(claim)

    async def end(self, number: int, *, died: bool) -> None:
        """Forget a client, and queue again the jobs that it had claimed."""
        self.see(number, live=False, at=None if died else self.time())
        dropped = [self.drop(token) for token, held in list(self.claims.items()) if held.session == number]
        self.sessions.pop(number, None)
        for held in dropped:
            async with held.writing:  # what is being written is written first
                if not held.claim.job.status.finished:
                    with suppress(ClaimLost):  # settled at the same moment
                        await self.take_back(held.claim, died=died)

    def drop(self, token: int) -> HeldClaim:
        """Drop a claim that has become invalid."""
        held = self.claims.pop(token)
        if held.session in self.sessions:
            self.sessions[held.session].lose(token)
        return held

    async def take_back(self, claim: Claim, *, died: bool) -> None:
        self.store.takeovers[claim.job.id] += died
        await self.queue_again(claim)

    async def queue_again(self, claim: Claim) -> None:
        """Release a claim that nobody has any more. If the table cannot write now, `watch` tries again."""
        try:
            await self.store.release(claim, claim.job)
        except StoreFailed as error:
            logger.warning("job %s cannot be queued again yet: %s", claim.job.id, error)
            self.orphans.append(claim)

    # -- claims -----------------------------------------------------------------------------------

    async def claim(
        self,
        number: int,
        ticket: Ticket,
        containers: Collection[ContainerId] | None,
        pipelines: Collection[str] | None,
        limit: int,
        suspects: bool,
        room: ClaimRoom | None = None,
    ) -> list[Granted]:
        """Wait for jobs that are due in the containers. With None, wait for jobs whose time is over.

        Return none if the ticket was given up, or the session is over.
        """
        with anyio.CancelScope() as ticket.scope:
            while not ticket.given_up and not ticket.claims:
                if containers is None:
                    taken = await self.store.claim_expired(limit, most_bytes=room.most_bytes if room else None)
                else:
                    taken = await self.store.claim(containers, pipelines, limit, suspects=suspects, room=room)
                ticket.claims = [self.grant(number, claim) for claim in taken]
        if ticket.given_up or number not in self.sessions:  # it may have been given up while the jobs were on their way
            await self.give_up(ticket)
        return [] if ticket.given_up else ticket.claims

    async def add_claimed(self, number: int, job: Job) -> Granted:
        claim = self.grant(number, await self.store.add_claimed(job))
        if number not in self.sessions:  # it has lapsed meanwhile
            claim.lost = True
            await self.take_back(self.drop(claim.token).claim, died=True)
        return claim

    def grant(self, number: int, claim: Claim) -> Granted:
        token = next(self.numbers)
        self.claims[token] = HeldClaim(number, claim, self.time())
        return Granted(token, claim.job, self.store.takeovers[claim.job.id], claim.age_seconds)

    async def give_up(self, ticket: Ticket) -> None:
        """Withdraw a call for claims: its caller has gone."""
        ticket.given_up = True
        if ticket.scope is not None and not ticket.claims:
            ticket.scope.cancel()
        for claim in ticket.claims:
            with suppress(ClaimLost):
                await self.release(claim.token, claim.job, 0)

    async def save(self, token: int, job: Job) -> Job:
        held = self.held_claim(token)
        async with held.writing:
            stored_steps = self.held_claim(token).claim.job.ended_steps
            await self.store.save(held.claim, job)
            held.since = self.time()
            if job.ended_steps > stored_steps:
                self.store.takeovers.pop(job.id, None)
            if job.status.finished:
                self.claims.pop(token, None)
                self.store.takeovers.pop(job.id, None)
            return held.claim.job

    async def release(self, token: int, job: Job, delay_seconds: float) -> Job:
        held = self.held_claim(token)
        async with held.writing:  # a client whose answer was lost may repeat a call that is still being made
            if job.ended_steps > self.held_claim(token).claim.job.ended_steps:
                self.store.takeovers.pop(job.id, None)
            await self.store.release(held.claim, job, delay_seconds=delay_seconds)
            self.claims.pop(token, None)
            return held.claim.job

    def held_claim(self, token: int) -> HeldClaim:
        if token not in self.claims:
            raise ClaimLost("the claim was taken over, settled or given back")
        return self.claims[token]

    async def settle(
        self, id: JobId, outcome: Outcome, client: ClientId | None, call: Held | None = None
    ) -> Settlement | None:
        settlement = await self.store.settle(id, outcome, client=client, call=call)
        if settlement is not None and settlement.now:
            self.store.takeovers.pop(id, None)
            for token in [token for token, held in self.claims.items() if held.claim.job.id == id]:
                self.drop(token)
        return settlement

    # -- the cluster ------------------------------------------------------------------------------

    def time(self) -> float:
        return self.clock.time()

    async def now(self) -> float:
        return self.time()

    async def announce(self, number: int, announcement: Announcement) -> None:
        if (session := self.sessions.get(number)) is None:
            return
        session.name = announcement.name
        self.members[announcement.incarnation] = number, Member(self.plain(announcement), self.time(), live=True)

    # a method of its own, so that broken engines can replace it
    def plain(self, announcement: Announcement) -> Announcement:
        return announcement

    def see(self, number: int, *, live: bool, at: float | None = None) -> None:
        """Note a sign of life of a session's nodes, or their end. `at` is None for a node that died."""
        for incarnation, (owner, member) in list(self.members.items()):
            if owner == number:
                seen_at = self.time() if live else at or member.seen_at
                self.members[incarnation] = number, replace(member, seen_at=seen_at, live=live)

    async def nodes(self) -> Sequence[Member]:
        oldest = self.time() - REMEMBERED_SECONDS
        self.members = {i: entry for i, entry in self.members.items() if entry[1].live or entry[1].seen_at > oldest}
        return [member for _, member in self.members.values()]

    async def held(self, ids: Collection[JobId]) -> Mapping[JobId, Held]:
        found: dict[JobId, Held] = {}
        for held in self.claims.values():
            job, session = held.claim.job, self.sessions.get(held.session)
            if job.id in ids and session is not None and session.name:
                found[job.id] = Held(session.name, held.since, job.ended_steps, job.attempt)
        return found

    async def queues(self) -> Mapping[ContainerId, QueueState]:
        return await self.store.queues()

    async def relay(self, ids: Collection[JobId] | None, begun: Callable[[], None], put: Callable[[Any], None]) -> None:
        async with self.store.changes(ids) as changes:
            begun()
            async for change in changes:
                put(change)


def granted(result: object) -> list[Granted]:
    """Return the claims in the result of a call: one, a list of them, or none."""
    results: list[object] = cast("list[object]", result) if isinstance(result, list) else [result]
    return [one for one in results if isinstance(one, Granted)]
