"""A runner that counts its calls and can hold them, for suites that must not import a plugin."""

from collections import Counter
from collections.abc import Collection, Mapping, Sequence
from types import TracebackType
from typing import Literal, Self

import anyio

from nodekit import Container, ContainerId, ContainerOutput, JobId, Step


class CountingRunner:
    """Runs containers that return their input. Calls of the containers in `held` wait until `open`."""

    in_process: Literal[True] = True

    def __init__(self, name: str, *, held: Collection[ContainerId] = ()) -> None:
        self.name = name
        self.containers: Mapping[ContainerId, Container] = {id: Container(id=id) for id in ("echo", "reverse")}
        self.calls: Counter[tuple[JobId, int]] = Counter()
        """Number of calls, by job and index of the step."""
        self.aborted = 0
        self._held = held
        self._opened: anyio.Event

    async def __aenter__(self) -> Self:
        self._opened = anyio.Event()
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        return None

    def running(self) -> Collection[ContainerId]:
        return self.containers

    async def changed(self) -> None:
        await anyio.sleep_forever()

    def problems(self) -> Sequence[str]:
        return ()

    async def open(self) -> None:
        """Release all calls; hold none from now on."""
        self._opened.set()

    async def run(self, step: Step) -> ContainerOutput:
        self.calls[step.job_id, step.index] += 1
        if step.container in self._held:
            try:
                await self._opened.wait()
            except anyio.get_cancelled_exc_class():
                self.aborted += 1
                raise
        return ContainerOutput(container=step.container, output=step.input.data, instance=self.name)
