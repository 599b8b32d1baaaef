"""One container, followed from its start to its end: probed until it answers, inspected when something happens."""

import logging
import math
from collections.abc import Callable
from contextlib import suppress

import anyio

from nodekit import time_limit
from nodekit_docker.config import DockerContainer
from nodekit_docker.containers.running_container import Life
from nodekit_docker.containers.state import State
from nodekit_docker.containers.unanswered import Unanswered
from nodekit_docker.engine.engine import Engine
from nodekit_docker.engine.errors import EngineGone, EngineRefused, NotUp
from nodekit_docker.engine.presence import Presence
from nodekit_remote import ContainerHttp, ContainerLog, Endpoint, StartProgress, text_for_clients

logger = logging.getLogger("nodekit.docker")

PROBE_PAUSE_SECONDS = 0.02
LONGEST_PROBE_PAUSE_SECONDS = 0.25
LONGEST_PAUSE_WHEN_DOWN_SECONDS = 5.0
REFUSED_PAUSE_SECONDS = 0.5
LINES_IN_LOG = 20
LINES_SECONDS = 1.0


class Followed:
    """A container that was started. It calls `notify` whenever it goes up or down."""

    def __init__(
        self,
        container: DockerContainer,
        state: State,
        *,
        network: str | None,
        engine: Engine,
        presence: Presence,
        http: ContainerHttp,
        log: ContainerLog,
        notify: Callable[[], None],
    ) -> None:
        """`network` is the network in which the container is called by its address; None for calls on loopback."""
        self.id = state.id
        self.up = False
        """True while it can be called."""
        self.why = "is starting"
        """The reason why it cannot be called, or last could not."""
        self.life: Life | None = None
        """Its current life. It begins with the first answer, also after somebody has started the container again. None
        before the first answer and after the end."""
        self._container = container
        self._state = state
        self._network = network
        self._engine = engine
        self._presence = presence
        self._http = http
        self._log = log
        self._notify = notify
        self._unanswered = Unanswered(engine, container.port)
        self._wake = anyio.Event()
        self._missed = False
        """True once the engine has been gone."""

    def look(self) -> None:
        """Look at it again: something may have happened to it."""
        self._wake.set()

    def waits_for(self) -> str:
        """Return what its start waits for right now."""
        if self._presence.trouble:
            return f"the engine: {self._presence.trouble}"
        return f"{self._place(self._state)}/health to answer: {self._unanswered.missing}"

    async def follow(self, answered: Callable[[], None]) -> None:
        """Follow the container until its end; call `answered` each time that it begins to answer.

        Raise `NotUp` if it does not answer within its `startup_seconds`, or ends before it answers. Raise `EngineGone`
        if the engine did not answer either.
        """
        try:
            await self._has_ended(await self._until_its_end(answered))
        finally:
            self._is_down(self.why)

    async def _until_its_end(self, answered: Callable[[], None]) -> State | None:
        """Follow it until its end and return its last state. Return None if it was removed."""
        state: State | None = self._state
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
                    answered()
                    seconds = math.inf  # a container that has answered may be busy, and is not killed for that
                continue
            await self._wake.wait()
            state = await self._look_again()
        return state

    async def _still_answers(self, state: State) -> bool:
        """Return True if it is up and still in the same life. Probe it only if a call has cast doubt on it."""
        life = self.life
        if life is None or not self.up:
            return False
        if life.state.started_at != state.started_at:  # somebody has started it again: its port may have changed
            self._end_life("was started again by somebody")
            self._is_down("was started again by somebody")
            return False
        if life.doubted and not await self._http.lives(life.endpoint):
            self._is_down("does not answer")
            return False
        life.settle()
        return True

    async def _until_it_answers(self, state: State, seconds: float) -> State | None:
        """Wait until it answers, is paused or has ended. Return its state, or None if it was removed.

        Raise `NotUp` if that takes longer than `seconds`, or `EngineGone` if the engine is then gone too.
        """
        pause, longest = PROBE_PAUSE_SECONDS, LONGEST_PROBE_PAUSE_SECONDS
        if math.isinf(seconds):
            longest = LONGEST_PAUSE_WHEN_DOWN_SECONDS
        self._unanswered = unanswered = Unanswered(self._engine, self._container.port)
        progress = StartProgress(logger, self._container.id, self.waits_for, seconds=seconds)
        with progress, time_limit(seconds):
            while True:
                self._state, endpoint = state, self._endpoint(state)
                unanswered.outcome = await self._http.trouble(endpoint) if endpoint else "it has no address yet"
                if not unanswered.outcome:
                    return state
                await unanswered.look_if_due(state)
                with anyio.move_on_after(pause) as waited:
                    await self._wake.wait()
                if not waited.cancelled_caught or endpoint is None or pause == LONGEST_PAUSE_WHEN_DOWN_SECONDS:
                    looked = await self._look_again()
                    if looked is None or not looked.running or looked.paused:
                        return looked
                    state = looked
                pause = min(2 * pause, longest)
        if self._presence.trouble:
            raise EngineGone(self._presence.trouble)
        await unanswered.look(state)
        text = f"it did not answer at {self._place(state)} within {seconds:g} s; {unanswered.missing}"
        raise NotUp(text, last_lines=await self._last_lines(state.id))

    def _place(self, state: State) -> str:
        endpoint = self._endpoint(state)
        return endpoint.url if endpoint else f"port {self._container.port}"

    def _endpoint(self, state: State) -> Endpoint | None:
        address = state.address(self._container.port, self._network)
        return Endpoint(f"http://{address}", f"{state.name}:{state.short_id}", self._container) if address else None

    async def _look_again(self) -> State | None:
        """Return its current state, or None if it was removed.

        Wait for an engine that is gone, because a container may outlive its engine.
        """
        self._wake = anyio.Event()
        pause = REFUSED_PAUSE_SECONDS
        while True:
            if self._presence.trouble:
                self._missed = True
                await self._without_engine()
            try:
                inspected = await self._engine.inspect(self.id)
                return State.of(inspected) if inspected is not None else None
            except EngineGone as error:
                self._presence.is_gone(str(error))
            except EngineRefused as error:
                logger.warning("container %r cannot be looked at: %s", self._container.id, error)
                await anyio.sleep(pause)
                pause = min(2 * pause, LONGEST_PAUSE_WHEN_DOWN_SECONDS)

    async def _without_engine(self) -> None:
        """Wait until the engine is back, and probe the container meanwhile.

        When an engine ends, its published ports go with it, unless the engine keeps containers alive.
        """
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(self._probe_without_engine)
            await self._presence.here()
            tasks.cancel_scope.cancel()

    async def _probe_without_engine(self) -> None:
        """Probe the container itself: now, when a call casts doubt on it, and again while it does not answer."""
        while (life := self.life) is not None:
            answers = await (self._http.lives if self.up else self._http.answers)(life.endpoint)
            if answers and not self.up:
                self._is_up(life.state)
            elif not answers:
                self._is_down("does not answer, and neither does the engine")
            life.settle()
            with anyio.move_on_after(math.inf if self.up else LONGEST_PAUSE_WHEN_DOWN_SECONDS):
                await self._wake.wait()
                self._wake = anyio.Event()

    async def _has_ended(self, state: State | None) -> None:
        """Record how it ended. Raise `NotUp` if it has never answered."""
        answered = self.life is not None
        ending = "was removed" if state is None else state.ending(self._container.memory)
        self._is_down(ending)
        lines = () if state is None else await self._last_lines(state.id)
        self._end_life(text_for_clients(self._container, ending, lines))
        if not answered:
            exit_code = state.exit_code if state is not None else None
            meanwhile = "; the Docker engine was gone meanwhile" if self._missed else ""
            raise NotUp(f"it {ending} before it answered{meanwhile}", exit_code=exit_code, last_lines=lines)
        self._log.add(lines)

    async def _last_lines(self, id: str) -> tuple[str, ...]:
        """Return the last lines that it printed, or none if that takes too long: broken calls wait for the reason."""
        with suppress(EngineGone, EngineRefused), time_limit(LINES_SECONDS):
            return await self._engine.last_lines(id, LINES_IN_LOG)
        return ()

    def _is_up(self, state: State) -> None:
        endpoint = self._endpoint(state)
        assert endpoint is not None
        if self.life is None or self.life.state.started_at != state.started_at:
            self._end_life("was started again by somebody")
            self.life = Life(state, endpoint)
        elif self.life.endpoint.url != endpoint.url:  # somebody removed it from a network and put it back
            self._end_life("was given another address")
            self.life = Life(state, endpoint)
        self.up = True
        logger.info("container %r answers at %s (%s)", self._container.id, endpoint.url, state.name)
        self._notify()

    def _is_down(self, why: str) -> None:
        self.why = why
        if self.up:
            self.up = False
            self._notify()

    def _end_life(self, ending: str) -> None:
        life, self.life = self.life, None
        if life is not None:
            life.end(ending)
