"""The supervision of one container: it is started, probed, restarted when it dies, and ended with its runner."""

import logging
import math
import time
from collections.abc import AsyncIterator, Callable
from contextlib import ExitStack, asynccontextmanager, suppress
from pathlib import Path

import anyio
import msgspec
from anyio.abc import TaskStatus

from nodekit import ContainerFailed, ContainerOutput, NodekitError, NotStarted, Step
from nodekit_process._config import ProcessContainer, environment
from nodekit_process._output import Output
from nodekit_process._ports import free_port
from nodekit_process._process import Process
from nodekit_remote import ContainerHttp, Endpoint, Streamed, restart_pause

logger = logging.getLogger("nodekit.process")

PROBE_PAUSE_SECONDS = 0.02
LONGEST_PROBE_PAUSE_SECONDS = 0.25
NOTICE_SECONDS = 0.5
"""Time to wait for the end of the process after a broken connection."""


class Supervised:
    """The process of one container. `notify` is called whenever it goes up or down."""

    def __init__(
        self, container: ProcessContainer, folder: Path, http: ContainerHttp, notify: Callable[[], None]
    ) -> None:
        self._container = container
        self._folder = folder
        self._http = http
        self._notify = notify
        self._up: tuple[Process, Endpoint] | None = None
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
        return f"container {self._container.id} is down: {self._why}; {soon}"

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
        process, endpoint = self._up
        try:
            yield endpoint
        except ContainerFailed as failure:
            if failure.kind != "connection":
                raise
            with anyio.move_on_after(NOTICE_SECONDS):
                await process.exited.wait()
            if not process.exited.is_set():
                raise
            raise ContainerFailed("died", f"the container's process {process.ending}") from failure

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
            logger.warning("container %s: %s; restart in %g s", self._container.id, self._why, pause)
            self._restart_at = time.monotonic() + pause
            await anyio.sleep(pause)
            self._up_at = math.inf
            with suppress(NotStarted):  # the reason is kept in `_why`
                await self._live()

    async def _live(self, came_up: Callable[[], None] = lambda: None) -> None:
        """Start the process and wait for its end. Raise `NotStarted` if it ends before it answers."""
        output = Output(self._container.id)
        with ExitStack() as stack:
            try:
                port = stack.enter_context(free_port())
                process = self._process(port, output)
            except (NodekitError, OSError) as error:
                raise self._not_started(str(error), None, output) from error
            endpoint = Endpoint(f"http://127.0.0.1:{port}", f"{self._container.id}:{process.pid}", self._container)
            try:
                if why := await self._waited_for(process, endpoint):
                    raise self._not_started(why, process.exit_code, output)
                self._is_up(process, endpoint)
                came_up()
                await process.exited.wait()
            finally:
                self._is_down(process)
                with anyio.CancelScope(shield=True):
                    await process.end(self._container.stop_seconds)

    def _process(self, port: int, output: Output) -> Process:
        env = {**environment(self._container), "PORT": str(port)}
        return Process(self._container.command, env, self._folder, output)

    async def _waited_for(self, process: Process, endpoint: Endpoint) -> str | None:
        """Wait until the process answers. Return None then, otherwise the reason why it does not."""
        seconds, pause = self._container.startup_seconds, PROBE_PAUSE_SECONDS
        with anyio.move_on_after(seconds):
            while not await self._http.answers(endpoint) or process.exited.is_set():
                with anyio.move_on_after(pause):
                    await process.exited.wait()
                if process.exited.is_set():
                    return f"its process {process.ending} before it answered"
                pause = min(2 * pause, LONGEST_PROBE_PAUSE_SECONDS)
            return None
        return f"it did not answer at {endpoint.url} within {seconds:g} s; it must listen on the port in PORT"

    def _is_up(self, process: Process, endpoint: Endpoint) -> None:
        logger.info("container %s answers at %s (pid %d)", self._container.id, endpoint.url, process.pid)
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
