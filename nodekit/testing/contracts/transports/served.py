"""The node that a transport under test serves: controllable containers, a guard, and a table that can be held up."""

from collections.abc import AsyncGenerator, AsyncIterator, Collection, Mapping, Sequence
from contextlib import asynccontextmanager
from types import TracebackType
from typing import Any, Self

import anyio
import msgspec
from msgspec.structs import replace

from nodekit import (
    ClientId,
    Container,
    ContainerFailed,
    ContainerId,
    ContainerOutput,
    EmbeddedStore,
    Job,
    JobFields,
    JobId,
    JobQuery,
    JobRequest,
    Node,
    NodeLimits,
    Refusal,
    Step,
    Transport,
    Unfinished,
    decode_payload,
    encode_payload,
)
from nodekit.testing.builders.components import make_table

MOST_PIECES = 2048
"""Maximum number of pieces of 64 KiB that ``∞`` gives, so that an endless reader cannot fill memory."""

CONTAINERS = {
    container.id: container
    for container in (
        Container(id="echo", image="images/echo:1", description="gives what it is given"),
        Container(id="fail"),
        Container(id="gate", description="waits until it is opened"),
        Container(id="pieces", description="streams what the job says"),
        Container(id="inner", rules={"external": False}),
        Container(id="proof", rules={"generates_proofs": True}),
        Container(id="far", rules={"allowed_ips": ("10.0.0.0/8",)}),
    )
}


class ToldRunner:
    """Runs containers that return their input, except `fail`. `gate` waits first, and `pieces` follows its input."""

    def __init__(self) -> None:
        self.opened = anyio.Event()
        """Event that lets `gate` go on, and `pieces` at ``…``."""
        self.calls: list[ContainerId] = []
        self.given_up: list[ContainerId] = []
        """Containers of the cancelled calls."""
        self.mended = False
        """True once `fail` succeeds."""
        self.given = 0
        """Number of pieces that were read from ``∞``."""
        self.up: Collection[ContainerId] = CONTAINERS.keys()
        self.containers: Mapping[ContainerId, Container] = CONTAINERS

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        return None

    def running(self) -> Collection[ContainerId]:
        return self.up

    async def changed(self) -> None:
        await anyio.sleep_forever()

    def problems(self) -> Sequence[str]:
        return [f"container {id} is down" for id in self.containers if id not in self.up]

    async def resources(self, container: ContainerId, model_id: str | None) -> msgspec.Raw | None:
        return encode_payload({"model": model_id}) if container == "echo" else None

    async def run(self, step: Step) -> ContainerOutput:
        with self._noted(step.container):
            if step.container == "fail" and not self.mended:
                raise ContainerFailed("status", "on purpose", status=500)
            if step.container == "gate":
                await self.opened.wait()
        return ContainerOutput(container=step.container, output=step.input.data, instance="served")

    @asynccontextmanager
    async def stream(self, step: Step) -> AsyncIterator[AsyncIterator[bytes]]:
        pieces = self._pieces(step)
        with self._noted(step.container):
            try:
                yield pieces
            finally:
                await pieces.aclose()

    async def _pieces(self, step: Step) -> AsyncGenerator[bytes, None]:
        """Yield the pieces in the job's data: ``…`` waits for `opened`, ``!`` fails, ``∞`` has no end."""
        if step.container != "pieces":
            yield bytes((await self.run(step)).output)
            return
        for piece in decode_payload(step.input.data)["pieces"]:
            if piece == "…":
                await self.opened.wait()
            elif piece == "!":
                raise ContainerFailed("died", "on purpose")
            elif piece == "∞":
                while self.given < MOST_PIECES:
                    self.given += 1
                    yield b"x" * 65536
                await anyio.sleep_forever()
            else:
                yield piece.encode()

    def _noted(self, container: ContainerId) -> "_Noted":
        return _Noted(self, container)


class _Noted:
    def __init__(self, runner: ToldRunner, container: ContainerId) -> None:
        self._runner = runner
        self._container = container

    def __enter__(self) -> None:
        self._runner.calls.append(self._container)

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if kind is not None and not issubclass(kind, ContainerFailed):
            self._runner.given_up.append(self._container)


