"""A runner that counts its calls and can hold them, for suites that must not import a plugin."""

import threading
from collections import Counter
from collections.abc import Callable, Collection, Mapping, Sequence
from types import TracebackType
from typing import Any, Literal, Self

import anyio

from nodekit import Container, ContainerId, ContainerOutput, JobId, Step, decode_payload
from nodekit.concurrency.signal import Signal

POLL_SECONDS = 0.002


class CountingRunner:
    """Runs containers that return their input, after some seconds. Calls of those in `held` wait until `open`.

    A job with the data ``{"poison": …}`` ends its node: it calls `die`, which is to stop the node's store until the
    event is set.
    """

    in_process: Literal[True] = True

    def __init__(
        self,
        name: str,
        containers: Collection[ContainerId] = ("echo", "reverse"),
        *,
        held: Collection[ContainerId] = (),
        seconds: float = 0.0,
        when_down: Literal["wait", "fail"] = "wait",
    ) -> None:
        self.name = name
        self.containers: Mapping[ContainerId, Container] = {
            id: Container(id=id, when_down=when_down) for id in containers
        }
        self.calls: Counter[tuple[JobId, int]] = Counter()
        """Number of calls, by job and index of the step."""
        self.aborted = 0
        self.revived = threading.Event()
        self.die: Callable[[threading.Event], object] = threading.Event.wait
        self.armed = threading.Event()
        """Until this is set, poison waits: a node must not die while the test waits for an answer of it."""
        self.armed.set()
        self._down: set[ContainerId] = set()
        self._changed = Signal()
        self._held = held
        self._seconds = seconds
        self._opened: anyio.Event

    async def __aenter__(self) -> Self:
        self._opened = anyio.Event()
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        return None

    def running(self) -> Collection[ContainerId]:
        return self.containers.keys() - self._down

    async def changed(self) -> None:
        await self._changed.wait()

    def problems(self) -> Sequence[str]:
        return ()

    async def open(self) -> None:
        """Release all calls; hold none from now on."""
        self._opened.set()

    def take_down(self, id: ContainerId) -> None:
        """Stop a container."""
        self._down.add(id)
        self._changed.set()

    async def run(self, step: Step) -> ContainerOutput:
        self.calls[step.job_id, step.index] += 1
        if _is_poison(step):
            while not self.armed.is_set():  # noqa: ASYNC110 - set in another thread
                await anyio.sleep(POLL_SECONDS)
            self.die(self.revived)
        if step.container in self._held:
            try:
                await self._opened.wait()
            except anyio.get_cancelled_exc_class():
                self.aborted += 1
                raise
        elif self._seconds:
            await anyio.sleep(self._seconds)
        return ContainerOutput(container=step.container, output=step.input.data, instance=self.name)


def _is_poison(step: Step) -> bool:
    data: Any = decode_payload(step.input.data)
    return isinstance(data, dict) and "poison" in data
