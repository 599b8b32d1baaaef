"""Containers that run elsewhere.

A container counts as running until no connection to it can be made, and again once it answers. A connection that breaks
in the middle of a call says less: the call itself may be the reason. It is a reason to look.
"""

import logging
import re
from collections.abc import AsyncIterator, Collection, Mapping, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from types import TracebackType
from typing import Annotated, Self
from urllib.parse import urlsplit

import anyio
import msgspec
from anyio.abc import TaskGroup

from nodekit import (
    CompositionError,
    Container,
    ContainerFailed,
    ContainerId,
    ContainerOutput,
    NodeFile,
    Provider,
    Step,
)
from nodekit_remote._container import HttpContainer
from nodekit_remote._http import ContainerHttp, Endpoint, Streamed, health_url
from nodekit_remote._progress import StartProgress
from nodekit_remote._requests import origin_of
from nodekit_remote._session import NoConnection
from nodekit_remote._starter import id_problems

logger = logging.getLogger("nodekit.remote")

FIRST_PROBE_SECONDS = 0.5
LONGEST_PROBE_SECONDS = 15.0
LOOK_SECONDS = 0.25
"""Time for which jobs wait while a container is looked at. One that is too busy to answer sooner gets them again."""
TRUST_SECONDS = 1.0
"""Time after a look for which jobs do not wait for the next one. A client whose calls break off holds up nobody."""

_URL = re.compile(r"https?://[^/?#\s]+[^?#\s]*")


