"""The engine of `shared_store`: in memory, with a queue, a clock, sessions of clients, and fenced claims.

An `EmbeddedStore` is its queue. A client renews its session. When the session lapses, its claims are queued again and
its announcements are forgotten. Each claim has a token; a write with an invalid token is refused.
"""

import time
from collections import Counter
from collections.abc import Callable, Collection, Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from itertools import count
from typing import Any

import anyio

from nodekit import (
    Announcement,
    Claim,
    ClaimLost,
    ClientId,
    Container,
    ContainerId,
    Job,
    JobId,
    Outcome,
    Settlement,
)
from nodekit_memory import MemoryStore


@dataclass(eq=False)
class SharedClaim:
    """A claim, on its way to a client or in its hands."""

    token: int
    job: Job
    takeovers: int
    age_seconds: float
    lost: bool = False
    """True if it was invalid before the client got it."""
    scope: anyio.CancelScope = field(init=False)
    """Created in the event loop of the client."""


@dataclass
class Session:
    """A client as the engine knows it; `lose` is called with the tokens of claims that have become invalid."""

    lose: Callable[[int], None]
    lapses_at: float = 0.0


@dataclass
class Ticket:
    """A call for claims, which may be given up at any time."""

    scope: anyio.CancelScope | None = None
    given_up: bool = False
    claims: list[SharedClaim] = field(default_factory=list)


class Engine:
    """The engine that all clients call. Its methods run in one event loop, and use its clock."""

    def __init__(self, lease_seconds: float) -> None:
        self.lease_seconds = lease_seconds
        self.store = MemoryStore()
        self.sessions: dict[int, Session] = {}
        self.claims: dict[int, tuple[int, Claim]] = {}
        self.takeovers: Counter[JobId] = Counter()
        self.announcements: dict[str, tuple[int, Announcement]] = {}
        self.numbers = count(1)

    async def open(self, lose: Callable[[int], None]) -> int:
        number = next(self.numbers)
        self.sessions[number] = Session(lose)
        await self.renew(number)
        return number

    async def renew(self, number: int) -> bool:
        """Renew the session; return False if it is gone."""
        if (session := self.sessions.get(number)) is not None:
            session.lapses_at = time.monotonic() + self.lease_seconds
        return session is not None

    async def watch(self) -> None:
        """End the sessions whose clients stopped renewing them."""
        while True:
            await anyio.sleep(self.lease_seconds / 20)
            for number, session in list(self.sessions.items()):
                if session.lapses_at <= time.monotonic():
                    await self.end(number, died=True)

    async def end(self, number: int, *, died: bool) -> None:
        """Forget a client, and queue again the jobs that it had claimed."""
        self.announcements = {name: entry for name, entry in self.announcements.items() if entry[0] != number}
        claims = [self.drop(token) for token, (owner, _) in list(self.claims.items()) if owner == number]
        self.sessions.pop(number, None)
        for claim in claims:
            with suppress(ClaimLost):  # settled at the same moment
                await self.take_back(claim, died=died)

    def drop(self, token: int) -> Claim:
        """Drop a claim that has become invalid."""
        owner, claim = self.claims.pop(token)
        if owner in self.sessions:
            self.sessions[owner].lose(token)
        return claim

    async def take_back(self, claim: Claim, *, died: bool) -> None:
        self.takeovers[claim.job.id] += died
        await self.store.release(claim, claim.job)

    async def claim(
        self, number: int, ticket: Ticket, containers: Collection[ContainerId] | None, limit: int
    ) -> list[SharedClaim]:
        """Wait for jobs that are due in the containers. With None, wait for jobs whose time is over."""
        with anyio.CancelScope() as ticket.scope:
            while not ticket.given_up and not ticket.claims:
                taken = await (
                    self.store.claim_expired(limit) if containers is None else self.store.claim(containers, limit)
                )
                ticket.claims = [self.grant(number, claim) for claim in taken]
                if number not in self.sessions:
                    await self.give_up(ticket)
        return ticket.claims

    async def add_claimed(self, number: int, job: Job) -> SharedClaim:
        claim = self.grant(number, await self.store.add_claimed(job))
        if number not in self.sessions:  # it has lapsed meanwhile
            claim.lost = True
            await self.take_back(self.drop(claim.token), died=True)
        return claim

    def grant(self, number: int, claim: Claim) -> SharedClaim:
        token = next(self.numbers)
        self.claims[token] = number, claim
        return SharedClaim(token, claim.job, self.takeovers[claim.job.id], claim.age_seconds)

    async def give_up(self, ticket: Ticket) -> None:
        """Withdraw a call for claims: its caller has gone."""
        ticket.given_up = True
        if ticket.scope is not None and not ticket.claims:
            ticket.scope.cancel()
        for claim in ticket.claims:
            with suppress(ClaimLost):
                await self.release(claim.token, claim.job, 0)

    async def save(self, token: int, job: Job) -> Job:
        await self.store.save(claim := self.held(token), job)
        if job.status.finished:
            self.claims.pop(token, None)
        return claim.job

    async def release(self, token: int, job: Job, delay_seconds: float) -> Job:
        await self.store.release(claim := self.held(token), job, delay_seconds=delay_seconds)
        self.claims.pop(token, None)
        return claim.job

    def held(self, token: int) -> Claim:
        if token not in self.claims:
            raise ClaimLost("the claim was taken over, settled or given back")
        return self.claims[token][1]

    async def settle(self, id: JobId, outcome: Outcome, client: ClientId | None, **call: Any) -> Settlement | None:
        settlement = await self.store.settle(id, outcome, client=client, **call)
        if settlement is not None and settlement.now:
            for token in [token for token, (_, claim) in self.claims.items() if claim.job.id == id]:
                self.drop(token)
        return settlement

    async def announce(self, number: int, name: str, announced: Announcement) -> None:
        plain = {
            id: Container(**{name: getattr(container, name) for name in Container.__struct_fields__})
            for id, container in announced.containers.items()
        }
        if number in self.sessions:
            self.announcements[name] = number, Announcement(plain, frozenset(announced.running))

    async def nodes(self) -> Mapping[str, Announcement]:
        return {name: announced for name, (_, announced) in self.announcements.items()}

    async def relay(self, begun: Callable[[], None], put: Callable[[Any], None]) -> None:
        async with self.store.changes() as changes:
            begun()
            async for id in changes:
                put(id)
