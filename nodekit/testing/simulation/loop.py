"""An event loop without sockets, threads or waiting: its time leaps, and a seed chooses which ready task goes on."""

import asyncio
import gc
import sys
from asyncio import events
from bisect import insort
from collections import deque
from collections.abc import AsyncGenerator, Callable, Coroutine, Generator
from contextvars import Context, ContextVar, copy_context
from heapq import heappop, heappush
from itertools import count
from math import nextafter
from random import Random
from typing import Any, NoReturn, TypeVar, TypeVarTuple

from nodekit.errors import NodekitError
from nodekit.testing.simulation.outside import NO_SOCKETS, closed

T = TypeVar("T")
Ts = TypeVarTuple("Ts")

INFINITY = float("inf")
IDLE_TURNS = 10
"""Number of turns after which time passes although callbacks post themselves again, as anyio's cancellation does."""


class SimulationFailed(NodekitError):
    """The simulated code cannot be simulated: it waits for something outside, uses a thread, or never rests."""


def check_not_async() -> None:
    """Raise `SimulationFailed` in code that runs in another loop."""
    if events._get_running_loop() is not None:
        raise SimulationFailed("a simulation runs in a loop of its own; call it from code that is not async")


class Process:
    """A process of the simulated world. Every task and timer belongs to the process in which it was started.

    - `monotonic_offset`: Difference of its steady clock from the time of the simulation, in seconds.
    - `stopped`: True while nothing of it runs: it is frozen, or dead.
    """

    def __init__(self, name: str, monotonic_offset: float) -> None:
        self.name = name
        self.monotonic_offset = monotonic_offset
        self.stopped = False
        self.held: list[_Handle] = []
        """Callbacks that would have run since it was stopped, in order."""
        self.tasks: dict[int, asyncio.Task[Any]] = {}
        """Tasks that were started from outside and have not ended, by number."""


_WORLD = Process("world", 0.0)
_process: ContextVar[Process] = ContextVar("nodekit_simulated_process", default=_WORLD)


def this_process() -> Process:
    """Return the process whose code is running."""
    return _process.get()


class _Handle(asyncio.TimerHandle):
    """A callback that was scheduled. It needs nothing of its base but the type."""

    __slots__ = ("args", "at", "callback", "context", "gone", "process")

    def __init__(
        self, callback: Callable[..., Any], args: tuple[Any, ...], context: Context | None, at: float = 0.0
    ) -> None:
        self.callback, self.args, self.at = callback, args, at
        self.context = copy_context() if context is None else context
        self.process = self.context.get(_process, _WORLD)
        self.gone = False

    def cancel(self) -> None:
        self.gone = True

    def cancelled(self) -> bool:
        return self.gone

    def when(self) -> float:
        return self.at

    def __repr__(self) -> str:
        return f"<{self.callback!r} of {self.process.name}>"


class _Task(asyncio.Task[T]):
    """A task with a number. Sets of tasks, which anyio uses, have the same order in each run."""

    def __init__(self, coro: Any, number: int, **kwargs: Any) -> None:
        self.number = number
        super().__init__(coro, **kwargs)

    def __hash__(self) -> int:
        return self.number


def _refused(text: str) -> Any:
    """Return a method that refuses to reach outside."""

    def refused(loop: "SimulatedLoop", *args: Any, **kwargs: Any) -> NoReturn:
        loop.refuse(text)

    return refused


