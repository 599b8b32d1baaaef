"""The simulated network: byte streams between machines, with latency, cut links and connections that break."""

from collections import deque
from collections.abc import Callable, Coroutine
from random import Random
from typing import Any

import anyio
from anyio.abc import ByteStream

from nodekit.concurrency.signal import Signal
from nodekit.testing.simulation.loop import Process, SimulatedLoop, this_process

WINDOW_BYTES = 256 * 1024
"""Number of bytes that may be on their way, or wait to be read, before a sender has to wait."""
SHORTEST_SECONDS = 0.0002
LONGEST_SECONDS = 0.003
"""Latency of a link, in one direction."""


class Connection(ByteStream):
    """One end of a connection."""

    peer: "Connection"

    def __init__(self, network: "Network", machine: str, process: Process, listener: "_Listener | None" = None) -> None:
        self._network, self.listener = network, listener
        self.machine, self.process = machine, process
        self.arrives_at = 0.0
        """Time at which the last bytes that were sent arrive."""
        self._buffer: deque[bytes] = deque()
        self._ended = self._broken = self._closed = False
        self._outstanding = 0
        self._arrived, self._room = Signal(), Signal()

    async def send(self, item: bytes) -> None:
        await anyio.lowlevel.checkpoint_if_cancelled()
        self._check()
        while self._outstanding > WINDOW_BYTES:
            await self._room.wait()
            self._check()
        self._outstanding += len(item)
        self._network.sent += 1
        self._network.sent_bytes += len(item)
        self._network.carry(self, self.peer._arrive, bytes(item))

    def _check(self) -> None:
        if self._closed:
            raise anyio.ClosedResourceError
        if self._broken:
            raise anyio.BrokenResourceError

    async def receive(self, max_bytes: int = 65536) -> bytes:
        await anyio.lowlevel.checkpoint_if_cancelled()
        while not self._buffer:
            self._check()
            if self._ended:
                raise anyio.EndOfStream
            await self._arrived.wait()
        piece = self._buffer.popleft()
        if len(piece) > max_bytes:
            self._buffer.appendleft(piece[max_bytes:])
            piece = piece[:max_bytes]
        self.peer._outstanding -= len(piece)
        self.peer._room.set()
        return piece

    async def send_eof(self) -> None:
        self._network.carry(self, self.peer._end)

    async def aclose(self) -> None:
        self.close()
        await anyio.lowlevel.checkpoint()

    def close(self) -> None:
        """Close this end, as its machine does for a process that has gone. Unread bytes break the other end."""
        if not self._closed:
            self._closed = True
            self._wake()
            self._network.forget(self)
            if not self._broken:
                self._network.carry(self, self.peer.break_ if self._buffer else self.peer._end)
            self._buffer.clear()

    def break_(self) -> None:
        """Break the connection at this end, as a reset does. What is on its way is lost."""
        self._broken = True
        self._buffer.clear()
        self._network.forget(self)
        self._wake()

    def _arrive(self, piece: bytes) -> None:
        if self._closed:
            self._network.carry(self, self.peer.break_)
        elif not self._broken and not self._ended:
            self._buffer.append(piece)
            self._arrived.set()

    def _end(self) -> None:
        self._ended = True
        self._arrived.set()

    def _wake(self) -> None:
        self._arrived.set()
        self._room.set()


class _Listener:
    def __init__(self, process: Process) -> None:
        self.process = process
        self.waiting: deque[Connection] = deque()
        self.arrived = Signal()


class Network:
    """Links between machines, named by the machines. A link is whole unless it is cut, and slow if it was made so."""

    def __init__(self, loop: SimulatedLoop, random: Random) -> None:
        self.sent = self.sent_bytes = 0
        """Number of pieces that were sent over connections, and of their bytes. A frame of the kit's store is one."""
        self._loop, self._draw = loop, random.random
        self._listeners: dict[str, _Listener] = {}
        self._connections: dict[Connection, None] = {}
        self._held: dict[frozenset[str], list[Callable[[], None]]] = {}
        """Messages that wait at each link that is cut."""
        self._slow: dict[frozenset[str], float] = {}
        self._healed = Signal()

    # -- links ------------------------------------------------------------------------------------

    def cut(self, a: str, b: str) -> None:
        """Cut a link: what is sent over it waits until the link is whole again, as TCP sends it again."""
        self._held.setdefault(frozenset((a, b)), [])

    def heal(self, a: str, b: str) -> None:
        """Make a link whole."""
        for again in self._held.pop(frozenset((a, b)), []):
            again()
        self._healed.set()

    def slow(self, a: str, b: str, seconds: float) -> None:
        """Add seconds to the latency of a link; 0 ends that."""
        self._slow[frozenset((a, b))] = seconds

    def reset(self, a: str, b: str) -> None:
        """Break all connections between two machines."""
        for connection in list(self._connections):
            if {connection.machine, connection.peer.machine} == {a, b}:
                connection.break_()

    def latency(self, a: str, b: str) -> float:
        """Draw the seconds that something takes over a link."""
        usual = SHORTEST_SECONDS + self._draw() * (LONGEST_SECONDS - SHORTEST_SECONDS)
        return usual + self._slow.get(frozenset((a, b)), 0.0) if self._slow else usual

    def carry(self, sender: Connection, arrive: Callable[..., None], *args: Any) -> None:
        """Let something arrive at the other end, behind everything that was sent before."""
        link = frozenset((sender.machine, sender.peer.machine))
        if (held := self._held.get(link)) is not None:
            held.append(lambda: self.carry(sender, arrive, *args))
            return
        now = self._loop.now
        sender.arrives_at = max(sender.arrives_at, now + self.latency(*sorted(link)))
        self._loop.at(sender.arrives_at, arrive, *args)

    async def travel(self, a: str, b: str) -> None:
        """Wait as long as a message from one machine to another takes."""
        await anyio.sleep(self.latency(a, b))
        while frozenset((a, b)) in self._held:
            await self._healed.wait()

    # -- connections ------------------------------------------------------------------------------

    async def listen(self, name: str, handle: Callable[[Connection], Coroutine[Any, Any, object]]) -> None:
        listener = self._listeners[name] = _Listener(this_process())
        try:
            async with anyio.create_task_group() as tasks:
                while True:
                    while listener.waiting:
                        tasks.start_soon(handle, listener.waiting.popleft())
                    await listener.arrived.wait()
        finally:
            if self._listeners.get(name) is listener:
                del self._listeners[name]
            for connection in [one for one in self._connections if one.listener is listener]:
                connection.close()

    async def connect(self, here: str, there: str) -> Connection:
        await self.travel(here, there)
        if (listener := self._listeners.get(there)) is None:
            await self.travel(there, here)
            raise ConnectionRefusedError(f"{there} refuses the connection")
        ours, theirs = Connection(self, here, this_process()), Connection(self, there, listener.process, listener)
        ours.peer, theirs.peer = theirs, ours
        self._connections[ours] = self._connections[theirs] = None
        listener.waiting.append(theirs)
        listener.arrived.set()
        try:
            await self.travel(there, here)
        except BaseException:
            ours.close()
            raise
        return ours

    def forget(self, connection: Connection) -> None:
        self._connections.pop(connection, None)

    def left(self, process: Process) -> None:
        """Close the connections of a process that has ended, and listen for it no more."""
        for name in [name for name, listener in self._listeners.items() if listener.process is process]:
            del self._listeners[name]
        for connection in [one for one in self._connections if one.process is process]:
            connection.close()
