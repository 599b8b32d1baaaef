"""Faults at chosen calls of a node's components: slow, failing and hanging calls, lost answers, and crashes.

Put faults around the components, say what goes wrong, run the node::

    faults = Faults()
    node = Node(store=EmbeddedStore(faults.around(table)), runners=[faults.around(runner)])
    faults.before("save", 2).fail(StoreFailed("the disk is full"))
    faults.after("run", where=lambda step: step.container == "b").delay(0.5)
    faults.during("run", 3).crash()
    await faults.run(node, what_clients_do)  # until the crash; then check what a new node makes of the same table
"""

from collections import Counter
from collections.abc import Awaitable, Callable, Iterator, Sequence
from contextlib import AbstractAsyncContextManager, contextmanager
from typing import Any, NamedTuple, TypeVar, cast

import anyio
import anyio.lowlevel

from nodekit.testing.faults.faulty import Faulty
from nodekit.testing.faults.plans import Crashed, Fault, Moment, Plan, Process, When, cancel_at

__all__ = ["Call", "Crashed", "Fault", "Faults", "Moment", "Point", "When"]

ComponentT = TypeVar("ComponentT")
NodeT = TypeVar("NodeT", bound=AbstractAsyncContextManager[Any])
T = TypeVar("T")

_TURNS = 10
"""Turns of the event loop before a fault happens during a call."""


class Call(NamedTuple):
    """A call of a component by a node."""

    method: str
    number: int
    """Number of the call, from 1, among all calls of this method."""
    args: tuple[Any, ...]


class Point(NamedTuple):
    """A moment of a call at which something can go wrong."""

    moment: Moment
    method: str
    number: int

    def __str__(self) -> str:
        return f"{self.moment} {self.method} {self.number}"