class ToldRules(msgspec.Struct, frozen=True, kw_only=True):
    """The rules of `CONTAINERS`."""

    external: bool = True
    generates_proofs: bool = False
    allowed_ips: tuple[str, ...] = ()


class ToldGuard:
    """Refuses requests as the document says, by the rules of `CONTAINERS`."""

    container_rules = ToldRules

    async def nodekit_admit(self, request: JobRequest) -> None:
        first, last = request.containers[0], request.containers[-1]
        if first == "inner":
            raise Refusal("First container must be external", first_container=first)
        if request.requires_proof and last != "proof":
            raise Refusal("Container does not generate proof", container=last)
        if "far" in request.containers:
            raise Refusal("Container not allowed for address", container="far", address=request.address)


class ToldTable:
    """A table in memory that a test can hold up or let fail."""

    def __init__(self) -> None:
        self._table = make_table()
        self.jobs: dict[JobId, Job] = {}
        """Jobs in the state that was kept last."""
        self.keeps = anyio.Event()
        self.keeps.set()
        """Jobs that are added are kept once this is set."""
        self.adding = 0
        """Number of calls that wait for `keeps`."""
        self.fails_to_add: Exception | None = None
        self.fails_to_get: Exception | None = None

    async def __aenter__(self) -> Self:
        await self._table.__aenter__()
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> bool | None:
        return await self._table.__aexit__(kind, error, trace)

    async def add(self, jobs: Sequence[Job]) -> list[Job]:
        if self.fails_to_add is not None:
            raise self.fails_to_add
        self.adding += 1
        await self.keeps.wait()
        self.adding -= 1
        kept = await self._table.add(jobs)
        self.jobs |= {job.id: job for job in kept}
        return kept

    async def save(self, job: Job) -> None:
        self.jobs[job.id] = job
        await self._table.save(job)

    async def get(
        self, ids: Sequence[JobId], *, client: ClientId | None = None, fields: JobFields = JobFields.ALL
    ) -> list[Job]:
        if self.fails_to_get is not None:
            raise self.fails_to_get
        jobs = await self._table.get(ids, client=client)
        return [_in_part(job, fields) for job in jobs]

    async def find(self, query: JobQuery) -> list[JobId]:
        return await self._table.find(query)

    async def delete(self, ids: Sequence[JobId]) -> int:
        return await self._table.delete(ids)

    async def sizes(self, ids: Sequence[JobId]) -> Mapping[JobId, int]:
        return await self._table.sizes(ids)

    async def last_surplus(self, keep: int) -> int | None:
        return await self._table.last_surplus(keep)

    async def unfinished(self) -> Sequence[Unfinished]:
        return await self._table.unfinished()


def _in_part(job: Job, fields: JobFields) -> Job:
    """Return the parts of a job that were asked for, and no others, so that a reader that asks for too few is found."""
    request, steps = job.request, job.steps
    if JobFields.REQUEST not in fields:
        request = replace(request, containers=(), data=msgspec.Raw(), pipeline="", meta={})
    if JobFields.RECORDS in fields and JobFields.STEPS not in fields:
        steps = job.without_earlier_outputs().steps
    elif JobFields.STEPS not in fields:
        steps = steps[-1:] if JobFields.LAST_STEP in fields else ()
    return replace(job, request=request, steps=steps)


class Served:
    """A served node, and the controls of its components."""

    def __init__(self, *transports: Transport, plugins: Sequence[object] = (), **limits: Any) -> None:
        self.runner = ToldRunner()
        self.table = ToldTable()
        limits.setdefault("drain_seconds", 0)
        store, guarded = EmbeddedStore(self.table), [ToldGuard(), *plugins]
        self.node = Node(
            store=store, runners=[self.runner], transports=transports, plugins=guarded, limits=NodeLimits(**limits)
        )

    @property
    def url(self) -> str:
        """URL at which the first transport listens."""
        return self.node.urls[0]
