"""Helpers for tests of the runner `docker`: a node's containers on the engine of the test bed."""

import json
import secrets
import signal
import tempfile
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager, suppress
from pathlib import Path
from typing import Any, TypeVar

import anyio
import anyio.to_thread
import docker.errors
from components import PATIENCE_SECONDS, make_node, until
from docker.models.containers import Container
from docker.models.networks import Network
from engine.bed import Engine
from served import Served

from nodekit import ContainerError, ContainerOutput, Job, JobStatus, Node, Step
from nodekit.testing import make_request
from nodekit_docker import DockerContainer, DockerRunner

T = TypeVar("T")


class Watched(DockerRunner):
    """A runner that records the steps it began."""

    def __init__(self, *arguments: Any, **settings: Any) -> None:
        super().__init__(*arguments, **settings)
        self.steps: list[Step] = []

    async def run(self, step: Step) -> ContainerOutput:
        self.steps.append(step)
        return await super().run(step)


class Bed:
    """Containers, networks and images of nodes whose names begin with `node`."""

    def __init__(self, engine: Engine) -> None:
        self.engine = engine
        self.node = f"test-{secrets.token_hex(4)}"
        self.state = Path(tempfile.gettempdir()) / f"nodekit-{self.node}"
        """The folder of the secrets of its nodes; the bed's owner removes it."""

    def container(self, id: str = "one", **settings: Any) -> DockerContainer:
        """Describe a small container that does what a job's data say (see `engine/service.py`)."""
        given = {"id": id, "image": self.engine.images.service, "pull": "never", "memory": "128MiB", "stop_seconds": 2}
        return DockerContainer(**{**given, **settings})

    def program(self, id: str = "one", **settings: Any) -> DockerContainer:
        """Describe a program that is run once for each step (see `engine/program.py`)."""
        given = {"id": id, "image": self.engine.images.program, "mode": "once", "pull": "never", "memory": "128MiB"}
        return DockerContainer(**{**given, **settings})

    def runner(self, *containers: DockerContainer, node: str | None = None, **settings: Any) -> Watched:
        containers = containers or (self.container(),)
        return Watched(
            *containers, **{"host": self.engine.host, "node": node or self.node, "state": self.state, **settings}
        )

    @asynccontextmanager
    async def running(
        self, *containers: DockerContainer, folder: Path | None = None, **settings: Any
    ) -> AsyncIterator[tuple[Node, Watched]]:
        """Run a node with these containers, up; the settings are the node's."""
        runner = self.runner(*containers, folder=folder)
        async with make_node(runner, **settings) as node:
            yield node, runner

    def made(self, id: str | None = None, *, node: str | None = None) -> list[Container]:
        """Return the containers on the engine, running or not: all, or those of an entry or of a node."""
        labels = ["nodekit.node"] + ([f"nodekit.container={id}"] if id else [])
        found = self.engine.client.containers.list(all=True, filters={"label": labels}, ignore_removed=True)
        return [one for one in found if self._is_ours(one.labels["nodekit.node"], node)]

    def _is_ours(self, label: str, node: str | None) -> bool:
        return label == node if node else label.startswith(self.node)

    def one(self, id: str = "one", *, node: str | None = None) -> Container:
        """Return the only container of an entry."""
        (container,) = self.made(id, node=node)
        return container

    def clear(self) -> list[str]:
        """Remove all containers and networks; return their names."""
        left = [*self.made(), *self.networks()]
        for one in left:
            with suppress(docker.errors.NotFound):
                one.remove(force=True, v=True) if isinstance(one, Container) else one.remove()
        return [one.name for one in left]

    def networks(self) -> list[Network]:
        """Return the networks on the engine that the nodes have made."""
        found = self.engine.client.networks.list(filters={"label": "nodekit.node"}, greedy=True)
        return [one for one in found if one.attrs["Labels"]["nodekit.node"].startswith(self.node)]


async def aside(function: Callable[[], T]) -> T:
    """Run a blocking call in a thread, so that it does not hold up the tested node; return its result."""
    return await anyio.to_thread.run_sync(function)


async def finished(node: Node, *jobs: Job) -> list[Job]:
    with anyio.fail_after(PATIENCE_SECONDS):
        return await node.wait([job.id for job in jobs])


async def submitted(node: Node, data: Any, *containers: str) -> Job:
    return await node.submit(make_request(*(containers or ("one",)), data=data))


async def outcome(node: Node, data: Any, *containers: str) -> Job:
    """Return the outcome of a job."""
    (job,) = await finished(node, await submitted(node, data, *containers))
    return job


async def result(node: Node, data: Any, *containers: str) -> Any:
    """Return the result of a job that succeeds."""
    return value(await outcome(node, data, *containers))


def value(job: Job) -> Any:
    assert job.status is JobStatus.SUCCESS, job.result
    assert isinstance(job.result, ContainerOutput)
    return job.result.value


def error(job: Job) -> ContainerError:
    assert job.status is JobStatus.FAILED, job.result
    assert isinstance(job.result, ContainerError)
    return job.result


async def is_up(runner: DockerRunner, *ids: str) -> None:
    await until(lambda: set(runner.running()) >= set(ids or ("one",)))


async def is_down(runner: DockerRunner, id: str = "one") -> None:
    await until(lambda: id not in runner.running())


async def replaced(bed: Bed, **which: Any) -> None:
    """Kill the only container that `bed.one` finds, and wait until another one stands in its place."""
    first = await aside(lambda: bed.one(**which))
    await aside(first.kill)
    await until(lambda: [one.id for one in bed.made(**which)] not in ([], [first.id]))


async def kill_program(container: Container) -> None:
    """Kill the program in the container with `kill -9`; its init ends with it."""
    others = "for path in /proc/[0-9]*; do pid=${path#/proc/}; [ $pid = $$ ] || kill -9 $pid; done"

    def kill() -> None:
        with suppress(docker.errors.APIError):  # it may be gone before the engine has an answer
            container.exec_run(["/bin/sh", "-c", others])

    await aside(kill)


def node_file(folder: Path, bed: Bed, *containers: dict[str, Any], name: str | None = None) -> Path:
    """Write the file of a node with a durable store; its containers differ from the small one as given."""
    small = {"image": bed.engine.images.service, "pull": "never", "memory": "128MiB", "stop_seconds": 2}
    lines = [f'[node]\nname = "{name or bed.node}"', '[store]\nuse = "sqlite"\npath = "jobs.db"']
    lines += ['[[transports]]\nuse = "asgi"\nbind = "127.0.0.1:0"']
    lines += [f'[[runners]]\nuse = "docker"\nhost = "{bed.engine.host}"\nstate = "{bed.state}"']
    for container in containers:
        settings = "\n".join(f"{key} = {toml(value)}" for key, value in {**small, **container}.items())
        lines.append(f"[[runners.containers]]\n{settings}")
    file = folder / "node.toml"
    file.write_text("\n\n".join(lines))
    return file


def toml(value: Any) -> str:
    if isinstance(value, dict):
        return "{ " + ", ".join(f"{key} = {toml(one)}" for key, one in value.items()) + " }"
    return json.dumps(value)


async def ended(process: Served) -> None:
    process.signal(signal.SIGTERM)
    assert await process.ended() == 0, process.log
