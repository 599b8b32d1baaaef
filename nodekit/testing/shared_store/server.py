"""The engine as a server: connections of clients, and their calls."""

import logging
import signal
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import anyio
import msgspec
from anyio.abc import ByteStream, SocketAttribute, TaskGroup

from nodekit import StoreFailed
from nodekit.testing.builders.components import make_table
from nodekit.testing.shared_store.engine import OF_SESSION, Engine, Ticket, granted
from nodekit.testing.shared_store.wire import (
    BROKEN,
    CANCEL,
    LOST,
    MAX_FRAME_BYTES,
    WRITES,
    Answer,
    Frames,
    ProtocolError,
    Request,
    decode_request,
    encode,
    failure_of,
    method_of,
    raw,
    whole,
)

logger = logging.getLogger("nodekit.testing.shared_store")

HOST = "127.0.0.1"
_SILENT_LEASES = 10
"""Number of leases after which a connection without a frame is closed: its client is gone, or cannot send."""
_QUEUED_FRAMES = 100


class Server:
    """The engine, with the connections that its sessions have."""

    def __init__(self, engine: Engine, tasks: TaskGroup, *, read_only: bool = False) -> None:
        self.engine, self.tasks, self.read_only = engine, tasks, read_only
        self.of_session: dict[int, Connection] = {}

    async def serve(self, stream: ByteStream) -> None:
        """Serve a connection until it ends."""
        async with stream:
            await Connection(self, stream).run()


class Connection:
    """A connection of a client. Its calls outlive it, except those that wait."""

    def __init__(self, server: Server, stream: ByteStream) -> None:
        self._server, self._engine = server, server.engine
        self._frames = Frames(stream)
        self._outbox, self._outgoing = anyio.create_memory_object_stream[bytes](_QUEUED_FRAMES)
        self._session = 0
        self._waiting: dict[int, Ticket | anyio.CancelScope] = {}
        self._scope = anyio.CancelScope()
        self._ended = anyio.Event()

    async def run(self) -> None:
        try:
            with self._scope:
                async with anyio.create_task_group() as tasks:
                    tasks.start_soon(self._write)
                    await self._read()
                    tasks.cancel_scope.cancel()
        finally:
            with anyio.CancelScope(shield=True):
                await self._end()

    async def _write(self) -> None:
        with suppress(*BROKEN):
            async for frame in self._outgoing:
                await self._frames.send(frame)
        self._scope.cancel()

    async def _read(self) -> None:
        try:
            while True:
                with anyio.fail_after(_SILENT_LEASES * self._engine.lease_seconds):
                    frame = await self._frames.receive()
                self._take(decode_request(frame))
        except (*BROKEN, TimeoutError) as error:
            logger.debug("a connection has ended: %r", error)
        except (ProtocolError, msgspec.DecodeError) as error:
            logger.warning("a connection is closed, because of what it sent: %s", error)

    async def close(self) -> None:
        """End the connection, and return when it has given up the calls that waited."""
        self._scope.cancel()
        await self._ended.wait()

    async def _end(self) -> None:
        self._outgoing.close()
        self._outbox.close()
        if self._server.of_session.get(self._session) is self:
            del self._server.of_session[self._session]
        for number in list(self._waiting):
            await self._give_up(number)
        self._ended.set()

    # -- calls ------------------------------------------------------------------------------------

    def _take(self, request: Request) -> None:
        """Begin a call. Raise `ProtocolError` or `msgspec.DecodeError` if there is no such call."""
        if request.method == CANCEL:
            self._server.tasks.start_soon(self._give_up, request.id)
            return
        arguments = method_of(request.method, request.namespace).arguments(request.arguments)
        if not self._session and request.method not in ("resume", "leave"):
            raise ProtocolError(f"{request.method} was called before a session was begun")
        self._server.tasks.start_soon(self._answer, request, arguments)

    async def _give_up(self, number: int) -> None:
        waiting = self._waiting.pop(number, None)
        if isinstance(waiting, Ticket):
            with _logged("a job that nobody waits for cannot be given back"):
                await self._engine.give_up(waiting)
        elif waiting is not None:
            waiting.cancel()

    async def _answer(self, request: Request, arguments: dict[str, Any]) -> None:
        """Make a call and send its result. What a claim would have given is given back if nobody can get it."""
        result: Any = None
        try:
            result = await self._result(request, arguments)
            frame = encode(Answer(request.id, raw(result)))
            if len(frame) > MAX_FRAME_BYTES:
                raise StoreFailed(f"the answer has more than {MAX_FRAME_BYTES} bytes; ask for less")
        except Exception as error:
            frame = encode(Answer(request.id, failure=failure_of(error)))
        finally:
            self._waiting.pop(request.id, None)
        try:
            await self._outbox.send(frame)
        except BROKEN:
            tokens = [one.token for one in granted(result)]
            with _logged("a job that nobody waits for cannot be given back"):
                await self._engine.give_back(self._session, tokens)

    async def _result(self, request: Request, arguments: dict[str, Any]) -> Any:
        name, method = request.method, self._engine.method(request.method, request.namespace)
        if name in WRITES and self._server.read_only:
            raise StoreFailed("the engine is read-only")
        if request.namespace:
            return await method(**arguments)
        if name in OF_SESSION:
            arguments["number"] = self._session
        match name:
            case "resume":
                return await self._resume(**arguments)
            case "leave":
                await self._close_earlier(arguments["session"])
            case "claim":
                self._waiting[request.id] = arguments["ticket"] = Ticket(given_up=self._ended.is_set())
            case "relay":
                return await self._relay(request.id, **arguments)
            case "get":
                return whole(await method(**arguments))
            case _:
                pass
        return await method(**arguments)

    async def _resume(self, session: int | None, tokens: Any) -> Any:
        """Let this connection be the one of a session; an earlier one may hang somewhere."""
        if session is not None:
            await self._close_earlier(session)
        welcome = await self._engine.resume(session, tokens, self._lose)
        if self._server.of_session.get(self._session) is self:  # the session of this connection has lapsed
            del self._server.of_session[self._session]
        self._session = welcome.session
        self._server.of_session[self._session] = self
        return welcome

    async def _close_earlier(self, session: int) -> None:
        earlier = self._server.of_session.get(session)
        if earlier is not None and earlier is not self:
            await earlier.close()

    def _lose(self, token: int) -> None:
        try:
            self._outbox.send_nowait(encode(Answer(LOST, raw(token))))
        except anyio.WouldBlock:  # the client reads too slowly; it learns of its claims when it connects again
            self._scope.cancel()
        except BROKEN:
            pass

    async def _relay(self, number: int, ids: Any) -> None:
        """Answer now, and again with each change."""
        with anyio.CancelScope() as scope, suppress(*BROKEN):
            self._waiting[number] = scope
            async with self._engine.store.changes(ids) as changes:
                await self._outbox.send(encode(Answer(number, raw(True))))
                async for change in changes:
                    await self._outbox.send(encode(Answer(number, raw(change))))