class SimulatedLoop(asyncio.BaseEventLoop):
    """The loop of one simulation.

    Nothing in it depends on the machine: not on real time, not on addresses or hash seeds. Of the tasks that are ready,
    `random` chooses the next one. When none is ready, the time leaps to the next timer.
    """

    # its base is not initialised: it would open sockets

    def __init__(self, random: Random, *, step_seconds: float = 0.0, most_steps: float = INFINITY) -> None:
        """`step_seconds` is the time that a turn of a task takes. More turns than `most_steps` are a failure."""
        self.now = 0.0
        """Seconds since the simulation began."""
        self.steps = 0
        """Number of turns that tasks have had."""
        self.errors: list[str] = []
        """Errors that nobody caught."""
        self.turns: dict[str, int] = {}
        """Number of turns of tasks, by the name of their process."""
        self._step_seconds, self._most_steps = step_seconds, most_steps
        self._draw = random.random
        self._callbacks: deque[_Handle] = deque()
        self._ready: list[tuple[int, int, _Handle]] = []
        self._timers: list[tuple[float, int, _Handle]] = []
        self._numbers = count(1)
        self._running = self._stopping = self._closed = False
        self._idle_turns = 0
        self._failure: SimulationFailed | None = None

    # -- time -------------------------------------------------------------------------------------

    def time(self) -> float:
        """Return the time of the steady clock of the process that asks."""
        return self.now + _process.get().monotonic_offset

    def call_at(
        self, when: float, callback: Callable[[*Ts], object], *args: *Ts, context: Context | None = None
    ) -> _Handle:
        handle = _Handle(callback, args, context, when)
        if when < INFINITY:  # a sleep for ever is no timer: nothing happens any more if there is no other
            heappush(self._timers, (when - handle.process.monotonic_offset, next(self._numbers), handle))
        return handle

    def call_later(
        self, delay: float, callback: Callable[[*Ts], object], *args: *Ts, context: Context | None = None
    ) -> _Handle:
        return self.call_at(self.time() + delay, callback, *args, context=context)

    # -- what is ready ----------------------------------------------------------------------------

    def call_soon(self, callback: Callable[[*Ts], object], *args: *Ts, context: Context | None = None) -> _Handle:
        handle = _Handle(callback, args, context)
        self._post(handle)
        return handle

    def _post(self, handle: _Handle) -> None:
        task = getattr(handle.callback, "__self__", None)
        if isinstance(task, _Task):
            insort(self._ready, (task.number, next(self._numbers), handle))
        else:
            self._callbacks.append(handle)

    def resume(self, process: Process) -> None:
        """Let a process run that was stopped."""
        process.stopped = False
        held, process.held = process.held, []
        for handle in held:
            self._post(handle)

    def _turn(self) -> None:
        """Run the callbacks that are due, which only connect tasks with each other, and then one task that is ready."""
        while self._timers and self._timers[0][0] <= self.now:
            handle = heappop(self._timers)[2]
            early = handle.at - (self.now + handle.process.monotonic_offset)
            if early > 0 and not handle.gone:  # rounding
                self.now = nextafter(self.now + early, INFINITY)
            self._callbacks.append(handle)
        for _ in range(len(self._callbacks)):
            self._run(self._callbacks.popleft())
        if self._ready:
            place = int(self._draw() * len(self._ready)) if len(self._ready) > 1 else 0
            self._run_step(self._ready.pop(place)[2])
            self._idle_turns = 0
            return
        self._idle_turns += 1
        if (not self._callbacks or self._idle_turns > IDLE_TURNS) and not self._stopping:
            self._leap()

    def _run_step(self, handle: _Handle) -> None:
        self.steps += 1
        if self.steps > self._most_steps:
            raise SimulationFailed(
                f"more than {self._most_steps} turns of tasks: a loop never rests, or raise the limit"
            )
        self.now += self._step_seconds
        name = handle.process.name
        self.turns[name] = self.turns.get(name, 0) + 1
        self._run(handle)

    def _leap(self) -> None:
        while self._timers and self._timers[0][2].gone:
            heappop(self._timers)
        if not self._timers:
            raise SimulationFailed("the simulation stands still: no task is ready, and no timer runs")
        self.now = max(self.now, self._timers[0][0])

    def _run(self, handle: _Handle) -> None:
        if handle.gone:
            return
        if handle.process.stopped:
            handle.process.held.append(handle)
            return
        try:
            handle.context.run(handle.callback, *handle.args)
        except (SystemExit, KeyboardInterrupt, SimulationFailed):
            raise
        except BaseException as error:
            self.call_exception_handler({"message": "a callback failed", "exception": error})

    # -- tasks ------------------------------------------------------------------------------------

    def create_future(self) -> "asyncio.Future[Any]":
        return asyncio.Future(loop=self)

    def create_task(
        self,
        coro: Generator[Any, None, T] | Coroutine[Any, Any, T],
        *,
        name: object = None,
        context: Context | None = None,
        **options: Any,
    ) -> "asyncio.Task[T]":
        return _Task(coro, next(self._numbers), loop=self, name=name, context=context)

    def get_task_factory(self) -> None:
        return None

    def start(self, process: Process, coro: Coroutine[Any, Any, T]) -> "asyncio.Task[T]":
        """Start a task in a process."""
        context = copy_context()
        context.run(_process.set, process)
        number = next(self._numbers)
        task = process.tasks[number] = _Task(coro, number, loop=self, context=context)
        task.add_done_callback(lambda _: process.tasks.pop(number))
        return task

    def call_in(self, process: Process, callback: Callable[..., object], *args: Any) -> None:
        """Call a function in a process: later, if that is stopped."""
        context = Context()
        context.run(_process.set, process)
        self.call_soon(callback, *args, context=context)

    def after(self, seconds: float, callback: Callable[..., object], *args: Any) -> None:
        """Call a function later, whatever happens to the process that asks for it."""
        self.at(self.now + seconds, callback, *args)

    def at(self, when: float, callback: Callable[..., object], *args: Any) -> None:
        """Call a function at a time of the simulation, whatever happens to the process that asks for it."""
        self.call_at(when, callback, *args, context=Context())

    # -- the loop ---------------------------------------------------------------------------------

    def run_until_complete(self, future: Any) -> Any:
        future = asyncio.ensure_future(future, loop=self)
        future.add_done_callback(self._stop)
        self.run_forever()
        if not future.done():
            raise SimulationFailed("the loop was stopped before its task had ended")
        return future.result()

    def run_forever(self) -> None:
        hooks, collects = sys.get_asyncgen_hooks(), gc.isenabled()
        check_not_async()
        gc.disable()  # what ends at a collection would end at another moment in each run
        self._running, self._stopping = True, False
        try:
            events._set_running_loop(self)
            sys.set_asyncgen_hooks(finalizer=self._finalize)
            with closed(self.refuse):
                while not self._stopping:
                    self._turn()
                    if self._failure is not None:
                        raise self._failure
        finally:
            self._running = False
            if collects:
                gc.enable()
            sys.set_asyncgen_hooks(*hooks)
            events._set_running_loop(None)

    def _finalize(self, generator: AsyncGenerator[Any, Any]) -> None:
        if not self._closed:
            self.call_soon(self.create_task, generator.aclose())

    def stop(self) -> None:
        self._stopping = True

    def _stop(self, _: object) -> None:
        self._stopping = True

    def is_running(self) -> bool:
        return self._running

    def is_closed(self) -> bool:
        return self._closed

    def close(self) -> None:
        self._closed = True
        self._callbacks.clear()
        self._ready.clear()
        self._timers.clear()

    def __del__(self) -> None:
        """Warn of nothing, as the base would: a loop that was never run holds nothing open."""

    def get_debug(self) -> bool:
        return False

    def set_debug(self, enabled: bool) -> None: ...

    def call_exception_handler(self, context: dict[str, Any]) -> None:
        error = context.get("exception")
        self.errors.append(f"{context['message']}: {error!r}" if error else context["message"])

    def default_exception_handler(self, context: dict[str, Any]) -> None:
        self.call_exception_handler(context)

    # -- the world outside ------------------------------------------------------------------------

    def refuse(self, text: str) -> NoReturn:
        """Raise `SimulationFailed`, and again at the end of this turn: simulated code may catch it."""
        failure = SimulationFailed(f"{_process.get().name}: {text}")
        self._failure = self._failure or failure
        raise failure

    call_soon_threadsafe = run_in_executor = _refused("a simulated process has no threads")
    getaddrinfo = getnameinfo = _refused(NO_SOCKETS)
    create_connection = create_server = create_unix_connection = create_unix_server = _refused(NO_SOCKETS)
    create_datagram_endpoint = add_reader = add_writer = _refused(NO_SOCKETS)
    subprocess_exec = subprocess_shell = _refused("a simulated process starts no others")
    add_signal_handler = _refused("a simulated process gets no signals; `Machine.kill` and `Machine.ends` end it")
