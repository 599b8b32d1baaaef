"""One container kept up: made, followed, made again when it dies."""

import logging
import math
import time
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager, suppress

import anyio
import msgspec
from anyio.abc import TaskStatus

from nodekit import ContainerFailed, ContainerOutput, NotStarted, Step
from nodekit_docker.config import DockerContainer
from nodekit_docker.containers.followed import Followed
from nodekit_docker.containers.life import Life
from nodekit_docker.containers.making import Workshop
from nodekit_docker.containers.spec import explained
from nodekit_docker.containers.state import State
from nodekit_docker.engine.errors import EngineGone, EngineRefused, NameTaken, NotUp
from nodekit_docker.engine.presence import Presence
from nodekit_remote import ContainerHttp, Endpoint, Streamed, restart_pause

logger = logging.getLogger("nodekit.docker")

NOTICE_SECONDS = 2.0
"""How long after a broken connection the engine may take to tell of the container's end."""


class Kept:
    """The container of one entry of the node file. `tell` is called whenever it goes up or down."""

    def __init__(
        self,
        container: DockerContainer,
        workshop: Workshop,
        presence: Presence,
        http: ContainerHttp,
        tell: Callable[[], None],
    ) -> None:
        self._container = container
        self._workshop = workshop
        self._presence = presence
        self._http = http
        self._tell = tell
        self._now: Followed | None = None
        self._why = "was not started yet"
        self._restarts = 0
        self._restart_at = 0.0
        self._answered_at = math.inf
        """When the one that is there answered first; what was slow to start has not run for long."""

    @property
    def id(self) -> str:
        """The engine's, of the container that is there; empty: none is."""
        return self._now.id if self._now else ""

    @property
    def up(self) -> bool:
        """Whether it can be called."""
        return self._now is not None and self._now.up

    @property
    def why(self) -> str:
        """Why it cannot."""
        return self._now.why if self._now else self._why

    def problem(self) -> str | None:
        """Why it cannot be called, and when it is started again."""
        if self.up:
            return None
        seconds = self._restart_at - time.monotonic()
        soon = f"; restart in {seconds:.1f} s" if seconds > 0 else ""
        return f"container {self._container.id} is down: {self.why}{soon}"

    def look(self) -> None:
        """Something may have happened to it."""
        if self._now:
            self._now.look()

    # -- calls ------------------------------------------------------------------------------------

    async def call(self, step: Step) -> ContainerOutput:
        """Run a step. Raises `ContainerFailed`, of the kind `died` where the container ended meanwhile."""
        async with self._called() as endpoint:
            return await self._http.run(step, endpoint)

    @asynccontextmanager
    async def stream(self, step: Step) -> AsyncIterator[Streamed]:
        """As `call`; the reply's bytes as they come."""
        async with self._called() as endpoint, self._http.stream(step, endpoint) as pieces:
            yield pieces

    @asynccontextmanager
    async def _called(self) -> AsyncIterator[Endpoint]:
        """Where it is called inside; a connection that breaks there is explained as far as that is known soon."""
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
        """What the container says of itself; None: nothing, or it is not up."""
        life = self._now.life if self._now and self._now.up else None
        return await self._http.resources(life.endpoint, model_id) if life else None

    async def _cleared_up(self, life: Life, failure: ContainerFailed) -> ContainerFailed:
        """What a broken connection came from, as far as is known soon."""
        if not life.ending:
            doubt = life.doubt()
            self.look()
            with anyio.move_on_after(NOTICE_SECONDS):
                await doubt.wait()
        if life.ending:
            return ContainerFailed("died", f"the container {life.ending}")
        if self._presence.trouble:
            return ContainerFailed("connection", f"{failure.text}; the Docker engine does not answer")
        return failure

    # -- staying up -------------------------------------------------------------------------------

    async def run(self, *, task_status: "TaskStatus[None]") -> None:
        """Keep it up until cancelled. Raises `NotStarted` if it is required and does not come up the first time."""
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
                raise self._not_started(failure) from failure
            pause = restart_pause(pause, time.monotonic() - self._answered_at)
            await self._presence.here()
            logger.warning("container %s: %s; restart in %g s", self._container.id, self.why, pause)
            self._restart_at = time.monotonic() + pause
            await anyio.sleep(pause)
            self._restarts += 1

    async def _lived(self, answered: Callable[[], None]) -> NotUp | EngineGone | None:
        """From its making to its end; what kept it from coming up, if it did not."""
        try:
            await self._live(answered)
        except NameTaken as error:
            return self._failed(NotUp(str(error)))
        except NotUp as error:
            for line in error.last_lines:
                logging.getLogger(f"nodekit.container.{self._container.id}").warning("%s", line)
            return self._failed(error)
        except EngineGone as error:
            self._presence.is_gone(str(error))
            return self._failed(error)
        except EngineRefused as error:
            return self._failed(NotUp(explained(str(error))))
        except Exception:  # a fault of ours, or of an engine that answers what none should: other containers go on
            logger.exception("container %s: keeping it up failed", self._container.id)
            return self._failed(NotUp("internal error of the runner; the log has it"))
        return None

    async def _live(self, answered: Callable[[], None]) -> None:
        """From its making to its end.

        One that an earlier run has left may be busy for that run and not answer; it is replaced, and no failure.
        """
        state, taken_over = await self._workshop.taken_or_made(self._container, self._restarts)
        try:
            await self._follow(state, answered)
        except NotUp as error:
            if not taken_over:
                raise
            logger.warning("container %s, taken over: %s; it is made anew", self._container.id, error)
        else:
            return
        state, _ = await self._workshop.taken_or_made(self._container, self._restarts)
        await self._follow(state, answered)

    async def _follow(self, state: State, answered: Callable[[], None]) -> None:
        self._restarts = state.restarts
        self._now = now = Followed(
            self._container,
            state,
            network=self._workshop.reached_in(self._container),
            engine=self._workshop.engine,
            presence=self._presence,
            http=self._http,
            tell=self._tell,
        )
        now.look()  # what happened before its id was known went unheard
        try:
            await now.follow(answered)
        except NotUp:  # or it would be found running, and taken for good
            with suppress(EngineGone, EngineRefused):  # then the next look finds it
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
