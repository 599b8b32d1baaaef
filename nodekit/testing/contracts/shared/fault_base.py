"""Fixtures and helpers for stores whose connection to an engine breaks: a proxy between them, and its faults."""

from collections.abc import AsyncIterator, Awaitable, Callable, Iterator, Sequence
from contextlib import AbstractAsyncContextManager, asynccontextmanager, suppress
from typing import Any, Protocol, TypeAlias, TypeVar, cast

import anyio
import pytest

from nodekit import Claim, ClaimLost, Job, JobId, SharedStore, StoreFailed
from nodekit.testing.builders.jobs import SEQUENCE, make_job, succeeded
from nodekit.testing.contracts.backends import NOT_APPLICABLE
from nodekit.testing.contracts.bounds import turn, within
from nodekit.testing.contracts.shared.base import POLL_SECONDS, Open, SharedBase
from nodekit.testing.faults.proxy import TcpProxy

T = TypeVar("T")

ONCE = ("dropped", "half_open")
"""Faults of the connections that are open when they happen. New connections work."""
CUT_OFF = ("hanging", "refused", "lost_answers")
"""Faults during which the store hears nothing from its engine."""
OF_CONNECTIONS = (*ONCE, *CUT_OFF, "slow")
OF_ENGINES = ("killed", "read_only")
LONG = (*CUT_OFF, *OF_ENGINES)
"""Faults that last until the health of a node reports them."""
FAULTS = (*OF_CONNECTIONS, *OF_ENGINES)

KILLED = pytest.mark.parametrize("fault", ["killed"])
READ_ONLY = pytest.mark.parametrize("fault", ["read_only"])


class EngineControl(Protocol):
    """The handles on an engine of its own that `EngineFaultContract` needs."""

    @property
    def address(self) -> tuple[str, int]:
        """Host and port of the engine, the same after each start."""
        ...

    async def kill(self) -> None:
        """End the engine as SIGKILL does, and return when it has ended."""
        ...

    async def start(self) -> None:
        """Start the killed engine again on its data, and return when it takes connections."""
        ...

    async def read_only(self, on: bool, /) -> None:
        """Have the engine refuse all writes, or take them again."""
        ...


OpenAt: TypeAlias = Callable[[str, int], SharedStore]
Breaking: TypeAlias = Callable[[str], AbstractAsyncContextManager[None]]
"""Makes the fault of this name last while the context is entered."""