class Faults:
    """Faults of one node; its components crash together. Use another instance for a second node."""

    def __init__(self) -> None:
        self.calls: list[Call] = []
        """Calls of the components up to the crash, in the order in which they began."""
        self._counts: Counter[str] = Counter()
        self._plans: list[Plan] = []
        self._process = Process()

    def around(self, component: ComponentT) -> ComponentT:
        """Wrap a component (any `JobTable`, `JobStore` or `ContainerRunner`) so that its calls have these faults.

        Calls are named after their methods. Entering is `enter`; the pieces of `changes` and `stream` are
        `changes.next` and `stream.next`. Leaving has no faults, and neither do members that are not awaited (`running`,
        `problems`, a runner's `concurrency`). Claims pass unchanged.
        """
        return cast("ComponentT", Faulty(component, self._call))

    # -- planning faults --------------------------------------------------------------------------

    def before(self, method: str, *numbers: int, where: Callable[..., bool] | None = None) -> When:
        """Select calls of a method by numbers, counted from now on and from 1, before they begin. No number: all calls.

        `where` is called with the arguments of a call; only calls for which it is true are counted.
        """
        return self._when("before", method, numbers, where)

    def during(self, method: str, *numbers: int, where: Callable[..., bool] | None = None) -> When:
        """Select calls like `before`, a few turns of the event loop after they begin. To fail or crash cancels the
        call."""
        return self._when("during", method, numbers, where)

    def after(self, method: str, *numbers: int, where: Callable[..., bool] | None = None) -> When:
        """Select calls like `before`, after they have worked and before their callers know. Calls that fail are not
        reached."""
        return self._when("after", method, numbers, where)

    def at(self, point: Point) -> When:
        """Select the moment before, during or after one call of a method."""
        return self._when(point.moment, point.method, (point.number,), None)

    def _when(self, moment: Moment, method: str, numbers: tuple[int, ...], where: Callable[..., bool] | None) -> When:
        if not all(number >= 1 for number in numbers):
            raise ValueError(f"the calls of {method} are counted from 1, got {min(numbers)}")

        def plan(fault: Fault) -> None:
            self._plans.append(Plan(moment, method, numbers, where or _always, fault))

        return When(plan, self._process)

    def lift(self) -> None:
        """Remove all faults; hanging and delayed calls go on. A crash remains."""
        self._plans.clear()
        self._process.lift()

    # -- looking ----------------------------------------------------------------------------------

    def count(self, method: str) -> int:
        """Return the number of calls of a method."""
        return self._counts[method]

    def points(self, *methods: str, moments: Sequence[Moment] = ("before", "after")) -> list[Point]:
        """Return the moments of each call of these methods so far: points at which a repeated run can fail."""
        return [Point(moment, c.method, c.number) for c in self.calls if c.method in methods for moment in moments]

    # -- crashing ---------------------------------------------------------------------------------

    @property
    def crashed(self) -> bool:
        return self._process.crashing.is_set()

    def crash(self) -> None:
        """End the process here and now, as its components see it: no call reaches them any more.

        Raises `Crashed`, as does each later call. Work in progress elsewhere may be done or not, and nobody learns
        which. Leaving a component works as usual, so files and programs are released. Put faults around everything that
        keeps jobs; otherwise it keeps the changes that the node makes while it is torn down.
        """
        self._process.crash()

    async def run(self, node: NodeT, use: Callable[[NodeT], Awaitable[T]]) -> T | None:
        """Use a node, or any other async context manager such as a store, inside its `async with` until it crashes.

        Return the result of `use`. Return None after a crash, even if the crash caused errors.
        """
        failures: list[BaseException] = []
        answer: T | None = None
        try:
            async with anyio.create_task_group() as tasks:
                tasks.start_soon(cancel_at, self._process.crashing, tasks.cancel_scope)
                try:
                    async with node:
                        with _noted(failures):
                            answer = await use(node)
                except (Exception, BaseExceptionGroup) as error:  # outside a task group, which would wrap it
                    failures.append(error)
                tasks.cancel_scope.cancel()
        except (Exception, BaseExceptionGroup) as error:
            failures.append(error)
        for failure in reversed(failures):  # leaving a crashed node may replace the error of `use`
            if (other := _without_crash(failure)) is not None:
                raise other
        return None if self.crashed else answer

    # -- calling ----------------------------------------------------------------------------------

    async def _call(
        self, method: str, function: Callable[..., Awaitable[T]], args: tuple[Any, ...], kwargs: dict[str, Any]
    ) -> T:
        self._process.check()
        self._counts[method] += 1
        self.calls.append(Call(method, self._counts[method], args))
        due = [plan for plan in self._plans if plan.concerns(method, args, kwargs)]
        await _strike("before", due)
        try:
            if any(plan.moment == "during" for plan in due):
                answer = await _interrupted(lambda: function(*args, **kwargs), due)
            else:
                answer = await function(*args, **kwargs)
        except Exception:
            self._process.check()
            raise
        await _strike("after", due)
        self._process.check()
        return answer


async def _strike(moment: Moment, due: Sequence[Plan]) -> None:
    for plan in due:
        if plan.moment == moment:
            await plan.fault.strike()


async def _interrupted(call: Callable[[], Awaitable[T]], due: Sequence[Plan]) -> T:
    """Make a call during which something goes wrong."""
    answers: list[T] = []
    errors: list[Exception] = []

    async def make() -> None:
        try:
            answers.append(await call())
        except Exception as error:
            errors.append(error)

    async with anyio.create_task_group() as tasks:
        tasks.start_soon(make)
        try:
            for _ in range(_TURNS):
                await anyio.lowlevel.checkpoint()
            await _strike("during", due)
        except Exception as error:
            errors.insert(0, error)
            tasks.cancel_scope.cancel()
    if errors:
        raise errors[0]
    return answers[0]


def _always(*args: Any, **kwargs: Any) -> bool:
    return True


@contextmanager
def _noted(failures: list[BaseException]) -> Iterator[None]:
    try:
        yield
    except (Exception, BaseExceptionGroup) as error:
        failures.append(error)
        raise


def _without_crash(error: BaseException) -> BaseException | None:
    """Return the error without the crash and the cancellations it caused. Return None if nothing else is left."""
    crash = (Crashed, anyio.get_cancelled_exc_class())
    if isinstance(error, BaseExceptionGroup):
        return cast("BaseExceptionGroup[BaseException]", error).split(crash)[1]
    return None if isinstance(error, crash) else error
