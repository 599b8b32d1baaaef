"""The runner `function`: a container is a plain async Python function. No process, no network."""

import functools
import inspect
import logging
from collections.abc import AsyncGenerator, Awaitable, Callable, Collection, Mapping, Sequence
from contextlib import AbstractAsyncContextManager
from pathlib import Path
from types import ModuleType, TracebackType
from typing import Any, Literal, Self, TypeAlias, TypeVar

import anyio
import msgspec

from nodekit import (
    CompositionError,
    Container,
    ContainerId,
    ContainerOutput,
    NodeFile,
    Problem,
    Provider,
    Step,
    encode_payload,
)
from nodekit_function._pieces import INSTANCE, Pieces, decoded, gathered, pieces_of, translated
from nodekit_function._references import ReferenceProblem, referred

__all__ = ["Function", "FunctionConfig", "FunctionContainer", "FunctionRunner", "provider"]

logger = logging.getLogger("nodekit.packages")

Function: TypeAlias = Callable[[Any], Awaitable[Any] | AsyncGenerator[bytes | str, None]]
"""A function that takes the data of a step as plain Python values and returns a value that JSON can hold.

An async generator yields pieces, `bytes` or `str`. If its job does not stream, the output is what a `StreamRecord`
keeps of them.
"""

FunctionT = TypeVar("FunctionT", bound=Function)


class FunctionContainer(Container, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """A container of a node file.

    - `call`: ``package.module:function``, or ``file.py:function`` relative to the node file. A file runs once, even if
      several of its functions are containers.
    """

    call: str


class FunctionConfig(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    containers: tuple[FunctionContainer, ...] = ()


class FunctionRunner:
    """A runner that calls functions.

    An exception of a function fails its step as an HTTP 500 would. Raise `ContainerFailed` for another failure.
    """

    in_process: Literal[True] = True

    def __init__(self) -> None:
        self._containers: dict[ContainerId, Container] = {}
        self._functions: dict[ContainerId, Function] = {}

    def add(self, container: Container, function: Function) -> None:
        """Register a function as a container. Call this before the node is composed.

        Raise `CompositionError` for a function that cannot be awaited, because it would block the whole node, and for
        a container id that is taken.
        """
        if container.id in self._containers:
            raise CompositionError(f"container {container.id!r} has a function already")
        if not _is_async(function):
            name = getattr(function, "__qualname__", repr(function))
            cure = "must be `async def`; call blocking code by `anyio.to_thread.run_sync(f, abandon_on_cancel=True)`"
            raise CompositionError(f"the function of container {container.id!r}, {name}, {cure}")
        self._containers[container.id] = container
        self._functions[container.id] = function

    def container(self, id: ContainerId, **settings: Any) -> Callable[[FunctionT], FunctionT]:
        """Register the decorated function as a container. `settings` are fields of `Container`."""

        def decorate(function: FunctionT) -> FunctionT:
            description = settings.pop("description", (function.__doc__ or "").strip().partition("\n")[0])
            self.add(Container(id=id, description=description, **settings), function)
            return function

        return decorate

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        return None

    @property
    def containers(self) -> Mapping[ContainerId, Container]:
        return self._containers

    def running(self) -> Collection[ContainerId]:
        return self._containers.keys()

    async def changed(self) -> None:
        await anyio.sleep_forever()

    def problems(self) -> Sequence[str]:
        return ()

    def instance(self, container: ContainerId) -> str:
        return INSTANCE

    async def run(self, step: Step) -> ContainerOutput:
        data = decoded(step)
        with translated():
            answer = self._functions[step.container](data)
            output = encode_payload(await answer) if isinstance(answer, Awaitable) else await gathered(answer)
            return ContainerOutput(container=step.container, output=output, instance=INSTANCE)

    def stream(self, step: Step) -> AbstractAsyncContextManager[Pieces]:
        return pieces_of(self._functions[step.container], step)


def from_config(config: FunctionConfig, file: NodeFile) -> FunctionRunner:
    """Build the runner of a node file."""
    runner = FunctionRunner()
    files: dict[Path, ModuleType] = {}
    problems: list[Problem] = []
    for number, container in enumerate(config.containers):
        try:
            runner.add(container, referred(container.call, file.folder, files))
        except CompositionError as error:
            problems.append(Problem(f"containers[{number}]", str(error)))
        except ReferenceProblem as error:
            problems.append(Problem(f"containers[{number}].call", f"{container.call}: {error}"))
        except (Exception, SystemExit) as error:  # of the code of the function's module
            text = f"{container.call}: {type(error).__name__}: {error}; nodekit --traceback COMMAND shows where"
            logger.debug("%s", container.call, exc_info=error)
            problems.append(Problem(f"containers[{number}].call", text))
    if problems:
        raise CompositionError(problems)
    return runner


def _is_async(function: object) -> bool:
    while isinstance(function, functools.partial):
        function = function.func
    called = (function, type(function).__call__)
    return any(inspect.iscoroutinefunction(f) or inspect.isasyncgenfunction(f) for f in called)


provider = Provider(FunctionConfig, from_config, container=FunctionContainer)
