"""Asking parts how they are: one that breaks when it is asked harms no other."""

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

PartT = TypeVar("PartT")
T = TypeVar("T")


def named(key: str, parts: Iterable[PartT]) -> Iterator[tuple[str, PartT]]:
    """Parts of a list with the names that messages give them, such as ``runners[1] (ProcessRunner)``."""
    return ((f"{key}[{number}] ({type(part).__name__})", part) for number, part in enumerate(parts))


def texts(told: Any) -> list[str]:
    """One text is one problem, not as many as it has letters; None is none."""
    return [told] if isinstance(told, str) and told else [str(problem) for problem in told or ()]


def is_fault(error: BaseException) -> bool:
    """Return True for a fault of the part that was called, False for what ends the caller, too.

    A part may be cancelled in itself, by a future of its own for instance, while nobody cancels the caller.
    """
    if isinstance(error, anyio.get_cancelled_exc_class()):
        return anyio.current_effective_deadline() != -math.inf
    return isinstance(error, Exception)


def said(error: BaseException) -> str:
    """Return what an error says, or its name where it says nothing."""
    return str(error) or type(error).__name__


async def asked(store: Callable[[], Awaitable[T]]) -> T:
    """Return the store's answer. Raises `StoreFailed` where there is none, whatever the store raises instead.

    It is asked in a task of its own: where that is cancelled and the caller is not, the store was cancelled in itself.
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
    raise failed if isinstance(failed, StoreFailed) else StoreFailed(said(failed)) from failed


class Running:
    """The containers that can be called right now."""

    def __init__(self, runners: Sequence[ContainerRunner]) -> None:
        self._runners = dict(named("runners", runners))
        self.problems: dict[str, str] = {}
        """Reasons that jobs are not getting on right now, by what fails; the executor adds its own."""
        self.silent: set[str] = set()
        """Runners that do not say, by their names; none of their containers can be called."""
        self.broke = Signal()
        """Set when one begins not to say."""

    def look(self) -> set[ContainerId]:
        """Ask each runner."""
        found: set[ContainerId] = set()
        for name, runner in self._runners.items():
            try:
                found.update(runner.running())
            except (KeyboardInterrupt, GeneratorExit):
                raise
            except BaseException as error:  # nobody cancels what is not awaited: it is the runner's own
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

    def told(self) -> list[str]:
        """Return what runners say is wrong right now; one that cannot say is wrong itself."""
        return [problem for name, runner in self._runners.items() for problem in _told_by(name, runner)]


def _told_by(name: str, runner: ContainerRunner) -> list[str]:
    try:
        return texts(runner.problems())
    except (KeyboardInterrupt, GeneratorExit):
        raise
    except BaseException:  # as above
        logger.exception("%s failed to say what is wrong", name)
        return [f"{name} failed to say what is wrong; the log has it"]
