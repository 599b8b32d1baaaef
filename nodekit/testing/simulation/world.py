"""The simulated world: its machines with their clocks and processes, and what happens in it."""

import hashlib
from collections.abc import Awaitable, Callable, Coroutine
from dataclasses import dataclass
from random import Random
from typing import Any, TypeVar

import anyio

from nodekit.testing.simulation.loop import INFINITY, Process, SimulatedLoop, SimulationFailed, check_not_async
from nodekit.testing.simulation.network import Connection, Network

T = TypeVar("T")

BEGAN_AT = 1_700_000_000.0
"""Unix time at which each simulation begins."""
EARLIEST_BOOT = 1_000_000
"""Maximum number of seconds that a machine was up before."""
_MOST_ERRORS = 5


class MachineClock:
    """The clocks of a machine: a `nodekit.Clock`.

    - `skew_seconds`: Difference of the wall clock from the true time.
    """

    def __init__(self, loop: SimulatedLoop, up_seconds: float) -> None:
        self._loop, self.up_seconds = loop, up_seconds
        self.skew_seconds = 0.0

    def time(self) -> float:
        return BEGAN_AT + self._loop.now + self.skew_seconds

    def monotonic(self) -> float:
        return self._loop.now + self.up_seconds


class Machine:
    """A machine of the world. It runs one process at a time; give its `clock` and `random` to all that runs there."""

    def __init__(self, world: "World", name: str) -> None:
        self.name = name
        self.random = world.chance(f"machine {name}")
        self.clock = MachineClock(world.loop, float(self.random.randrange(EARLIEST_BOOT)))
        self.disk: dict[str, Any] = {}
        """A dict that survives the end of a process."""
        self.process: Process | None = None
        self._world, self._network = world, world.network
        self._main: Callable[[], Awaitable[object]] | None = None
        self._pause_seconds = 0.0
        self._requests: dict[_Request, None] = {}
        """Calls of other machines that the process has not answered yet."""
        self._dead: list[Process] = []

    def start(self, main: Callable[[], Awaitable[object]], *, pause_seconds: float = 0.5) -> None:
        """Run a process; if one runs that ends, after its end. If it fails, it is started again after a pause, as a
        supervisor does."""
        self._main, self._pause_seconds = main, pause_seconds
        if self.process is None:
            process = self.process = Process(self.name, self.clock.up_seconds)
            self._world.note(self.name, "starts")
            self._world.loop.start(process, self._supervised(process, main))

    async def _supervised(self, process: Process, main: Callable[[], Awaitable[object]]) -> None:
        failure: Exception | None = None
        try:
            await main()
        except Exception as error:
            failure = error
        if self.process is not process:
            return
        self._world.note(self.name, "ends" if failure is None else f"fails: {failure!r}")
        self._stop(process)
        self._world.loop.after(self._pause_seconds, self._start_again)

    def _start_again(self) -> None:
        if self.process is None and self._main is not None:
            self.start(self._main, pause_seconds=self._pause_seconds)

    def ends(self) -> None:
        """Note that the process was asked to end: it is not started again."""
        self._main = None

    def kill(self) -> None:
        """End the process as SIGKILL does: none of its code runs any more, and its connections end."""
        self._main = None
        if (process := self.process) is not None:
            self._world.note(self.name, "is killed")
            self._stop(process)

    def _stop(self, process: Process) -> None:
        process.stopped = True
        self.process = None
        self._dead.append(process)
        self._network.left(process)
        for request in self._requests:
            request.over.set()

    def freeze(self) -> None:
        """Stop the process as SIGSTOP does, or a virtual machine that is paused."""
        if self.process is not None:
            self._world.note(self.name, "is frozen")
            self.process.stopped = True

    def thaw(self) -> None:
        if self.process is not None and self.process.stopped:
            self._world.note(self.name, "goes on")
            self._world.loop.resume(self.process)

    def bury(self) -> None:
        """Let the code of dead processes end, once the simulation is over and nothing that it does counts."""
        self._main = None
        for process in [*self._dead, *([self.process] if self.process else [])]:
            self._network.left(process)
            for task in list(process.tasks.values()):
                task.cancel()
            self._world.loop.resume(process)

    # -- the network ------------------------------------------------------------------------------

    async def listen(self, handle: Callable[[Connection], Coroutine[Any, Any, object]]) -> None:
        """Accept connections to this machine, and handle each in a task of its own, until cancelled."""
        await self._network.listen(self.name, handle)

    async def connect(self, name: str) -> Connection:
        """Connect to the machine of that name. Raise `OSError` if it refuses."""
        return await self._network.connect(self.name, name)

    async def ask(self, machine: "Machine", function: Callable[[], Awaitable[T]]) -> T:
        """Call a function in the process of another machine, as a request over HTTP does.

        If the caller gives up, the call is cancelled there. Raise `OSError` if the process ends first, or is not there.
        """
        await self._network.travel(self.name, machine.name)
        if (process := machine.process) is None:
            raise ConnectionRefusedError(f"{machine.name} refuses the connection")
        request = _Request(function)
        machine._requests[request] = None
        self._world.loop.start(process, request.serve())
        try:
            await request.over.wait()
        except BaseException:
            latency = self._network.latency(self.name, machine.name)
            self._world.loop.after(latency, self._world.loop.call_in, process, request.scope.cancel)
            raise
        finally:
            del machine._requests[request]
        await self._network.travel(machine.name, self.name)
        if not request.done:
            raise ConnectionResetError(f"{machine.name} ended before it answered")
        if request.error is not None:
            raise request.error
        result: T = request.result
        return result


