"""Interfaces of components that call containers."""

from collections.abc import AsyncIterator, Collection, Mapping, Sequence
from contextlib import AbstractAsyncContextManager
from types import TracebackType
from typing import Literal, Protocol

import msgspec

from nodekit.model.container import Container, ContainerId, ContainerOutput, Step


class ContainerRunner(Protocol):
    """A component that runs steps in its containers."""

    @property
    def containers(self) -> Mapping[ContainerId, Container]:
        """The containers, running or not. Known before the runner is entered, and fixed from then on."""
        ...

    async def __aenter__(self) -> "ContainerRunner":
        """Start the containers. Return when they can be called; do not sleep until they are ready."""
        ...

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> bool | None:
        """Stop the containers and leave nothing behind."""
        ...

    def running(self) -> Collection[ContainerId]:
        """Return the containers that can be called right now. No I/O."""
        ...

    async def changed(self) -> None:
        """Return when `running()` may differ from what it was when this was called."""
        ...

    def problems(self) -> Sequence[str]:
        """Return what is wrong right now, for an operator to read. No I/O."""
        ...

    async def run(self, step: Step) -> ContainerOutput:
        """Call the container once. The output names the instance that gave it.

        Raise `ContainerFailed`, and nothing else. Cancellation gives up the call at once. The node enforces the
        container's `timeout_seconds` by cancellation.
        """
        ...


class PooledRunner(ContainerRunner, Protocol):
    """A runner whose containers share a limit. The node keeps further steps in its queue."""

    @property
    def concurrency(self) -> int | None:
        """Maximum number of steps that run in all of its containers together. None sets no limit beyond the node's."""
        ...


class InProcessRunner(ContainerRunner, Protocol):
    """A runner whose calls open no file descriptors, so that the process's limit of them does not limit its steps."""

    @property
    def in_process(self) -> Literal[True]: ...


class NamingRunner(ContainerRunner, Protocol):
    """A runner that knows before a call which running instance of a container gets it.

    With it, the history of a job names the instance of a call that is under way, that failed or that was cut short.
    """

    def instance(self, container: ContainerId) -> str:
        """Return the name of the instance that a call would reach now. Empty if there is none. No I/O."""
        ...


class StreamingRunner(ContainerRunner, Protocol):
    """A runner whose containers can answer piece by piece. The output of other runners streams in one piece."""

    def stream(self, step: Step) -> AbstractAsyncContextManager[AsyncIterator[bytes]]:
        """Call the container and yield its bytes as they arrive. The iterator has an `instance` if the runner knows it.

        Raise `ContainerFailed`, also in mid-stream, and nothing else. Leaving before the end gives up the call at once.
        Read no more from the container than is requested, except for a buffer of moderate size.
        """
        ...


class DescribingRunner(ContainerRunner, Protocol):
    """A runner whose containers can describe themselves: their models, for instance, and what those need."""

    async def resources(self, container: ContainerId, model_id: str | None) -> msgspec.Raw | None:
        """Return a container's description of itself, or of one of its models, as JSON; None if there is none.

        The node asks only running containers, and cancels a call that takes long.
        """
        ...
