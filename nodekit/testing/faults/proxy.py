"""A proxy between a client and its engine that breaks the connections between them in the ways that networks do."""

import asyncio
import socket
import struct
from collections.abc import AsyncIterator, Iterator, Sequence
from contextlib import ExitStack, asynccontextmanager, contextmanager, suppress
from enum import Enum
from typing import Any, Self, TypeAlias

import anyio
from anyio.from_thread import start_blocking_portal

HOST = "127.0.0.1"
_CHUNK_BYTES = 1 << 16
_RESET = struct.pack("ii", 1, 0)
"""Value of SO_LINGER that makes closing a socket reset its connection."""

_Target: TypeAlias = tuple[int, int, int, str, Any]
"""An address of the engine, as `socket.getaddrinfo` gives it."""


class _State(Enum):
    """The states that last until the test switches to another."""

    HEALTHY = "healthy"
    HANGING = "hanging"
    SLOW = "slow"
    REFUSING = "refusing"
    CUTTING_ANSWERS = "cutting answers"


class TcpProxy:
    """A TCP proxy in front of an engine, with faults that a test switches on and off.

    It listens on a free port of 127.0.0.1 as long as it is entered, in a thread of its own. So it serves clients on any
    event loop, in any thread or process::

        with TcpProxy("127.0.0.1", 6379) as proxy:
            async with MyStore(*proxy.address) as store:
                proxy.drop()
                await store.add(jobs)

    `hang`, `slow`, `refuse` and `cut_answers` last until `heal`, or until another of them replaces them. `drop` and
    `half_open` happen once to the connections that are open right then. Each has happened when it returns.
    """

    address: tuple[str, int]
    """Host and port for clients. They stay the same as long as the proxy is entered."""

    def __init__(self, host: str, port: int) -> None:
        self._engine = host, port
        self._state = _State.HEALTHY
        self._delay_seconds: float | None = None
        self._links: set[_Link] = set()
        self._accepting: _Stoppable | None = None

    def __enter__(self) -> Self:
        with ExitStack() as stack:
            place = stack.enter_context(_bound(0))  # keeps the port while nothing listens there
            self.address = HOST, place.getsockname()[1]
            self._targets: Sequence[_Target] = socket.getaddrinfo(*self._engine, type=socket.SOCK_STREAM)
            self._portal = stack.enter_context(start_blocking_portal("asyncio"))
            stack.enter_context(self._portal.wrap_async_context_manager(self._serving()))
            self._stack = stack.pop_all()
        return self

    def __exit__(self, *error: object) -> None:
        self._stack.close()

    # -- faults -----------------------------------------------------------------------------------

    def drop(self) -> None:
        """Reset all present connections. New ones work."""
        self._portal.call(self._reset_all)

    def half_open(self) -> None:
        """Forget the present connections: they stay open, and carry nothing any more. New ones work."""
        self._portal.call(self._forget_all)

    def hang(self) -> None:
        """Carry nothing, neither in present nor in new connections.

        After `heal`, everything that was held back flows on.
        """
        self._portal.call(self._switch, _State.HANGING)

    def slow(self, seconds: float) -> None:
        """Delay everything by so many seconds, in both directions."""
        self._portal.call(self._switch, _State.SLOW, seconds)

    def refuse(self) -> None:
        """Reset all present connections, and refuse new ones."""
        self._portal.call(self._switch, _State.REFUSING)

    def cut_answers(self) -> None:
        """Carry what clients send, and reset a connection as soon as the engine answers: the answer is lost."""
        self._portal.call(self._switch, _State.CUTTING_ANSWERS)

    def heal(self) -> None:
        """Carry everything again. Connections that were reset or forgotten remain so."""
        self._portal.call(self._switch, _State.HEALTHY)

    # -- in the proxy's thread --------------------------------------------------------------------

    @asynccontextmanager
    async def _serving(self) -> AsyncIterator[None]:
        self._switched = anyio.Event()
        try:
            async with anyio.create_task_group() as self._tasks:
                await self._switch(_State.HEALTHY)
                yield
                self._tasks.cancel_scope.cancel()
        finally:
            for link in self._links:
                link.reset()

    async def _switch(self, state: _State, delay_seconds: float | None = None) -> None:
        self._state, self._delay_seconds = state, delay_seconds
        self._switched.set()
        self._switched = anyio.Event()
        if state is _State.REFUSING:
            if self._accepting is not None:
                await self._accepting.stop()
                self._accepting = None
            await self._reset_all()
        elif self._accepting is None:
            listener = _bound(self.address[1])
            listener.listen()
            self._accepting = _Stoppable()
            self._tasks.start_soon(self._accept, self._accepting, listener)

    async def _reset_all(self) -> None:
        for link in [link for link in self._links if not link.forgotten]:
            await link.carrying.stop()

    async def _forget_all(self) -> None:
        for link in list(self._links):
            link.forgotten = True
            await link.carrying.stop()

    async def _accept(self, accepting: "_Stoppable", listener: socket.socket) -> None:
        with accepting.running(), listener:
            while True:
                client, _ = await asyncio.get_running_loop().sock_accept(listener)
                self._links.add(link := _Link(client))
                self._tasks.start_soon(self._serve, link)

    async def _serve(self, link: "_Link") -> None:
        """Carry a connection to its end, and leave nothing of it unless it was forgotten."""
        with link.carrying.running():
            try:
                await link.connect(self._targets)
                async with anyio.create_task_group() as both:
                    both.start_soon(self._carry, link.client, link.engine, False)
                    both.start_soon(self._carry, link.engine, link.client, True)
                link.close()
            except* OSError:  # one side has gone; the other learns of it in the same way
                pass
            finally:
                if not link.forgotten:
                    link.reset()
                    self._links.discard(link)

    async def _carry(self, source: socket.socket, target: socket.socket, answers: bool) -> None:
        """Carry one direction of a connection, its end included."""
        loop = asyncio.get_running_loop()
        chunk = b"-"
        while chunk:
            try:
                chunk = await loop.sock_recv(source, _CHUNK_BYTES)
            finally:
                await self._held_back()  # a reset is held back like data
            if answers and self._state is _State.CUTTING_ANSWERS:
                raise ConnectionResetError("the answer is cut")
            await loop.sock_sendall(target, chunk)
        target.shutdown(socket.SHUT_WR)

    async def _held_back(self) -> None:
        """Wait as long as the present state holds things back."""
        while self._state in (_State.HANGING, _State.SLOW):
            with anyio.move_on_after(self._delay_seconds) as delay:
                await self._switched.wait()
            if delay.cancelled_caught:
                break


