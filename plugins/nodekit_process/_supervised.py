"""The supervision of one container: it is started, probed, restarted when it dies, and ended with its runner."""

import logging
import math
import time
from collections.abc import AsyncIterator, Callable
from contextlib import ExitStack, asynccontextmanager, closing, suppress
from dataclasses import dataclass
from pathlib import Path

import anyio
import msgspec
from anyio.abc import TaskStatus

from nodekit import ContainerFailed, ContainerOutput, NodekitError, NotStarted, Step, time_limit
from nodekit_process._arrival import Arrival
from nodekit_process._config import ProcessContainer, command_line, environment, limits
from nodekit_process._fork_server import ForkServer
from nodekit_process._output import Output
from nodekit_process._peers import Peers
from nodekit_process._ports import free_port, listening
from nodekit_process._process import Process
from nodekit_process.supervisor.supervisor import Order
from nodekit_remote import (
    ContainerHttp,
    ContainerLog,
    Endpoint,
    StartProgress,
    Streamed,
    restart_pause,
    text_for_clients,
)

logger = logging.getLogger("nodekit.process")

NOTICE_SECONDS = 0.5
"""Time to wait for the end of the process after a broken connection."""


@dataclass(frozen=True)
class Ways:
    """The parts of a runner that its containers share."""

    fork_server: ForkServer
    peers: Peers
    http: ContainerHttp
    notify: Callable[[], None]
    """Called whenever a container goes up or down."""


class Supervised:
    """The process of one container."""

    def __init__(self, container: ProcessContainer, folder: Path, ways: Ways) -> None:
        self._container = container
        self._folder = folder
        self._fork_server, self._peers = ways.fork_server, ways.peers
        self._http, self._notify = ways.http, ways.notify
        self._log = ContainerLog(container)
        self._output = Output(self._log)
        self._up: tuple[Process, Endpoint] | None = None
        self._arrival: Arrival | None = None
        """The last wait for an answer."""
        self._why = "was not started yet"
        self._restart_at = 0.0
        self._up_at = math.inf
        """Time at which the current process answered first. A slow start does not count as having run."""

    @property
    def up(self) -> bool:
        """True while the container can be called."""
        return self._up is not None

    @property
    def instance(self) -> str:
        """Name of the running process; empty if there is none."""
        return self._up[1].instance if self._up else ""

    def problem(self) -> str | None:
        """Return why the container cannot be called, and when it is restarted. Return None if it can be called."""
        if self.up:
            return None
        seconds = self._restart_at - time.monotonic()
        soon = f"restart in {seconds:.1f} s" if seconds > 0 else "starting"
        return f"container {self._container.id!r} is down: {self._why}; {soon}"

    def waits_for(self) -> str:
        """Return what the start of the process waits for right now."""
        return self._arrival.waits_for() if self._arrival else "its process to begin"

    async def call(self, step: Step) -> ContainerOutput:
        """Run a step. Raise `ContainerFailed`, of the kind `died` if the process ended meanwhile."""
        async with self._called() as endpoint:
            return await self._http.run(step, endpoint)

    @asynccontextmanager
    async def stream(self, step: Step) -> AsyncIterator[Streamed]:
        """Run a step like `call`, and yield the reply's bytes as they come."""
        async with self._called() as endpoint, self._http.stream(step, endpoint) as pieces:
            yield pieces

    @asynccontextmanager
    async def _called(self) -> AsyncIterator[Endpoint]:
        """Yield the endpoint for a call. If the connection breaks because the process ended, the error says so."""
        if self._up is None:
            raise ContainerFailed("connection", f"the container is not running: {self._why}")
        (process, endpoint), output = self._up, self._output
        try:
            yield endpoint
        except ContainerFailed as failure:
            if failure.kind != "connection":
                raise
            with time_limit(NOTICE_SECONDS):
                await process.exited.wait()
            if not process.exited.is_set():
                raise
            text = f"the container's process {process.ending}"
            raise ContainerFailed("died", text_for_clients(self._container, text, output.last_lines)) from failure

    async def resources(self, model_id: str | None) -> msgspec.Raw | None:
        """Return the container's description of its resources. Return None if there is none, or it is not up."""
        return await self._http.resources(self._up[1], model_id) if self._up else None

    # -- staying up -------------------------------------------------------------------------------

    async def run(self, *, task_status: "TaskStatus[None]") -> None:
        """Keep it up until cancelled. Raise `NotStarted` if it is required and does not come up the first time."""
        pause = 0.0
        if self._container.required:
            await self._live(task_status.started)
        else:
            task_status.started()
            with suppress(NotStarted):
                await self._live()
        while True:
            pause = restart_pause(pause, time.monotonic() - self._up_at)
            logger.warning("container %r: %s; restart in %g s", self._container.id, self._why, pause)
            self._restart_at = time.monotonic() + pause
            await anyio.sleep(pause)
            self._up_at = math.inf
            with suppress(NotStarted):  # the reason is kept in `_why`
                await self._live()

    async def _live(self, came_up: Callable[[], None] = lambda: None) -> None:
        """Start the process and wait for its end. Raise `NotStarted` if it ends before it answers."""
        self._output = output = Output(self._log)
        with ExitStack() as stack:
            try:
                port, process = self._started(stack, output)
            except (NodekitError, OSError) as error:
                raise self._not_started(str(error), None, output) from error
            try:
                self._arrival = arrival = Arrival(self._container, process, port, self._peers, self._http)
                seconds = self._container.startup_seconds
                with StartProgress(logger, self._container.id, self.waits_for, seconds=seconds):
                    why = await arrival.failure()
                if why:
                    raise self._not_started(why, process.exit_code, output)
                self._is_up(process, arrival.endpoint)
                came_up()
                await process.exited.wait()
            finally:
                self._is_down(process)
                with anyio.CancelScope(shield=True):
                    await process.end(self._container.stop_seconds)

    def _started(self, stack: ExitStack, output: Output) -> tuple[int, Process]:
        """Start the process, and reserve its port for as long as the stack lasts."""
        with ExitStack() as given:
            listener = given.enter_context(closing(listening())) if self._container.listen == "inherit" else None
            port = listener.getsockname()[1] if listener else stack.enter_context(free_port())
            order = Order(
                command=command_line(self._container, port),
                env={**environment(self._container), "PORT": str(port)},
                folder=str(self._folder),
                limits=limits(self._container),
            )
            process = Process(self._fork_server, order, output, listener)
        stack.enter_context(self._peers.at(port, process))
        return port, process

    def _is_up(self, process: Process, endpoint: Endpoint) -> None:
        logger.info("container %r answers at %s (pid %d)", self._container.id, endpoint.url, process.pid)
        self._up, self._up_at = (process, endpoint), time.monotonic()
        self._notify()

    def _is_down(self, process: Process) -> None:
        if self._up is not None:
            self._why = f"its process {process.ending}"
            self._up = None
            self._notify()

    def _not_started(self, why: str, exit_code: int | None, output: Output) -> NotStarted:
        self._why = why
        return NotStarted(self._container.id, why, exit_code, output.last_lines)
