"""One container that is kept up: made, followed, and made again when it dies."""

import logging
import math
import time
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager, suppress

import anyio
import msgspec
from anyio.abc import TaskStatus

from nodekit import ContainerFailed, ContainerOutput, NotStarted, Step, time_limit
from nodekit_docker.config import DockerContainer
from nodekit_docker.containers.making import Workshop
from nodekit_docker.containers.running_container import Life
from nodekit_docker.containers.spec import explained
from nodekit_docker.containers.state import State
from nodekit_docker.containers.watched import Followed
from nodekit_docker.engine.errors import EngineGone, EngineRefused, NameTaken, NotUp
from nodekit_docker.engine.presence import Presence
from nodekit_remote import ContainerHttp, ContainerLog, Endpoint, StartProgress, Streamed, restart_pause

logger = logging.getLogger("nodekit.docker")

NOTICE_SECONDS = 2.0
"""Seconds after a broken connection in which the engine may still report the container's end."""


class Kept:
    """The container of one entry of the node file. It calls `notify` whenever it goes up or down."""

    def __init__(
        self,
        container: DockerContainer,
        workshop: Workshop,
        presence: Presence,
        http: ContainerHttp,
        notify: Callable[[], None],
    ) -> None:
        self._container = container
        self._workshop = workshop
        self._presence = presence
        self._http = http
        self._notify = notify
        self._log = ContainerLog(container)
        self._now: Followed | None = None
        self._why = "was not started yet"
        self._restarts = 0
        self._restart_at = 0.0
        self._answered_at = math.inf
        """Time of the current container's first answer. A slow start does not count as running for long."""

    @property
    def id(self) -> str:
        """The engine's id of the current container; empty if there is none."""
        return self._now.id if self._now else ""

    @property
    def up(self) -> bool:
        """True while it can be called."""
        return self._now is not None and self._now.up

    @property
    def instance(self) -> str:
        """Name of the running instance; empty if there is none."""
        life = self._now.life if self._now else None
        return life.endpoint.instance if life else ""

    @property
    def why(self) -> str:
        """The reason why it cannot be called."""
        return self._now.why if self._now else self._why

    def problem(self) -> str | None:
        """Say why it cannot be called, and when it is started again. Return None while it is up."""
        if self.up:
            return None
        seconds = self._restart_at - time.monotonic()
        soon = f"; restart in {seconds:.1f} s" if seconds > 0 else ""
        return f"container {self._container.id!r} is down: {self.why}{soon}"

    def waits_for(self) -> str:
        """Return what the start of the container waits for right now."""
        if self._now is not None and not self._presence.trouble:
            return self._now.waits_for()
        return self._presence.trouble or f"its container, of image {self._container.image}, to be made"

    def look(self) -> None:
        """Look at the container again: something may have happened to it."""
        if self._now:
            self._now.look()

    # -- calls ------------------------------------------------------------------------------------

    async def call(self, step: Step) -> ContainerOutput:
        """Run a step. Raise `ContainerFailed`, with the kind `died` if the container ended meanwhile."""
        async with self._called() as endpoint:
            return await self._http.run(step, endpoint)

    @asynccontextmanager
    async def stream(self, step: Step) -> AsyncIterator[Streamed]:
        """Run a step as `call` does, but give the reply's bytes as they come."""
        async with self._called() as endpoint, self._http.stream(step, endpoint) as pieces:
            yield pieces

    @asynccontextmanager
    async def _called(self) -> AsyncIterator[Endpoint]:
        """Give the endpoint to call. If the connection breaks inside, find out why, and raise that."""
        life = self._now.life if self._now and self._now.up else None
        if life is None:
            raise ContainerFailed("connection", f"the container is not running: {self.why}")
        try:
            yield life.endpoint
        except ContainerFailed as failure:
            if failure.kind != "connection":
                raise
            raise await self._cleared_up(life, failure) from failure

    async def resources(self, model_id: str | None) -> msgspec.Raw | None:
        """Return what the container reports about itself. Return None if it reports nothing or is not up."""
        life = self._now.life if self._now and self._now.up else None
        return await self._http.resources(life.endpoint, model_id) if life else None

    async def _cleared_up(self, life: Life, failure: ContainerFailed) -> ContainerFailed:
        """Find out why a connection broke, within `NOTICE_SECONDS`; otherwise return the failure unchanged."""
        if not life.ending:
            doubt = life.doubt()
            self.look()
            with time_limit(NOTICE_SECONDS):
                await doubt.wait()
        if life.ending:
            return ContainerFailed("died", f"the container {life.ending}")
        if self._presence.trouble:
            return ContainerFailed("connection", f"{failure.text}; the Docker engine does not answer")
        return failure

    # -- staying up -------------------------------------------------------------------------------

    async def run(self, *, task_status: "TaskStatus[None]") -> None:
        """Keep it up until cancelled. Raise `NotStarted` if it is required and does not come up the first time."""
        required = self._container.required
        if not required:
            task_status.started()

        def answered() -> None:
            nonlocal required
            if required:
                task_status.started()
            required = False
            self._answered_at = min(self._answered_at, time.monotonic())

        pause = 0.0
        while True:
            self._answered_at = math.inf
            if (failure := await self._lived(answered)) and required:
                raise self._not_started(failure) from failure  # which has the last lines
            if isinstance(failure, NotUp):
                self._log.add(failure.last_lines)
            pause = restart_pause(pause, time.monotonic() - self._answered_at)
            await self._presence.here()
            logger.warning("container %r: %s; restart in %g s", self._container.id, self.why, pause)
            self._restart_at = time.monotonic() + pause
            await anyio.sleep(pause)
            self._restarts += 1

    async def _lived(self, answered: Callable[[], None]) -> NotUp | EngineGone | None:
        """Make the container and follow it to its end. Return the error if it did not come up."""
        try:
            await self._live(answered)
        except NameTaken as error:
            return self._failed(NotUp(str(error)))
        except NotUp as error:
            return self._failed(error)
        except EngineGone as error:
            self._presence.is_gone(str(error))
            return self._failed(error)
        except EngineRefused as error:
            return self._failed(NotUp(explained(str(error))))
        except Exception:  # a bug of ours, or an engine that answers nonsense: other containers go on
            logger.exception("container %r: keeping it up failed", self._container.id)
            return self._failed(NotUp("internal error of the runner; the log has it"))
        return None

    async def _live(self, answered: Callable[[], None]) -> None:
        """Make the container, or take over a running one, and follow it to its end.

        A container that an earlier run left may still be busy for that run and not answer. It is then replaced, which
        does not count as a failure.
        """
        state, taken_over = await self._taken_or_made()
        try:
            await self._follow(state, answered)
        except NotUp as error:
            if not taken_over:
                raise
            logger.warning("container %r, taken over: %s; it is recreated", self._container.id, error)
        else:
            return
        state, _ = await self._taken_or_made()
        await self._follow(state, answered)

    async def _taken_or_made(self) -> tuple[State, bool]:
        with StartProgress(logger, self._container.id, self.waits_for):
            return await self._workshop.taken_or_made(self._container, self._restarts)

    async def _follow(self, state: State, answered: Callable[[], None]) -> None:
        self._restarts = state.restarts
        self._now = now = Followed(
            self._container,
            state,
            network=self._workshop.reached_in(self._container),
            engine=self._workshop.engine,
            presence=self._presence,
            http=self._http,
            log=self._log,
            notify=self._notify,
        )
        now.look()  # events before its id was known were missed
        try:
            await now.follow(answered)
        except NotUp:  # remove it, or the next run would find it running and take it over
            with suppress(EngineGone, EngineRefused):  # the next attempt finds it
                await self._workshop.engine.remove(now.id)
            raise

    def _failed(self, error: NotUp | EngineGone) -> NotUp | EngineGone:
        self._why = str(error)
        self._now = None
        return error

    def _not_started(self, error: NotUp | EngineGone) -> NotStarted:
        if isinstance(error, EngineGone):
            return NotStarted(self._container.id, str(error))
        return NotStarted(self._container.id, str(error), error.exit_code, error.last_lines)
