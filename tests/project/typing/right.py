"""Code of plugin authors. It is only type-checked: it must pass as it stands."""

from collections.abc import AsyncIterator, Awaitable, Callable, Collection, Mapping, MutableMapping, Sequence
from contextlib import AbstractAsyncContextManager, aclosing, asynccontextmanager
from pathlib import Path
from random import Random
from types import TracebackType
from typing import Any, Self

import anyio
import msgspec
from anyio.abc import TaskStatus

from nodekit import (
    UNSUCCESSFUL,
    Admits,
    AsgiApplication,
    ClientId,
    Clock,
    Container,
    ContainerError,
    ContainerFailed,
    ContainerId,
    ContainerOutput,
    ContainerRunner,
    DescribingRunner,
    EmbeddedStore,
    Event,
    HasLifespan,
    Job,
    JobFields,
    JobFinished,
    JobId,
    JobQuery,
    JobRequest,
    JobStatus,
    JobStore,
    JobTable,
    KeyReused,
    Mount,
    Node,
    NodeFile,
    Outcome,
    Pipeline,
    Provider,
    Refusal,
    RequestRefused,
    Step,
    StoreCall,
    StreamingRunner,
    SystemClock,
    Transport,
    Unavailable,
    Unfinished,
    encode_payload,
)

Receive = Callable[[], Awaitable[MutableMapping[str, Any]]]
Send = Callable[[MutableMapping[str, Any]], Awaitable[None]]


class ListTable:
    """A table: eight methods, and two to open and close."""

    def __init__(self) -> None:
        self._jobs: dict[JobId, Job] = {}

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        return None

    async def add(self, jobs: Sequence[Job]) -> list[Job]:
        return [self._jobs.setdefault(job.id, job) for job in jobs]

    async def save(self, job: Job) -> None:
        self._jobs[job.id] = job

    async def get(
        self, ids: Sequence[JobId], *, client: ClientId | None = None, fields: JobFields = JobFields.ALL
    ) -> list[Job]:
        found = [self._jobs[id] for id in dict.fromkeys(ids) if id in self._jobs]
        return [job for job in found if client in (None, job.client)]

    async def find(self, query: JobQuery) -> list[JobId]:
        return query.choose(self._jobs.values())

    async def delete(self, ids: Sequence[JobId]) -> int:
        return sum(self._jobs.pop(id, None) is not None for id in ids)

    async def sizes(self, ids: Sequence[JobId]) -> Mapping[JobId, int]:
        return {id: self._jobs[id].payload_bytes for id in ids if id in self._jobs}

    async def last_surplus(self, keep: int) -> int | None:
        numbers = sorted(job.finish_number for job in self._jobs.values() if job.finish_number is not None)
        return numbers[-keep - 1] if len(numbers) > keep else None

    async def unfinished(self) -> Sequence[Unfinished]:
        return [Unfinished.of(job) for job in self._jobs.values() if not job.status.finished]


class UpperRunner:
    """A runner of one container."""

    def __init__(self) -> None:
        self._containers = {"upper": Container(id="upper")}

    @property
    def containers(self) -> Mapping[ContainerId, Container]:
        return self._containers

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        return None

    def running(self) -> Collection[ContainerId]:
        return self._containers

    async def changed(self) -> None:
        await anyio.sleep_forever()

    def problems(self) -> Sequence[str]:
        return ()

    async def run(self, step: Step) -> ContainerOutput:
        if not step.input.data:
            raise ContainerFailed("status", "nothing to do", status=400)
        return ContainerOutput(container=step.container, output=encode_payload("UP"), instance="one")


class SpellingRunner(UpperRunner):
    """A runner that streams as well."""

    def stream(self, step: Step) -> AbstractAsyncContextManager[AsyncIterator[bytes]]:
        return self._spelt(step)

    @asynccontextmanager
    async def _spelt(self, step: Step) -> AsyncIterator[AsyncIterator[bytes]]:
        yield self._letters(bytes(step.input.data))

    async def _letters(self, data: bytes) -> AsyncIterator[bytes]:
        for letter in data:
            yield bytes([letter])


async def read(node: Node) -> str:
    async with node.stream(JobRequest.of("upper", data={"text": "hello"})) as stream:
        pieces: list[bytes] = [piece async for piece in stream]
        return f"{stream.job.id}: {b''.join(pieces).decode()}"


