"""Mistakes that a type checker must catch. Only type-checked: each marked line must fail, and no other."""

import time
from collections.abc import AsyncIterator, Collection, Mapping, Sequence
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from typing import Any

from right import Config, Counter, ListTable, Silent, UpperRunner

from nodekit import (
    Admits,
    Container,
    ContainerError,
    ContainerFailed,
    ContainerOutput,
    ContainerRunner,
    EmbeddedStore,
    Identifies,
    Identity,
    Job,
    JobFinished,
    JobQuery,
    JobRequest,
    JobStatus,
    JobTable,
    Node,
    Outcome,
    Pipeline,
    Problem,
    Provider,
    Step,
    StepCall,
    Transport,
    Unavailable,
    WrapsSteps,
    encode_payload,
)
from nodekit import (
    Sequence as SequencePipeline,
)


class Forgetful:
    """A table without `unfinished`."""

    async def __aenter__(self) -> Any: ...

    async def __aexit__(self, kind: Any, error: Any, trace: Any) -> None: ...

    async def add(self, jobs: Sequence[Job]) -> list[Job]:
        return list(jobs)

    async def save(self, job: Job) -> None: ...


class Plain(UpperRunner):
    def run(self, step: Step) -> ContainerOutput:  # type: ignore[override]
        return ContainerOutput(container=step.container, output=encode_payload(1))


class Loose(UpperRunner):
    async def run(self, step: Step) -> dict[str, Any]:  # type: ignore[override]
        return {}


class NoCheck:
    def next_step(self, job: Job) -> Step | None:
        return None

    def outcome(self, job: Job) -> Outcome:
        raise NotImplementedError


class WrongOutcome(SequencePipeline):
    def outcome(self, job: Job) -> bool:  # expect: override
        return True


def lifespan(node: Node) -> AbstractAsyncContextManager[None]:
    @asynccontextmanager
    async def opened() -> AsyncIterator[None]:
        yield

    return opened  # expect: return-value


store = EmbeddedStore(ListTable())
node = Node(store=store, runners=[UpperRunner()])

EmbeddedStore(Forgetful())  # expect: arg-type
table: JobTable = Forgetful()  # expect: assignment
Node(store=ListTable(), runners=[])  # expect: arg-type
Node(store=Forgetful(), runners=[])  # expect: arg-type
Node(runners=[])  # expect: call-arg
Node(store, [])  # expect: call-arg
Node(store=store, runners=UpperRunner())  # expect: arg-type
Node(store=store, runners=[], limits={"concurrency": 64})  # expect: arg-type
Node(store=store, runners=[], transports=[Counter()])  # expect: list-item
Node(store=store, runners=[], workers=3)  # expect: call-arg
Node(store=store, runners=[], clock=time.time)  # expect: arg-type
Node(store=store, runners=[], random=7)  # expect: arg-type
plain: ContainerRunner = Plain()  # expect: assignment
loose: ContainerRunner = Loose()  # expect: assignment
nothing: ContainerRunner = Counter()  # expect: assignment
pipeline: Pipeline = NoCheck()  # expect: assignment
transport: Transport = UpperRunner()  # expect: assignment
silent: Transport = Silent()

ContainerOutput(container="a")  # expect: call-arg
ContainerOutput(container="a", output={"n": 1})  # expect: arg-type
ContainerError(container="a", error="x", kind="odd")  # expect: arg-type
ContainerFailed("odd", "x")  # expect: arg-type
ContainerFailed("timeout", "x", status="500")  # expect: arg-type
Container("a")  # expect: call-arg
Container(id="a", when_down="maybe")  # expect: arg-type
JobRequest(containers=["a"], data=encode_payload({}))  # expect: arg-type
JobRequest(containers=("a",), data={})  # expect: arg-type
JobRequest.of("a", data="text")  # expect: arg-type
Outcome("success")  # expect: arg-type
Problem(text="x")  # expect: call-arg
Unavailable("full")  # expect: call-arg
Provider(Config, lambda config: store)  # expect: arg-type misc
Provider(dict, lambda config, file: store)  # expect: type-var


def frozen(job: Job, request: JobRequest, event: JobFinished, container: Container) -> None:
    job.status = JobStatus.SUCCESS  # expect: misc
    request.client = "root"  # expect: misc
    event.job = job  # expect: misc
    container.rules = {}  # expect: misc
    job.steps.append(1)  # expect: attr-defined
    _ = job.result.value  # expect: union-attr


async def asked(job: Job, containers: Mapping[str, Container], names: Collection[str]) -> None:
    await node.submit("echo")  # expect: arg-type
    await node.submit({"containers": ["echo"]})  # expect: arg-type
    await node.submit_many(JobRequest.of("a", data={}))  # expect: arg-type
    await node.fetch(1)  # expect: arg-type
    await node.find(JobQuery(status="success"))  # expect: arg-type
    await node.find("alice")  # expect: arg-type
    await node.find(JobQuery(container=containers["a"]))  # expect: arg-type
    await node.retry(job)  # expect: arg-type
    await node.retry(job.id, start="middle")  # expect: arg-type
    _ = (await node.retry(job.id)).id  # expect: union-attr
    await node.cancel(job)  # expect: arg-type
    node.submit(JobRequest.of("a", data={}))  # expect: unused-coroutine
    node.containers["a"] = containers["a"]  # expect: index
    _ = (await node.submit_many([]))[0].id  # expect: union-attr


class Misspelt(Admits):
    async def nodekit_admitt(self, request: JobRequest, node: Node) -> None: ...


class NotAsync(Admits):
    def nodekit_admit(self, request: JobRequest, node: Node) -> None: ...  # expect: override


class Mistaken(Identifies):
    async def nodekit_identify(self, connection: str, node: Node) -> Identity | None: ...  # expect: override


class Vague(WrapsSteps):
    async def nodekit_step(self, step: Step, job: Job, call: StepCall, node: Node) -> str:  # expect: override
        return await call(step.container)  # expect: return-value arg-type


Misspelt()  # expect: abstract