class _Request:
    """A call of one machine in the process of another."""

    def __init__(self, function: Callable[[], Awaitable[Any]]) -> None:
        self._function = function
        self.scope = anyio.CancelScope()
        self.over = anyio.Event()
        """Set once the call has ended, or the process in which it runs."""
        self.done = False
        self.result: Any = None
        self.error: Exception | None = None

    async def serve(self) -> None:
        with self.scope:
            try:
                self.result = await self._function()
            except Exception as error:
                self.error = error
            self.done = True
        self.over.set()


@dataclass(frozen=True)
class TraceEvent:
    """Something that happened: when, on which machine, and after how many turns of tasks."""

    at: float
    machine: str
    text: str
    turns: int

    def __str__(self) -> str:
        return f"{self.at:9.4f} {self.machine:<9} {self.text}"


class World:
    """Machines, a network, and a trace of what happened.

    Everything that is left to chance follows from `seed`. `order` is a second seed, only for the order of ready tasks.
    """

    def __init__(
        self, seed: int, *, order: int = 0, step_seconds: float = 1e-6, most_steps: float = INFINITY, trace: bool = True
    ) -> None:
        self.seed = seed
        self.loop = SimulatedLoop(self.chance(f"order {order}"), step_seconds=step_seconds, most_steps=most_steps)
        self.network = Network(self.loop, self.chance("network"))
        self.machines: dict[str, Machine] = {}
        self.trace: list[TraceEvent] = []
        self._traced = trace

    def chance(self, name: str) -> Random:
        """Return a source of random numbers for one purpose, so that each is the same whatever the others do."""
        return Random(f"{self.seed} {name}")

    def machine(self, name: str) -> Machine:
        """Add a machine."""
        if name in self.machines:
            raise ValueError(f"there is a machine {name!r} already")
        machine = self.machines[name] = Machine(self, name)
        return machine

    def note(self, machine: str, text: str) -> None:
        """Add a line to the trace."""
        if self._traced:
            self.trace.append(TraceEvent(self.loop.now, machine, text, self.loop.steps))

    @property
    def digest(self) -> str:
        """A number for the whole trace; two runs with the same one did the same, turn for turn."""
        lines = "\n".join(f"{event.at!r} {event.machine} {event.text} {event.turns}" for event in self.trace)
        return hashlib.sha256(f"{lines}\n{self.loop.steps}".encode()).hexdigest()[:16]

    def run(self, main: Callable[[], Coroutine[Any, Any, T]]) -> T:
        """Run a function in the world until it returns. Then whatever still runs is cancelled."""
        check_not_async()
        try:
            result: T = self.loop.run_until_complete(main())
            self.loop.run_until_complete(self._bury())
        finally:
            self.loop.close()
        if self.loop.errors:
            raise SimulationFailed("errors that nobody caught:\n" + "\n".join(self.loop.errors[:_MOST_ERRORS]))
        return result

    async def _bury(self) -> None:
        self._traced = False
        for machine in self.machines.values():
            machine.bury()
        await anyio.sleep(3600)