@contextmanager
def _logged(text: str) -> Iterator[None]:
    """Log that the store failed, where nobody waits for an answer."""
    try:
        yield
    except StoreFailed as error:
        logger.error("%s: %s", text, error)


async def run(path: Path, port: int, lease_seconds: float, *, read_only: bool, ready: Callable[[str], object]) -> None:
    """Run the engine until SIGTERM or SIGINT.

    SIGUSR1 makes it read-only, SIGUSR2 writable again, and SIGHUP empty: as it was before its first start. `ready` is
    called with a line of text when clients can connect, and after each of these signals.
    """
    watched = signal.SIGTERM, signal.SIGINT, signal.SIGUSR1, signal.SIGUSR2, signal.SIGHUP
    with anyio.open_signal_receiver(*watched) as signals:
        while True:
            listening = await anyio.create_tcp_listener(local_host=HOST, local_port=port)
            engine = Engine(make_table(path), lease_seconds)
            async with engine.store, listening as listener, anyio.create_task_group() as tasks:
                port = listener.extra_attributes[SocketAttribute.local_port]()
                server = Server(engine, tasks, read_only=read_only)
                tasks.start_soon(engine.run)
                tasks.start_soon(listener.serve, server.serve)
                ready(f"listening on {HOST}:{port}")
                if not await _obey(server, signals, ready):
                    return tasks.cancel_scope.cancel()
                tasks.cancel_scope.cancel()
            await anyio.Path(path).unlink()


async def _obey(server: Server, signals: AsyncIterator[signal.Signals], ready: Callable[[str], object]) -> bool:
    """Obey signals until the server must end. Return True if it must begin again, with nothing."""
    async for one in signals:
        if one not in (signal.SIGUSR1, signal.SIGUSR2):
            return one == signal.SIGHUP
        server.read_only = one == signal.SIGUSR1
        ready("read-only" if server.read_only else "writable")
    return False
