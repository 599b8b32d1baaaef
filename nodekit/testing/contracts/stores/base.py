"""Bases of the suites of tables and stores: settings, fixtures and helpers, no tests."""

from collections.abc import AsyncIterator, Awaitable, Callable, Collection, Iterator, Sequence
from functools import partial
from typing import Any

import anyio
import anyio.lowlevel
import pytest
from msgspec.structs import replace

from nodekit import (
    Change,
    Claim,
    ContainerId,
    Job,
    JobId,
    JobStatus,
    JobStore,
    JobTable,
    Outcome,
)
from nodekit.testing.builders.jobs import SEQUENCE, make_job
from nodekit.testing.contracts.backends import Contract
from nodekit.testing.contracts.bounds import turn, within

CLIENTS = ("alice", "bob", "carol", "client 0", "client 1", "client 2")
"""Clients of the suite whose jobs are counted."""
SUCCEEDED = Outcome(JobStatus.SUCCESS)
CANCELLED = Outcome(JobStatus.CANCELLED)


class KeeperBase(Contract):
    """Base of the suites of tables and stores."""

    timeout_seconds: float = 10.0
    """Time limit for anything that must happen."""
    quiet_seconds: float = 0.05
    """Time after which the suite assumes that nothing more happens."""

    @pytest.fixture
    def keeper(self) -> JobTable | JobStore:
        """Give what is tested; `JobTableContract` and `JobStoreContract` do."""
        raise NotImplementedError("subclass JobTableContract or JobStoreContract, not its base")

    async def finish(self, keeper: Any, job: Job, outcome: Outcome = SUCCEEDED) -> None:
        """Bring an added job to an end."""
        raise NotImplementedError("subclass JobTableContract or JobStoreContract, not its base")


class StoreBase(KeeperBase):
    """Base of the suites of stores: claims and waits that end even if a store is broken."""

    async def claims(
        self,
        store: JobStore,
        count: int,
        *,
        containers: Collection[ContainerId] = ("echo",),
        pipelines: Collection[str] | None = SEQUENCE,
        suspects: bool = True,
        seconds: float | None = None,
    ) -> list[Claim]:
        """Claim until there are `count` claims; a store may give fewer at once."""
        claims: list[Claim] = []
        with within(seconds or self.timeout_seconds, f"`claim` gives {count} jobs that are due"):
            while len(claims) < count:
                some = await store.claim(containers, pipelines, count - len(claims), suspects=suspects)
                assert 1 <= len(some) <= count - len(claims)
                claims += some
        return claims

    async def nothing_to_claim(
        self,
        store: JobStore,
        *,
        containers: Collection[ContainerId] = ("echo",),
        pipelines: Collection[str] | None = SEQUENCE,
        suspects: bool = True,
    ) -> bool:
        """Return True if a claim only waits. Takes `quiet_seconds`."""
        claims: Sequence[Claim] = ()
        with anyio.move_on_after(self.quiet_seconds):
            claims = await store.claim(containers, pipelines, 1, suspects=suspects)
        return not claims

    async def claimed(
        self, store: JobStore, job: Job | None = None, *, containers: Collection[ContainerId] = ("echo",)
    ) -> Claim:
        """Add a job and claim it."""
        await store.add([job or make_job("echo", "reverse")])
        [claim] = await self.claims(store, 1, containers=containers)
        return claim

    @property
    def short(self) -> float:
        """Time limit that ends soon, but not before a test has looked."""
        return 3 * self.quiet_seconds

    def hasty(self, *containers: str) -> Job:
        """Make a job with a short time limit in the queue."""
        return replace(make_job(*containers), queue_timeout_seconds=self.short)

    async def expired(self, store: JobStore, count: int = 1) -> list[JobId]:
        """Claim expired jobs until there are `count` of them."""
        ids: list[JobId] = []
        with within(self.timeout_seconds, f"`claim_expired` gives {count} jobs whose time is over"):
            while len(ids) < count:
                some = await store.claim_expired(count - len(ids))
                assert 1 <= len(some) <= count - len(ids)
                ids += [claim.job.id for claim in some]
        return ids

    async def nothing_expires(self, store: JobStore, *, seconds: float | None = None) -> bool:
        """Return True if `claim_expired` only waits."""
        with anyio.move_on_after(seconds or self.quiet_seconds):
            await store.claim_expired(1)
            return False
        return True

    async def counts(self, store: JobStore) -> tuple[int, int, dict[str, int]]:
        """Return the present numbers of jobs: offchain, onchain and of the clients that the suite uses."""
        pending = await store.pending(CLIENTS)
        assert pending.total == pending.offchain + pending.onchain
        return pending.offchain, pending.onchain, dict(pending.groups)

    async def seen(
        self, changes: AsyncIterator[Change | None], ids: Collection[JobId], *, finished: bool = False
    ) -> None:
        """Wait until each of `ids` was seen, or until a None reports missed changes. Other ids may come in between.

        With `finished`, only changes count that report the end of a job.
        """
        missing = set(ids)
        with within(self.timeout_seconds, f"`changes` reports {len(missing)} jobs"):
            while missing:
                await turn()
                change = await anext(changes)
                if change is None:
                    return
                if change.finished or not finished:
                    missing.discard(change.id)

    async def _settle(self, store: JobStore, job: Job) -> None:
        await store.settle(job.id, CANCELLED, client=None)

    async def _claim_into(self, store: JobStore, claims: list[Claim]) -> None:
        claims += await store.claim(["echo"], SEQUENCE, 2)

    def patiences(self) -> Iterator[Callable[[], Awaitable[None]]]:
        """Yield ways to wait a little: a number of turns of the event loop, and fractions of `quiet_seconds`."""
        for number in range(25):
            yield partial(_turns, number)
            yield partial(anyio.sleep, self.quiet_seconds * number / 500)


async def _turns(number: int) -> None:
    for _ in range(number):
        await anyio.lowlevel.checkpoint()
