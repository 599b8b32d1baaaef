"""One container kept up: made, probed, followed, made again when it dies."""

import logging
import math
import time
from collections.abc import Callable

import anyio
from anyio.abc import TaskStatus

from nodekit import ContainerFailed, ContainerOutput, NotStarted, Step
from nodekit_docker._config import DockerContainer
from nodekit_docker._errors import EngineGone, EngineRefused, NotUp
from nodekit_docker._life import Life, with_lines
from nodekit_docker._making import Workshop
from nodekit_docker._presence import Presence
from nodekit_docker._state import State
from nodekit_remote import ContainerHttp, Endpoint, restart_pause

logger = logging.getLogger("nodekit.docker")

PROBE_PAUSE_SECONDS = 0.02
LONGEST_PROBE_PAUSE_SECONDS = 0.25
LONGEST_PAUSE_WHEN_DOWN_SECONDS = 5.0
NOTICE_SECONDS = 2.0
"""How long after a broken connection the engine may take to tell of the container's end."""
REFUSED_PAUSE_SECONDS = 0.5
LINES_IN_LOG = 20


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
        self._engine = workshop.engine
        self._presence = presence
        self._http = http
        self._tell = tell
        self._wake = anyio.Event()
        self._life: Life | None = None
        self._up = False
        self._why = "was not started yet"
        self._restarts = 0
        self._restart_at = 0.0
        self.id = ""
        """The engine's, of the one that is there; empty: none is."""

    @property
    def up(self) -> bool:
        """Whether it can be called."""
        return self._up

    def problem(self) -> str | None:
        """Why it cannot be called, and when it is started again."""
        if self._up:
            return None
        seconds = self._restart_at - time.monotonic()
        soon = f"; restart in {seconds:.1f} s" if seconds > 0 else ""
        return f"container {self._container.id} is down: {self._why}{soon}"

    def look(self) -> None:
        """Something may have happened to it."""
        self._wake.set()

    # -- calls ------------------------------------------------------------------------------------

    async def call(self, step: Step) -> ContainerOutput:
        """Run a step. Raises `ContainerFailed`, of the kind `died` where the container ended meanwhile."""
        life = self._life
        if life is None or not self._up:
            raise ContainerFailed("connection", f"the container is not running: {self._why}")
        try:
            return await self._http.run(step, life.endpoint)
        except ContainerFailed as failure:
            if failure.kind != "connection":
                raise
            raise await self._cleared_up(life, failure) from failure

    async def _cleared_up(self, life: Life, failure: ContainerFailed) -> ContainerFailed:
        """What a broken connection came from, as far as is known soon."""
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
        came_up = False

        def started() -> None:
            nonlocal came_up
            if not came_up and self._container.required:
                task_status.started()
            came_up = True

        if not self._container.required:
            task_status.started()
        pause = 0.0
        while True:
            began = time.monotonic()
            try:
                await self._live(started)
            except (NotUp, EngineGone) as error:
                if not came_up and self._container.required:
                    raise self._not_started(error) from error
                self._failed(error)
            if self._presence.trouble:
                await self._presence.here()
            pause = restart_pause(pause, time.monotonic() - began)
            logger.warning("container %s: %s; restart in %g s", self._container.id, self._why, pause)
            self._restart_at = time.monotonic() + pause
            await anyio.sleep(pause)
            self._restarts += 1

    def _failed(self, error: NotUp | EngineGone) -> None:
        if isinstance(error, EngineGone):
            self._presence.is_gone(str(error))
        printed = error.last_lines if isinstance(error, NotUp) else ()
        self._why = str(error)
        for line in printed:
            logger.warning("container %s | %s", self._container.id, line)

    def _not_started(self, error: NotUp | EngineGone) -> NotStarted:
        self._why = str(error)
        if isinstance(error, EngineGone):
            return NotStarted(self._container.id, str(error))
        return NotStarted(self._container.id, str(error), error.exit_code, error.last_lines)

    async def _live(self, started: Callable[[], None]) -> None:
        """From its making to its end."""
        self._wake = anyio.Event()
        state = await self._workshop.running(self._container, self._restarts)
        self.id, self._restarts = state.id, state.restarts
        try:
            await self._follow(state, started)
        except NotUp:
            await self._engine.remove(self.id)  # or it would be found running, and taken for good
            raise
        finally:
            self._is_down(self._why)

    async def _follow(self, state: State | None, started: Callable[[], None]) -> None:
        """Look at it whenever something happens, until it has ended."""
        seconds = self._container.startup_seconds
        while state is not None and state.running:
            if state.paused:
                self._is_down(f"is paused; `docker unpause {state.name}` lets it go on")
            elif not await self._still_answers(state):
                state = await self._until_it_answers(state, seconds)
                if state is None or not state.running:
                    break
                if not state.paused:
                    self._is_up(state)
                    started()
                    seconds = math.inf  # one that has answered may be busy; it is not killed for that
                continue
            await self._wake.wait()
            state = await self._look_again()
        await self._has_ended(state)

    async def _still_answers(self, state: State) -> bool:
        """Whether it is up, and the same as before; where a call has cast doubt on it, it is asked."""
        life = self._life
        if life is None or not self._up:
            return False
        if life.state.started_at != state.started_at:  # somebody has started it anew: its port may be another
            self._end_life("was started again by somebody")
            self._is_down("was started again by somebody")
            return False
        if life.doubted and not await self._http.answers(life.endpoint):
            self._is_down("does not answer")
            return False
        life.settle()
        return True

    async def _until_it_answers(self, state: State, seconds: float) -> State | None:
        """How it is when it answers, is paused or has ended. Raises `NotUp` where that takes longer."""
        pause, longest = PROBE_PAUSE_SECONDS, LONGEST_PROBE_PAUSE_SECONDS
        if math.isinf(seconds):
            longest = LONGEST_PAUSE_WHEN_DOWN_SECONDS
        with anyio.move_on_after(seconds):
            while True:
                if (endpoint := self._endpoint(state)) and await self._http.answers(endpoint):
                    return state
                with anyio.move_on_after(pause) as waited:
                    await self._wake.wait()
                if not waited.cancelled_caught:
                    looked = await self._look_again()
                    if looked is None or not looked.running or looked.paused:
                        return looked
                    state = looked
                pause = min(2 * pause, longest)
        where = endpoint.url if endpoint else f"port {self._container.port}"
        text = (
            f"it did not answer at {where} within {seconds:g} s; its program must listen on 0.0.0.0:"
            f"{self._container.port} inside (see `port`, `startup_seconds`)"
        )
        raise NotUp(text, last_lines=await self._last_lines(state.id))

    def _endpoint(self, state: State) -> Endpoint | None:
        address = state.address(self._container.port, self._workshop.around.shared(self._container))
        return Endpoint(f"http://{address}", f"{state.name}:{state.short_id}", self._container) if address else None

    # -- looking ----------------------------------------------------------------------------------

    async def _look_again(self) -> State | None:
        """How it is now; None: it is gone. An engine that is gone is waited for: what runs, runs on."""
        self._wake = anyio.Event()
        while True:
            if self._presence.trouble:
                await self._without_engine()
            try:
                told = await self._engine.inspect(self.id)
                return State.of(told) if told is not None else None
            except EngineGone as error:
                self._presence.is_gone(str(error))
            except EngineRefused as error:
                logger.warning("container %s cannot be looked at: %s", self._container.id, error)
                await anyio.sleep(REFUSED_PAUSE_SECONDS)

    async def _without_engine(self) -> None:
        """Until the engine is back. Its end takes published ports along, unless it keeps containers alive."""
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(self._probe_without_engine)
            await self._presence.here()
            tasks.cancel_scope.cancel()

    async def _probe_without_engine(self) -> None:
        """Ask the container itself: now, whenever a call casts doubt on it, and for as long as it does not answer."""
        while (life := self._life) is not None:
            answers = await self._http.answers(life.endpoint)
            if answers and not self._up:
                self._is_up(life.state)
            elif not answers:
                self._is_down("does not answer, and neither does the engine")
            life.settle()
            with anyio.move_on_after(math.inf if self._up else LONGEST_PAUSE_WHEN_DOWN_SECONDS):
                await self._wake.wait()
                self._wake = anyio.Event()

    async def _has_ended(self, state: State | None) -> None:
        """Keep what is known of its end. Raises `NotUp` where it has never answered."""
        answered = self._life is not None
        lines = () if state is None else await self._last_lines(state.id)
        ending = "was removed" if state is None else state.ending(self._container.memory)
        self._end_life(with_lines(ending, lines))
        self._is_down(ending)
        if not answered:
            exit_code = state.exit_code if state is not None else None
            raise NotUp(f"it {ending} before it answered", exit_code=exit_code, last_lines=lines)
        for line in lines:
            logger.warning("container %s | %s", self._container.id, line)

    async def _last_lines(self, id: str) -> tuple[str, ...]:
        try:
            return await self._engine.last_lines(id, LINES_IN_LOG)
        except (EngineGone, EngineRefused):  # of an error's decoration
            return ()

    # -- up and down ------------------------------------------------------------------------------

    def _is_up(self, state: State) -> None:
        endpoint = self._endpoint(state)
        assert endpoint is not None
        if self._life is None or self._life.state.started_at != state.started_at:
            self._life = Life(state, endpoint)
        self._up = True
        self._restart_at = 0.0
        logger.info("container %s answers at %s (%s)", self._container.id, endpoint.url, state.name)
        self._tell()

    def _is_down(self, why: str) -> None:
        self._why = why
        if self._up:
            self._up = False
            self._tell()

    def _end_life(self, ending: str) -> None:
        life, self._life = self._life, None
        if life is not None:
            life.end(ending)
