"""Fixtures and helpers for tests of a transport: a served node, and its clients."""

from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import AsyncExitStack, asynccontextmanager, nullcontext
from copy import deepcopy
from typing import Any, TypeVar

import anyio
import pytest
from anyio.abc import SocketStream

from nodekit import ClientId, Identity, JobId, TooManyRequests, Transport
from nodekit.testing.contracts.backends import Contract
from nodekit.testing.contracts.bounds import within
from nodekit.testing.contracts.transports.listening import connect, only_port
from nodekit.testing.contracts.transports.served import Served

T = TypeVar("T")


class TransportBase(Contract):
    """Base of the suites of transports: settings, fixtures and helpers, no tests."""

    clients: tuple[str, ...] = ("127.0.0.1", "127.0.0.2")
    """Addresses of this machine that the transport takes for two clients; only one if it does not distinguish clients.

    Callers of a unix socket have no address, and are one client: ``("unix",)``.
    """
    beginning: bytes = b""
    """First bytes of a request, which a client sends before it stalls."""
    timeout_seconds: float = 20.0
    """Time limit for anything that must happen."""
    stop_seconds: float = 10.0
    """Time limit for the end of a transport after it is cancelled."""
    quiet_seconds: float = 0.1
    """Time after which the suite assumes that nothing more happens."""

    @pytest.fixture
    def transport(self) -> Transport:
        raise NotImplementedError("define a fixture `transport` that gives a transport that was not served yet")

    def another(self, transport: Transport) -> Transport:
        """Make a second transport to serve beside this one. By default a copy, because constructing acquires nothing.

        Override it if the copy listens at the same place, such as the path of a unix socket, and give another path.
        """
        return deepcopy(transport)

    def copied(self, transport: Transport) -> Transport:
        """Make a transport that listens at the same place once that is free. Call it before the first one is served."""
        return deepcopy(transport)

    async def submit(self, url: str, *containers: str, data: Any = None, source: str | None = None) -> JobId:
        """Submit a job from an address of this machine, and return its id.

        Raises `Refusal` with the reason and params, or `Unavailable` with the pause, as the client receives them.
        """
        raise NotImplementedError("say how a client submits a job")

    async def fetch(self, url: str, id: JobId, *, source: str | None = None) -> Any:
        """Fetch a job in the form ``{"status": …, "result": {"container", "output" or "error"} or None}``.

        `status` is ``running``, ``success`` or ``failed``. Return None if this client has no such job.
        """
        raise NotImplementedError("say how a client reads a job")

    async def connect(self, url: str, source: str | None = None) -> SocketStream:
        """Open a bare connection to the transport from an address of this machine."""
        return await connect(url, source)

    # -- helpers of the tests ---------------------------------------------------------------------

    @asynccontextmanager
    async def serving(
        self, *transports: Transport, port: int | None = None, plugins: Sequence[object] = (), **settings: Any
    ) -> AsyncIterator[Served]:
        """Serve a node, at `port` if it is given."""
        served = Served(*transports, plugins=plugins, **settings)
        async with AsyncExitStack() as stack:
            with only_port(port) if port else nullcontext():
                await stack.enter_async_context(served.node)
            try:
                yield served
            except BaseException:
                served.runner.opened.set()
                raise
            finally:
                served.table.keeps.set()

    async def finished(self, url: str, id: JobId, *, source: str | None = None) -> Any:
        """Wait until the job is finished, and return it."""
        return await self.eventually(lambda: self.fetch(url, id, source=source), lambda job: job["status"] != "running")

    async def works(self, url: str, **data: Any) -> None:
        """Assert that a client gets what it asks for."""
        with anyio.fail_after(self.timeout_seconds):
            id = await self.submit(url, "echo", data=data)
        job = await self.finished(url, id)
        assert (job["status"], job["result"]) == ("success", {"container": "echo", "output": data})

    @asynccontextmanager
    async def stalled(self, url: str) -> AsyncIterator[SocketStream]:
        """Give the connection of a client that has begun to ask."""
        async with await self.connect(url) as stream:
            if self.beginning:
                await stream.send(self.beginning)
            yield stream

    def skip_without_clients(self) -> None:
        if len(self.clients) < 2:
            pytest.skip("this transport does not distinguish clients")

    async def eventually(self, ask: Callable[[], Awaitable[T]], holds: Callable[[T], object]) -> T:
        """Ask again and again until the answer meets the condition, and return it."""
        with within(self.timeout_seconds, "what has to be answered in the end"):
            while True:
                if holds(answer := await ask()):
                    return answer
                await anyio.sleep(0.005)

    async def until(self, condition: Callable[[], object]) -> None:
        """Wait until the condition is true."""

        async def look() -> object:
            return condition()

        await self.eventually(look, bool)


class Limiting:
    """A guard that lets clients in until `refuses` is set."""

    def __init__(self) -> None:
        self.refuses = False
        self.asked: list[ClientId] = []

    def nodekit_limit(self, identity: Identity) -> None:
        self.asked.append(identity.client)
        if self.refuses:
            raise TooManyRequests("too many requests", retry_after_seconds=7)