class RemoteContainer(HttpContainer, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """A container that runs elsewhere.

    - `url`: ``http(s)://host[:port][/path]``; calls go to ``<url>/service_output``.
    """

    url: str

    def __post_init__(self) -> None:
        super().__post_init__()
        if not _URL.fullmatch(self.url):
            raise ValueError(f"url: expected http(s)://host[:port][/path], got {self.url!r}")
        try:
            parts = urlsplit(self.url)
            origin_of(parts)
        except ValueError as error:
            text = "expected a port from 1 to 65535" if "Port out of range" in str(error) else str(error)
            raise ValueError(f"url: {text}, got {self.url!r}") from error
        if "@" in parts.netloc:  # not shown: it may hold a password
            raise ValueError("url: expected no user or password, which errors would show; give a bearer by reference")


class RemoteConfig(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """The runner's settings.

    - `connections`: Maximum number of steps that run in these containers together. Unset: as many as the node runs.
    """

    containers: tuple[RemoteContainer, ...] = ()
    connections: Annotated[int, msgspec.Meta(ge=1)] | None = None
    connect_timeout_seconds: Annotated[float, msgspec.Meta(gt=0)] = 5.0


class RemoteRunner:
    """A runner that calls containers, but does not start them.

    At most `connections` steps run in these containers together; None: as many as the node runs. Raise
    `CompositionError` if two containers have one id.
    """

    def __init__(
        self, *containers: RemoteContainer, connections: int | None = None, connect_timeout_seconds: float = 5.0
    ) -> None:
        if found := list(id_problems(containers)):
            raise CompositionError(found)
        self._containers = {container.id: container for container in containers}
        self._endpoints = {c.id: Endpoint(c.url.rstrip("/"), c.url, c) for c in containers}
        self._http = ContainerHttp(connect_timeout_seconds=connect_timeout_seconds)
        self.concurrency = connections
        self._down: dict[ContainerId, str] = {}
        self._looked_at: set[ContainerId] = set()
        """Containers that are looked at right now, because a call broke off."""
        self._held: set[ContainerId] = set()
        """Those whose jobs wait meanwhile."""
        self._trusted_until: dict[ContainerId, float] = {}
        self._running: frozenset[ContainerId] = frozenset(self._containers)
        self._changed = anyio.Event()
        self._probes: TaskGroup | None = None
        self._stack = AsyncExitStack()

    async def __aenter__(self) -> Self:
        async with AsyncExitStack() as stack:
            await stack.enter_async_context(self._http)
            self._probes = await stack.enter_async_context(anyio.create_task_group())
            self._stack = stack.pop_all()
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        assert self._probes is not None
        self._probes.cancel_scope.cancel()
        await self._stack.aclose()  # not passed the error, because the task group would wrap it

    @property
    def containers(self) -> Mapping[ContainerId, Container]:
        return self._containers

    def running(self) -> Collection[ContainerId]:
        return self._running

    async def changed(self) -> None:
        await self._changed.wait()

    def problems(self) -> Sequence[str]:
        return [f"container {id!r}: {text}" for id, text in self._down.items()]

    def instance(self, container: ContainerId) -> str:
        return self._endpoints[container].instance

    async def run(self, step: Step) -> ContainerOutput:
        try:
            return await self._http.run(step, self._endpoints[step.container])
        except ContainerFailed as failure:
            self._mind(step.container, failure)
            raise

    @asynccontextmanager
    async def stream(self, step: Step) -> AsyncIterator[Streamed]:
        try:
            async with self._http.stream(step, self._endpoints[step.container]) as pieces:
                yield pieces
        except ContainerFailed as failure:
            self._mind(step.container, failure)
            raise

    def _mind(self, id: ContainerId, failure: ContainerFailed) -> None:
        """Mark the container as down if no connection can be made. Look at it if one breaks."""
        if isinstance(failure, NoConnection):
            self._is_down(id, failure.text)
        elif failure.kind == "connection":
            self._is_doubted(id)

    async def resources(self, container: ContainerId, model_id: str | None) -> msgspec.Raw | None:
        return await self._http.resources(self._endpoints[container], model_id)

    def _is_down(self, id: ContainerId, text: str) -> None:
        if id not in self._down and self._probes is not None:
            logger.warning("container %r is down: %s; jobs wait until it answers", id, text)
            self._probes.start_soon(self._probe, id)
        self._down[id] = text
        self._look()

    def _is_doubted(self, id: ContainerId) -> None:
        if id in self._down or id in self._looked_at or self._probes is None:
            return
        self._looked_at.add(id)
        waits = self._containers[id].when_down == "wait"
        if waits and anyio.current_time() >= self._trusted_until.get(id, 0.0):
            self._held.add(id)
            self._look()
        self._probes.start_soon(self._look_at, id)

    async def _look_at(self, id: ContainerId) -> None:
        """Find out if the container is down. Its jobs wait for the answer, but not for long."""
        lives = True
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(self._let_go, id)
            lives = await self._http.lives(self._endpoints[id])
            tasks.cancel_scope.cancel()
        self._looked_at.discard(id)
        self._held.discard(id)
        if lives:
            self._trusted_until[id] = anyio.current_time() + TRUST_SECONDS
            self._look()
        else:
            # everybody may read this, so it has nothing of the reply that broke off, which belongs to one job
            self._is_down(id, f"a call to {self._endpoints[id].url} broke off, and it does not answer")

    async def _let_go(self, id: ContainerId) -> None:
        await anyio.sleep(LOOK_SECONDS)
        self._held.discard(id)
        self._look()

    async def _probe(self, id: ContainerId) -> None:
        pause, endpoint = FIRST_PROBE_SECONDS, self._endpoints[id]
        trouble = self._down[id]
        with StartProgress(logger, id, lambda: f"{health_url(endpoint)} to answer: {trouble}"):
            while trouble := await self._http.trouble(endpoint):
                await anyio.sleep(pause)
                pause = min(2 * pause, LONGEST_PROBE_SECONDS)
        del self._down[id]
        logger.info("container %r answers again", id)
        self._look()

    def _look(self) -> None:
        self._running = frozenset(self._containers.keys() - self._down.keys() - self._held)
        self._changed.set()
        self._changed = anyio.Event()


def from_config(config: RemoteConfig, file: NodeFile) -> RemoteRunner:
    """Build the runner of a node file."""
    return RemoteRunner(
        *config.containers,
        connections=config.connections,
        connect_timeout_seconds=config.connect_timeout_seconds,
    )


provider = Provider(RemoteConfig, from_config, container=RemoteContainer)
