"""Questions to components about their state. A component that fails to answer harms no other."""

import logging
import math
from collections.abc import Awaitable, Callable, Iterable, Iterator, Sequence
from typing import Any, TypeVar

import anyio

from nodekit.concurrency.signal import Signal
from nodekit.errors import StoreFailed
from nodekit.interfaces.runner import ContainerRunner
from nodekit.model.container import ContainerId

logger = logging.getLogger("nodekit.node")

ComponentT = TypeVar("ComponentT")
T = TypeVar("T")


def named(key: str, components: Iterable[ComponentT]) -> Iterator[tuple[str, ComponentT]]:
    """Yield components with the names used in messages, such as ``runners[1] (ProcessRunner)``."""
    return ((f"{key}[{number}] ({type(component).__name__})", component) for number, component in enumerate(components))


def texts(given: Any) -> list[str]:
    """Return a list of problems. A single text counts as one problem; None counts as none."""
    return [given] if isinstance(given, str) and given else [str(problem) for problem in given or ()]


def is_fault(error: BaseException) -> bool:
    """Return True for a fault of the component that was called, False for what must end the caller, too.

    A component may be cancelled in itself, for instance by a future of its own, while nothing cancels the caller.
    """
    if isinstance(error, anyio.get_cancelled_exc_class()):
        return anyio.current_effective_deadline() != -math.inf
    return isinstance(error, Exception)


def said(error: BaseException) -> str:
    """Return the text of an error, or its class name if it has no text."""
    return str(error) or type(error).__name__


def unexpected(error: BaseException) -> BaseException | None:
    """Return the error if its traceback belongs in the log, and None for a store that says what has failed."""
    return None if isinstance(error, StoreFailed) else error


async def asked(store: Callable[[], Awaitable[T]]) -> T:
    """Return the store's answer. Raise `StoreFailed` if there is none, whatever the store itself raises.

    The call runs in a task of its own. If that task is cancelled and the caller is not, the store was cancelled in
    itself.
    """
    answers: list[T] = []
    failures: list[Exception] = []

    async def ask() -> None:
        try:
            answers.append(await store())
        except Exception as error:
            failures.append(error)

    async with anyio.create_task_group() as tasks:
        tasks.start_soon(ask)
    if answers:
        return answers[0]
    if not failures:
        raise StoreFailed("it was cancelled in itself")
    (failed,) = failures
    if isinstance(failed, StoreFailed):
        raise failed
    raise StoreFailed(said(failed)) from failed


class Running:
    """The containers that can be called right now."""

    def __init__(self, runners: Sequence[ContainerRunner]) -> None:
        self._runners = dict(named("runners", runners))
        self.problems: dict[str, str] = {}
        """Reasons why jobs do not progress right now, by what fails; the executor adds its own."""
        self.silent: set[str] = set()
        """Names of runners that fail to answer; none of their containers can be called."""
        self.broke = Signal()
        """Signal that is set when a runner begins to fail."""

    def look(self) -> set[ContainerId]:
        """Ask each runner and return the containers that run."""
        found: set[ContainerId] = set()
        for name, runner in self._runners.items():
            try:
                found.update(runner.running())
            except (KeyboardInterrupt, GeneratorExit):
                raise
            except BaseException as error:  # nothing can cancel this call: the error is the runner's own
                self._broken(name, error)
            else:
                if name in self.silent:
                    self.silent.remove(name)
                    del self.problems[f"{name}.running"]
        return found

    def _broken(self, name: str, error: BaseException) -> None:
        text = f"{name} does not say what runs: {said(error)}"
        if name not in self.silent:
            logger.error("%s", text, exc_info=error)
        self.silent.add(name)
        self.problems[f"{name}.running"] = text
        self.broke.set()

    def reported(self) -> list[str]:
        """Return the problems that runners report right now. A runner that fails to report is a problem itself."""
        return [problem for name, runner in self._runners.items() for problem in _reported_by(name, runner)]


def _reported_by(name: str, runner: ContainerRunner) -> list[str]:
    try:
        return texts(runner.problems())
    except (KeyboardInterrupt, GeneratorExit):
        raise
    except BaseException:  # as above
        logger.exception("%s failed to say what is wrong", name)
        return [f"{name} failed to say what is wrong; the log has it"]
