"""Faults at chosen calls of a node's parts: a call is slow, fails, hangs or loses its answer, or the process crashes.

Put faults around the parts, say what goes wrong, run the node::

    faults = Faults()
    node = Node(store=EmbeddedStore(faults.around(table)), runners=[faults.around(runner)])
    faults.before("save", 2).fail(StoreFailed("the disk is full"))
    faults.after("run", where=lambda step: step.container == "b").delay(0.5)
    faults.during("run", 3).crash()
    await faults.run(node, what_clients_do)  # until the crash; then look what a new node makes of the same table
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

PartT = TypeVar("PartT")
NodeT = TypeVar("NodeT", bound=AbstractAsyncContextManager[Any])
T = TypeVar("T")

_TURNS = 10
"""Of the event loop, until something happens during a call."""


class Call(NamedTuple):
    """A call that a node made of a part."""

    method: str
    number: int
    """From 1, of all calls of this method."""
    args: tuple[Any, ...]


class Point(NamedTuple):
    """A place where something can go wrong."""

    moment: Moment
    method: str
    number: int

    def __str__(self) -> str:
        return f"{self.moment} {self.method} {self.number}"


class Faults:
    """What goes wrong in one node, all of whose parts share one crash. A second node needs a second one."""

    def __init__(self) -> None:
        self.calls: list[Call] = []
        """The calls that were made of the parts, in the order in which they began, up to the crash."""
        self._counts: Counter[str] = Counter()
        self._plans: list[Plan] = []
        self._process = Process()

    def around(self, part: PartT) -> PartT:
        """A part (any `JobTable`, `JobStore` or `ContainerRunner`) with these faults, otherwise as the given one.

        Methods go by their names; entering is `enter`, and the pieces that `changes` and `stream` give are
        `changes.next` and `stream.next`. Leaving has no faults, nor has what is not awaited (`running`, `problems`, a
        runner's `concurrency`). Claims pass as they are.
        """
        return cast("PartT", Faulty(part, self._call))

    # -- saying what goes wrong -------------------------------------------------------------------

    def before(self, method: str, *numbers: int, where: Callable[..., bool] | None = None) -> When:
        """Before these calls of a method, counted from now on and from 1; before each, where no number is given.

        `where` is asked with the arguments of a call; only those for which it is true are counted.
        """
        return self._when("before", method, numbers, where)

    def during(self, method: str, *numbers: int, where: Callable[..., bool] | None = None) -> When:
        """As `before`, a few turns of the event loop after the call has begun; to fail or to crash gives it up."""
        return self._when("during", method, numbers, where)

    def after(self, method: str, *numbers: int, where: Callable[..., bool] | None = None) -> When:
        """As `before`, once the call has done its work and nobody knows yet; one that fails does not get there."""
        return self._when("after", method, numbers, where)

    def at(self, point: Point) -> When:
        """Before, during or after one call of a method."""
        return self._when(point.moment, point.method, (point.number,), None)

    def _when(self, moment: Moment, method: str, numbers: tuple[int, ...], where: Callable[..., bool] | None) -> When:
        if not all(number >= 1 for number in numbers):
            raise ValueError(f"the first call of {method} is number 1; there is none {min(numbers)}")

        def plan(fault: Fault) -> None:
            self._plans.append(Plan(moment, method, numbers, where or _always, fault))

        return When(plan, self._process)

    def lift(self) -> None:
        """From now on nothing goes wrong; what hangs or is delayed goes on. A crash stays one."""
        self._plans.clear()
        self._process.lift()

    # -- looking ----------------------------------------------------------------------------------

    def count(self, method: str) -> int:
        """How many calls of a method there were."""
        return self._counts[method]

    def points(self, *methods: str, moments: Sequence[Moment] = ("before", "after")) -> list[Point]:
        """The moments of each call that was made of these methods: where the same can fail when it is run again."""
        return [Point(moment, c.method, c.number) for c in self.calls if c.method in methods for moment in moments]

    # -- crashing ---------------------------------------------------------------------------------

    @property
    def crashed(self) -> bool:
        return self._process.crashing.is_set()

    def crash(self) -> None:
        """End the process here and now, as far as its parts can tell: no call reaches them any more.

        Raises `Crashed`, as each call from now on does. What is under way elsewhere may be done or not, and nobody is
        told. Leaving a part works as ever: files and programs are let go of. Put faults around whatever keeps jobs,
        or it keeps what tearing down the node does.
        """
        self._process.crash()

    async def run(self, node: NodeT, use: Callable[[NodeT], Awaitable[T]]) -> T | None:
        """Use a node (or a store, or whatever is entered asynchronously) inside its `async with`, until it crashes.

        Answers what `use` does; after a crash None, whatever was raised because of it.
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
                except (Exception, BaseExceptionGroup) as error:  # not to be wrapped in a group
                    failures.append(error)
                tasks.cancel_scope.cancel()
        except (Exception, BaseExceptionGroup) as error:
            failures.append(error)
        for failure in reversed(failures):  # leaving a node that crashed may replace what `use` raised
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
    """What is left of an error when the crash, and what it cancelled, are taken out of it."""
    crash = (Crashed, anyio.get_cancelled_exc_class())
    if isinstance(error, BaseExceptionGroup):
        return cast("BaseExceptionGroup[BaseException]", error).split(crash)[1]
    return None if isinstance(error, crash) else error