class TalkingRunner(UpperRunner):
    """A runner whose container describes itself."""

    async def resources(self, container: ContainerId, model_id: str | None) -> msgspec.Raw | None:
        return None if model_id else encode_payload({"is": container})


class Once:
    """A pipeline of one step."""

    def check(self, request: JobRequest, containers: Mapping[ContainerId, Container]) -> None:
        if len(request.containers) != 1:
            raise Refusal("One container, please", containers=len(request.containers))

    def next_step(self, job: Job) -> Step | None:
        return None

    def outcome(self, job: Job) -> Outcome:
        return Outcome(JobStatus.SUCCESS)


class Counter(HasLifespan, Admits):
    """A plugin, some of whose hooks are checked."""

    finished = 0

    @asynccontextmanager
    async def nodekit_lifespan(self, node: Node) -> AsyncIterator[None]:
        yield

    async def nodekit_admit(self, request: JobRequest, node: Node) -> None:
        if request.client == "mallory":
            raise Refusal("Not today")

    def nodekit_observe(self, event: Event) -> None:
        match event:
            case JobFinished():
                self.finished += event.job.status is JobStatus.SUCCESS
            case RequestRefused(client=client, objection=objection):
                print(client.upper(), objection)

    def nodekit_observe_store(self, call: StoreCall, node: Node) -> None:
        print(call.method.upper(), call.seconds + 1, not call.failed, node.in_flight + 1)

    def nodekit_routes(self, node: Node) -> Sequence[Mount]:
        async def app(scope: dict[str, Any], receive: Receive, send: Send) -> None:
            await send({"type": "http.response.start", "status": 204})

        app_of_another_style: AsgiApplication = app
        return [Mount("pages", app), Mount("more", app_of_another_style, public=True)]


class Silent:
    """A transport that brings nothing."""

    async def serve(self, node: Node, *, task_status: "TaskStatus[Sequence[str]]") -> None:
        task_status.started([])
        await anyio.sleep_forever()


class Stopped:
    """A clock that stands still."""

    def time(self) -> float:
        return 0.0

    def monotonic(self) -> float:
        return 0.0


class Config(msgspec.Struct, frozen=True):
    path: Path


def build(config: Config, file: NodeFile) -> EmbeddedStore:
    return EmbeddedStore(ListTable())


provider = Provider(Config, build)
table: JobTable = ListTable()
clock: Clock = Stopped()
clock = SystemClock()
store: JobStore = EmbeddedStore(table, clock=clock)
runner: ContainerRunner = UpperRunner()
streaming: StreamingRunner = SpellingRunner()
describing: DescribingRunner = TalkingRunner()
pipeline: Pipeline = Once()
transport: Transport = Silent()


async def main() -> None:
    node = Node(
        store=store,
        runners=[runner],
        transports=[transport],
        plugins=[Counter()],
        pipelines={"once": pipeline},
        clock=clock,
        random=Random(1),
    )
    async with node:
        job = await node.submit(JobRequest.of("upper", data={"text": "x"}))
        (done,) = await node.wait([job.id])
        match done.result:
            case ContainerOutput(output=output):
                print(bytes(output))
            case ContainerError(error=text):
                print(text.upper())
            case None:
                pass
        async with aclosing(node.follow(job.id, client="local")) as jobs:
            async for job in jobs:
                print(job.status.finished)
        settled = await node.settle(job.id, Outcome(JobStatus.SUCCESS), client="local")
        if settled is not None and settled.now:
            print(settled.job.id)
        for id, said in (await node.resources("model")).items():
            print(id.upper(), bytes(said))
        again: Job | None = await node.retry(job.id, start="start", client="alice", priority=0)
        if again is not None and again.error is not None:
            print(again.error.container.upper(), again.retry_of)
        found = await node.find(JobQuery(status=UNSUCCESSFUL, container="upper", error="no reply"))
        await node.fetch(found)
        for answer in await node.submit_many([]):
            if isinstance(answer, Unavailable):
                print(answer.retry_after_seconds + 1)
            elif isinstance(answer, Refusal):
                print(answer.reason.upper())
            elif isinstance(answer, KeyReused):
                print(str(answer))
            else:
                print(answer.id)