class FaultBase(SharedBase):
    """Base of the suite of faults: a store that reaches its engine through a proxy, and one beside it."""

    lease_seconds: float = 1.0
    can_kill: bool = True
    """False if the engine cannot be killed and started again; the tests that need it are skipped."""
    can_be_read_only: bool = True
    """False if the engine cannot be made read-only; the tests that need it are skipped."""

    @pytest.fixture
    def engine(self) -> EngineControl:
        raise NotImplementedError("define a fixture `engine`: an `EngineControl` of an engine that runs, without jobs")

    @pytest.fixture
    def open_at(self) -> OpenAt:
        raise NotImplementedError(
            "define a fixture `open_at`: a function that gives a store, not entered, of the engine at a host and port"
        )

    @pytest.fixture(autouse=True)
    def _applies(self, request: pytest.FixtureRequest) -> None:
        """Skip a fault that this engine does not have."""
        item = cast(Any, request).node
        fault: object = item.callspec.params.get("fault") if hasattr(item, "callspec") else None
        if fault == "killed" and not self.can_kill:
            pytest.skip(f"{NOT_APPLICABLE}can_kill = False")
        if fault == "read_only" and not self.can_be_read_only:
            pytest.skip(f"{NOT_APPLICABLE}can_be_read_only = False")

    @pytest.fixture
    def proxy(self, engine: EngineControl) -> Iterator[TcpProxy]:
        with TcpProxy(*engine.address) as proxy:
            yield proxy

    @pytest.fixture
    def open_store(self, engine: EngineControl, open_at: OpenAt) -> Open:
        return lambda: open_at(*engine.address)

    @pytest.fixture
    def open_far(self, proxy: TcpProxy, open_at: OpenAt) -> Open:
        return lambda: open_at(*proxy.address)

    @pytest.fixture
    async def near(self, open_store: Open) -> AsyncIterator[SharedStore]:
        """Give a store that reaches its engine directly: faults of connections spare it."""
        async with open_store() as near:
            yield near

    @pytest.fixture
    async def far(self, near: SharedStore, open_far: Open) -> AsyncIterator[SharedStore]:
        """Give a store that reaches its engine through the proxy."""
        async with open_far() as far:
            yield far

    # -- faults -----------------------------------------------------------------------------------

    @pytest.fixture
    def breaking(self, proxy: TcpProxy, engine: EngineControl) -> Breaking:
        @asynccontextmanager
        async def breaking(fault: str) -> AsyncIterator[None]:
            async with self._of_engine(engine, fault) if fault in OF_ENGINES else self._of_connections(proxy, fault):
                yield

        return breaking

    @asynccontextmanager
    async def _of_connections(self, proxy: TcpProxy, fault: str) -> AsyncIterator[None]:
        faults: dict[str, Callable[[], None]] = {
            "dropped": proxy.drop,
            "half_open": proxy.half_open,
            "hanging": proxy.hang,
            "refused": proxy.refuse,
            "lost_answers": proxy.cut_answers,
            "slow": lambda: proxy.slow(self.lease_seconds / 20),
        }
        faults[fault]()
        try:
            yield
        finally:
            proxy.heal()

    @asynccontextmanager
    async def _of_engine(self, engine: EngineControl, fault: str) -> AsyncIterator[None]:
        try:
            await (engine.kill() if fault == "killed" else engine.read_only(True))
            yield
        finally:
            with anyio.CancelScope(shield=True):
                await (engine.start() if fault == "killed" else engine.read_only(False))

    async def lasts(self, fault: str, leases: float) -> None:
        """Wait while a fault lasts for so many leases. One that happened to present connections only is over."""
        await anyio.sleep(self.quiet_seconds if fault in ONCE else leases * self.lease_seconds)

    # -- calls that may fail ----------------------------------------------------------------------

    async def answered(self, call: Callable[[], Awaitable[T]]) -> T:
        """Repeat a call as long as it raises `StoreFailed`, as a node does."""
        while True:
            with suppress(StoreFailed):
                return await call()
            await anyio.sleep(POLL_SECONDS)

    async def answered_soon(self, what: str, call: Callable[[], Awaitable[T]]) -> T:
        """Repeat a call as `answered` does, for a few leases."""
        answers: list[T] = []
        with within(self.few_leases, f"`{what}` succeeds once the fault is over"):
            answers.append(await self.answered(call))
        return answers[0]

    async def works(self, store: SharedStore) -> None:
        """Run a job through the store, and assert that it is kept as it was saved."""
        job = make_job("again")
        await self.answered_soon("add", lambda: store.add([job]))
        with within(self.few_leases, "a job that was claimed after the fault is saved"):
            while (done := await self._run(store, job)) is None:
                await turn()
        assert await self.answered_soon("get", lambda: store.get([job.id])) == [done]

    async def _run(self, store: SharedStore, job: Job) -> Job | None:
        """Claim and finish the job; return it as it was stored, or None if its claim was lost."""
        [claim] = await self.answered(lambda: store.claim(["again"], SEQUENCE, 1))
        assert claim.job == job
        with suppress(ClaimLost):
            await self.answered(lambda: store.save(claim, succeeded(job)))
            return claim.job
        return None

    async def all_claimed(self, store: SharedStore, *jobs: Job, besides: Sequence[Claim] = ()) -> list[Claim]:
        """Claim until all of the jobs have been claimed here or are in `besides`. Return the claims in their order."""
        claims: list[Claim] = []
        missing = {job.id for job in jobs} - {claim.job.id for claim in besides}
        with within(self.few_leases, f"`claim` gives {len(missing)} jobs in a store that is well"):
            while missing - {claim.job.id for claim in claims}:
                await turn()
                claims += await self.answered(lambda: store.claim(["echo", "reverse"], SEQUENCE, len(jobs)))
        return sorted(claims, key=lambda claim: claim.job.id)

    async def are_cancelled(self, claims: Sequence[Claim], whose: str) -> None:
        """Wait until the scopes of all claims are cancelled."""
        await self.comes(
            f"the scopes of claims {whose} are cancelled",
            lambda: all(claim.scope.cancel_called for claim in claims),
            seconds=self.lease_seconds + self.timeout_seconds / 2,
        )

    async def stored(self, store: SharedStore, id: JobId) -> Job:
        [job] = await self.answered_soon("get", lambda: store.get([id]))
        return job
