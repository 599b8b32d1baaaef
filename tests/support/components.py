"""Components that tests compose nodes from: real ones, and small ones that tests can hold up, take down and break."""

import gc
from collections import Counter
from collections.abc import Awaitable, Callable, Collection, Mapping, Sequence
from types import FunctionType, ModuleType
from typing import Any

import anyio
import pytest

from nodekit import (
    Container,
    ContainerOutput,
    EmbeddedStore,
    Job,
    JobFinished,
    JobQuery,
    JobRequest,
    JobStream,
    Node,
    NodeLimits,
    Step,
    StepStarted,
    StoreFailed,
    StreamBroken,
    encode_payload,
)
from nodekit_function import Function, FunctionRunner
from nodekit_memory import MemoryStore, MemoryTable

PATIENCE_SECONDS = 60.0


async def until(condition: Callable[[], Any], *, seconds: float = PATIENCE_SECONDS) -> None:
    """Poll until a condition holds, for a bounded time."""
    with anyio.fail_after(seconds):
        while not condition():
            await anyio.sleep(0.005)


async def until_is(ask: Callable[[], Awaitable[Any]], expected: Any, *, seconds: float = PATIENCE_SECONDS) -> None:
    """Wait like `until`, for an awaitable value."""
    with anyio.fail_after(seconds):
        while await ask() != expected:
            await anyio.sleep(0.005)


async def settle_down() -> None:
    """Let everything that is ready run."""
    for _ in range(100):
        await anyio.lowlevel.checkpoint()


async def give_up(call: Callable[[], Awaitable[Any]], *, once: Callable[[], Awaitable[Any]] = settle_down) -> bool:
    """Cancel a call when it is as far as it gets, or once `once` returns; return False if it had already ended."""
    ended = False

    async def work() -> None:
        nonlocal ended
        await call()
        ended = True
        tasks.cancel_scope.cancel()

    async with anyio.create_task_group() as tasks:
        tasks.start_soon(work)
        await once()
        tasks.cancel_scope.cancel()
    return not ended


async def echo(data: Any) -> Any:
    return data


def request(*containers: str, client: str = "alice", **data: Any) -> JobRequest:
    return JobRequest.of(*(containers or ("echo",)), data=data, client=client)


def functions(settings: Mapping[str, Mapping[str, Any]] | None = None, /, **functions: Function) -> FunctionRunner:
    """Make a runner of `echo` and of the given functions; `settings` are those of containers, by id."""
    runner = FunctionRunner()
    for id, function in {"echo": echo, **functions}.items():
        runner.add(Container(id=id, **(settings or {}).get(id, {})), function)
    return runner


def make_node(*runners: Any, store: Any = None, **settings: Any) -> Node:
    """Make a node in memory; fields of its limits may be given by name."""
    limits = {name: settings.pop(name) for name in NodeLimits.__struct_fields__ if name in settings}
    return Node(
        store=store or MemoryStore(),
        runners=runners or [functions()],
        limits=NodeLimits(**limits),
        **settings,
    )


class Gate:
    """A function that holds its callers until it is opened, and counts them."""

    def __init__(self) -> None:
        self.opened = anyio.Event()
        self.running = self.most = self.calls = self.cancelled = 0

    async def __call__(self, data: Any) -> Any:
        self.calls += 1
        self.running += 1
        self.most = max(self.most, self.running)
        try:
            await self.opened.wait()
        except BaseException:
            self.cancelled += 1
            raise
        finally:
            self.running -= 1
        return data


class Told:
    """An observer that records the events of a node, in order."""

    def __init__(self) -> None:
        self.events: list[Any] = []

    def nodekit_observe(self, event: Any) -> None:
        self.events.append(event)

    @property
    def kinds(self) -> list[type]:
        """Kinds of the events whose facts are stored: all but `StepStarted`."""
        return [type(event) for event in self.events if not isinstance(event, StepStarted)]

    def ends(self, id: str | None = None) -> list[Job]:
        found = [event.job for event in self.events if isinstance(event, JobFinished)]
        return [job for job in found if id in (None, job.id)]


