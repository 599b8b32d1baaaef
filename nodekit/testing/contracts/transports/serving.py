"""What tests of a transport are made of: a node that is served, and clients of it."""

from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import AsyncExitStack, asynccontextmanager, nullcontext
from copy import deepcopy
from typing import Any, TypeVar

import anyio
import pytest
from anyio.abc import SocketStream

from nodekit import ClientId, JobId, TooManyRequests, Transport
from nodekit.testing.contracts.backends import Contract
from nodekit.testing.contracts.bounds import within
from nodekit.testing.contracts.transports.listening import connect, only_port
from nodekit.testing.contracts.transports.served import Served

T = TypeVar("T")


class ServingContract(Contract):
    """Base of the suites of transports."""

    clients: tuple[str, ...] = ("127.0.0.1", "127.0.0.2")
    """Addresses of this machine whose callers the transport takes for two clients; one, where it tells none apart.

    Callers of a unix socket have no address, and are one client: ``("unix",)``.
    """
    beginning: bytes = b""
    """What a client might send before it stalls: the first bytes of a request."""
    timeout_seconds: float = 20.0
    """How long anything that has to come may take."""
    stop_seconds: float = 10.0
    """How long ending may take, once it is cancelled."""
    quiet_seconds: float = 0.1
    """How long the suite waits before it believes that nothing comes."""

    @pytest.fixture
    def transport(self) -> Transport:
        raise NotImplementedError("define a fixture `transport` that gives a transport that was not served yet")

    def another(self, transport: Transport) -> Transport:
        """A second one of the same kind, to be served beside it: a copy, since constructing acquires nothing.

        Override it for one whose copy listens at the same place, as at the path of a unix socket: give another path.
        """
        return deepcopy(transport)

    def copied(self, transport: Transport) -> Transport:
        """One that listens at the same place once it is free there; as `another`, made before it is served."""
        return deepcopy(transport)

    async def submit(self, url: str, *containers: str, data: Any = None, source: str | None = None) -> JobId:
        """Ask for a job, from an address of this machine, and return its id.

        Raises `Refusal` with the reason and the params, or `Unavailable` with the pause, that the client is told.
        """
        raise NotImplementedError("say how a client submits a job")

    async def fetch(self, url: str, id: JobId, *, source: str | None = None) -> Any:
        """The job as a client reads it: ``{"status": …, "result": {"container", "output" or "error"} or None}``.

        `status` is ``running``, ``success`` or ``failed``. None: this client has no such job.
        """
        raise NotImplementedError("say how a client reads a job")

    async def connect(self, url: str, source: str | None = None) -> SocketStream:
        """A bare connection to where the transport listens, from an address of this machine."""
        return await connect(url, source)

    # -- for the tests ----------------------------------------------------------------------------

    @asynccontextmanager
    async def serving(
        self, *transports: Transport, port: int | None = None, plugins: Sequence[object] = (), **settings: Any
    ) -> AsyncIterator[Served]:
        """A node that is served, at a port if one is given."""
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
        """The job, once it is."""
        return await self.eventually(lambda: self.fetch(url, id, source=source), lambda job: job["status"] != "running")

    async def works(self, url: str, **data: Any) -> None:
        """Asserts that a client gets what it asks for."""
        with anyio.fail_after(self.timeout_seconds):
            id = await self.submit(url, "echo", data=data)
        job = await self.finished(url, id)
        assert (job["status"], job["result"]) == ("success", {"container": "echo", "output": data})

    @asynccontextmanager
    async def stalled(self, url: str) -> AsyncIterator[SocketStream]:
        """A client that has begun to ask."""
        async with await self.connect(url) as stream:
            if self.beginning:
                await stream.send(self.beginning)
            yield stream

    def skip_without_clients(self) -> None:
        if len(self.clients) < 2:
            pytest.skip("this transport tells no clients apart")

    async def eventually(self, ask: Callable[[], Awaitable[T]], holds: Callable[[T], object]) -> T:
        """What is answered, once it is as it should be."""
        with within(self.timeout_seconds, "what has to be answered in the end"):
            while True:
                if holds(answer := await ask()):
                    return answer
                await anyio.sleep(0.005)

    async def until(self, condition: Callable[[], object]) -> None:
        """Wait for it."""

        async def look() -> object:
            return condition()

        await self.eventually(look, bool)


class Limiting:
    """Lets clients ask, until it is told otherwise."""

    def __init__(self) -> None:
        self.refuses = False
        self.asked: list[ClientId] = []

    def nodekit_limit(self, client: ClientId) -> None:
        self.asked.append(client)
        if self.refuses:
            raise TooManyRequests("too many requests", retry_after_seconds=7)