class _Stoppable:
    """A task that others stop. They wait for its end."""

    def __init__(self) -> None:
        self._scope = anyio.CancelScope()
        self._ended = anyio.Event()

    @contextmanager
    def running(self) -> Iterator[None]:
        with self._scope:
            try:
                yield
            finally:
                self._ended.set()

    async def stop(self) -> None:
        self._scope.cancel()
        await self._ended.wait()


class _Link:
    """A client's connection, and the one to the engine that goes with it."""

    def __init__(self, client: socket.socket) -> None:
        self.client = client
        self.engine = socket.socket()
        self.carrying = _Stoppable()
        self.forgotten = False
        """True if both connections stay open and nothing is carried between them."""

    async def connect(self, targets: Sequence[_Target]) -> None:
        """Connect to the first of the targets that can be reached."""
        for number, (family, kind, protocol, _, address) in enumerate(targets, start=1):
            self.engine.close()
            self.engine = socket.socket(family, kind, protocol)
            self.engine.setblocking(False)
            try:
                await asyncio.get_running_loop().sock_connect(self.engine, address)
            except OSError:
                if number == len(targets):
                    raise
            else:
                break
        for end in (self.client, self.engine):
            end.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)

    def close(self) -> None:
        self.client.close()
        self.engine.close()

    def reset(self) -> None:
        """Close both connections so that their other ends get an error; do nothing if they are closed."""
        for end in (self.client, self.engine):
            with suppress(OSError):
                end.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _RESET)
            end.close()


def _bound(port: int) -> socket.socket:
    """Return a socket that is bound to the port, beside others that do not listen."""
    bound = socket.socket()
    try:
        bound.setblocking(False)
        bound.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        bound.bind((HOST, port))
    except BaseException:
        bound.close()
        raise
    return bound