async def read(stream: JobStream, pieces: list[bytes] | None = None) -> list[bytes]:
    """Read a stream to its end; append its pieces to those that are given, if any."""
    pieces = [] if pieces is None else pieces
    with anyio.fail_after(PATIENCE_SECONDS):
        async for piece in stream:
            pieces.append(piece)
    return pieces


async def broken(node: Node, request: JobRequest) -> tuple[list[bytes], Job]:
    """Return the bytes before the stream of this request broke off, and the job at that moment."""
    pieces: list[bytes] = []
    async with node.stream(request) as stream:
        with pytest.raises(StreamBroken) as raised:
            await read(stream, pieces)
    assert raised.value.job is stream.job
    assert await node.fetch([stream.job.id]) == [stream.job]
    return pieces, stream.job


class SwitchRunner:
    """A runner whose containers tests can take down, and whose steps run a given function."""

    def __init__(
        self,
        *containers: Container,
        run: Callable[[Step], Awaitable[Any]] | None = None,
        up: Collection[str] | None = None,
        on_enter: Exception | None = None,
    ) -> None:
        self.containers = {container.id: container for container in containers}
        self.up = set(self.containers if up is None else up)
        self.steps: list[Step] = []
        self.life: list[str] = []
        self._run = run
        self._on_enter = on_enter
        self._changed = anyio.Event()

    async def __aenter__(self) -> "SwitchRunner":
        if self._on_enter:
            raise self._on_enter
        self.life.append("entered")
        return self

    async def __aexit__(self, *error: Any) -> None:
        self.life.append("left")

    def switch(self, *up: str) -> None:
        self.up = set(up)
        changed, self._changed = self._changed, anyio.Event()
        changed.set()

    def running(self) -> Collection[str]:
        return frozenset(self.up)

    async def changed(self) -> None:
        await self._changed.wait()

    def problems(self) -> Sequence[str]:
        return [f"container {id} is down" for id in self.containers if id not in self.up]

    async def run(self, step: Step) -> ContainerOutput:
        self.steps.append(step)
        if self._run is not None:
            output: ContainerOutput = await self._run(step)
            return output
        return ContainerOutput(container=step.container, output=encode_payload(step.container), instance="switch")


class SpiedStore(EmbeddedStore):
    """A store in memory that counts its calls, and fails as often as it should."""

    def __init__(self, table: MemoryTable | None = None) -> None:
        super().__init__(table or MemoryTable())
        self.calls: Counter[str] = Counter()
        self.failures: Counter[str] = Counter()
        self.life: list[str] = []

    def _called(self, name: str) -> None:
        self.calls[name] += 1
        if self.failures[name] > 0:
            self.failures[name] -= 1
            raise StoreFailed("the disk is full")

    async def __aenter__(self) -> Any:
        self._called("enter")
        self.life.append("entered")
        return await super().__aenter__()

    async def __aexit__(self, *error: Any) -> Any:
        self.life.append("left")
        return await super().__aexit__(*error)

    async def add(self, jobs: Any) -> Any:
        self._called("add")
        return await super().add(jobs)

    async def steps(self, *asked: Any) -> Any:
        self._called("steps")
        return await super().steps(*asked)

    async def claim(self, *args: Any, **more: Any) -> Any:
        self._called("claim")
        return await super().claim(*args, **more)

    async def save(self, claim: Any, job: Any) -> None:
        self._called("save")
        await super().save(claim, job)

    async def release(self, claim: Any, job: Any, *, delay_seconds: float = 0) -> None:
        self._called("release")
        await super().release(claim, job, delay_seconds=delay_seconds)

    async def get(self, ids: Any, **asked: Any) -> Any:
        self._called("get")
        return await super().get(ids, **asked)

    async def find(self, query: JobQuery) -> Any:
        self._called("find")
        return await super().find(query)


def held(thing: object) -> int:
    """Count the objects that a thing refers to, directly or not; it counts as well."""
    found: dict[int, object] = {}
    left = [thing]
    while left:
        one = left.pop()
        if id(one) not in found and not isinstance(one, type | ModuleType | FunctionType):
            found[id(one)] = one
            left += gc.get_referents(one)
    return len(found)
