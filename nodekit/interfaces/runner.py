"""Interfaces of what calls containers."""

from collections.abc import AsyncIterator, Collection, Mapping, Sequence
from contextlib import AbstractAsyncContextManager
from types import TracebackType
from typing import Literal, Protocol

import msgspec

from nodekit.model.container import Container, ContainerId, ContainerOutput, Step


class ContainerRunner(Protocol):
    """Runs steps in the containers that it offers."""

    @property
    def containers(self) -> Mapping[ContainerId, Container]:
        """What it offers, running or not; known before it is entered and fixed from then on."""
        ...

    async def __aenter__(self) -> "ContainerRunner":
        """Bring the containers up. Returns when they can be called; no sleeping until ready."""
        ...

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> bool | None:
        """Take them down and leave nothing behind."""
        ...

    def running(self) -> Collection[ContainerId]:
        """Which of them can be called right now. No I/O."""
        ...

    async def changed(self) -> None:
        """Return when `running()` may differ from what it was when this was called."""
        ...

    def problems(self) -> Sequence[str]:
        """What is wrong right now, for an operator to read. No I/O."""
        ...

    async def run(self, step: Step) -> ContainerOutput:
        """Call the container once; the output names the instance that gave it.

        Raises `ContainerFailed`, and nothing else. Cancelling it gives up the call at once.
        The node enforces the container's `timeout_seconds` by cancellation.
        """
        ...


class PooledRunner(ContainerRunner, Protocol):
    """A runner whose containers share a limit; the node keeps further steps in its queue."""

    @property
    def concurrency(self) -> int | None:
        """How many steps may run in all of its containers together; None: as many as the node runs."""
        ...


class InProcessRunner(ContainerRunner, Protocol):
    """A runner whose calls open no file descriptors, so that the process's limit of them does not bound its steps."""

    @property
    def in_process(self) -> Literal[True]: ...


class StreamingRunner(ContainerRunner, Protocol):
    """A runner whose containers can answer piece by piece. Of others, a stream has the output in one piece."""

    def stream(self, step: Step) -> AbstractAsyncContextManager[AsyncIterator[bytes]]:
        """Call the container; the pieces are its bytes as they come, and where it can, name their `instance`.

        Raises `ContainerFailed`, also in mid-stream, and nothing else. Leaving it before its end gives up the call at
        once. No more is read from the container than is asked for, a buffer of moderate size aside.
        """
        ...


class DescribingRunner(ContainerRunner, Protocol):
    """A runner whose containers can say what they are: their models, for instance, and what those need."""

    async def resources(self, container: ContainerId, model_id: str | None) -> msgspec.Raw | None:
        """What a container says of itself, or of one of its models: JSON; None: it says nothing.

        The node asks only containers that are running, and cancels a call that takes long.
        """
        ...
