"""Faults, and the calls at which they happen."""

from collections.abc import Awaitable, Callable
from typing import Any, Literal, TypeAlias

import anyio

from nodekit import NodekitError

Moment: TypeAlias = Literal["before", "during", "after"]
Strike: TypeAlias = Callable[[], Awaitable[None]]


class Crashed(NodekitError):
    """The process has crashed, as its components see it: this call, and each later one, has no effect."""

    def __init__(self) -> None:
        super().__init__("the process has crashed; to go on, open a new node on the same data")


class Process:
    """State that all components of a node share: it crashes once, and held calls can be released."""

    def __init__(self) -> None:
        self.crashing = anyio.Event()
        self._lifted = anyio.Event()

    def crash(self) -> None:
        self.crashing.set()
        self.check()

    def check(self) -> None:
        if self.crashing.is_set():
            raise Crashed

    def lift(self) -> None:
        self._lifted.set()
        self._lifted = anyio.Event()

    async def pause(self, seconds: float) -> None:
        """Wait until the time is over, the crash, or the lifting, whichever comes first."""
        lifted = self._lifted
        with anyio.move_on_after(seconds):
            async with anyio.create_task_group() as tasks:
                for event in (self.crashing, lifted):
                    tasks.start_soon(cancel_at, event, tasks.cancel_scope)
        self.check()


class Fault:
    """Something that goes wrong at certain calls. The methods of `When` return it."""

    def __init__(self, strike: Strike) -> None:
        self.times = 0
        """Number of times that it has happened."""
        self._strike = strike
        self._happened = anyio.Event()

    async def happened(self) -> None:
        """Wait until it happens for the first time. A call that hangs is then held."""
        await self._happened.wait()

    async def strike(self) -> None:
        self.times += 1
        self._happened.set()
        await self._strike()


class Plan:
    """The calls at which a fault happens."""

    def __init__(
        self, moment: Moment, method: str, numbers: tuple[int, ...], where: Callable[..., bool], fault: Fault
    ) -> None:
        self.moment: Moment = moment
        self.fault = fault
        self._method = method
        self._numbers = numbers
        self._where = where
        self._counted = 0

    def concerns(self, method: str, args: tuple[Any, ...], kwargs: dict[str, Any]) -> bool:
        """Count a call that begins, and return True if the fault happens at it."""
        if method != self._method or not self._where(*args, **kwargs):
            return False
        self._counted += 1
        return not self._numbers or self._counted in self._numbers


class When:
    """The selected calls; its methods choose the fault that happens there."""

    def __init__(self, plan: Callable[[Fault], None], process: Process) -> None:
        self._plan = plan
        self._process = process

    def delay(self, seconds: float) -> Fault:
        """Delay the call by that much."""
        return self._does(lambda: self._process.pause(seconds))

    def fail(self, error: Exception) -> Fault:
        """Raise the error. Before the call nothing is done; after it everything is done and only the answer is lost."""

        async def strike() -> None:
            raise error

        return self._does(strike)

    def hang(self) -> Fault:
        """Hold the call until `Faults.lift`, a crash, or a cancellation that reaches it.

        The changes of an `EmbeddedStore` are shielded: lift a fault that holds its table before you leave the node.
        """
        return self._does(lambda: self._process.pause(float("inf")))

    def crash(self) -> Fault:
        """End the process there, as `Faults.crash` does."""

        async def strike() -> None:
            self._process.crash()

        return self._does(strike)

    def _does(self, strike: Strike) -> Fault:
        fault = Fault(strike)
        self._plan(fault)
        return fault


async def cancel_at(event: anyio.Event, scope: anyio.CancelScope) -> None:
    await event.wait()
    scope.cancel()
