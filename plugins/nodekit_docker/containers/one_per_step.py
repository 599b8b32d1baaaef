"""One program that is kept ready: its image is pulled, and each step runs in a container of its own."""

import logging
import os
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager

import anyio
import msgspec
from anyio.abc import TaskGroup, TaskStatus
from msgspec.structs import replace

from nodekit import (
    MAX_DEPTH,
    ContainerFailed,
    ContainerOutput,
    InvalidPayload,
    NotStarted,
    Step,
    counted,
    parse_json,
    printable,
)
from nodekit_docker.config import DockerContainer
from nodekit_docker.containers.making import Workshop
from nodekit_docker.containers.output import Printed
from nodekit_docker.containers.program import Program, TooLarge
from nodekit_docker.containers.spec import explained
from nodekit_docker.containers.state import State
from nodekit_docker.engine.engine import shown_lines
from nodekit_docker.engine.errors import EngineGone, EngineRefused, NameTaken, NotUp
from nodekit_docker.engine.presence import Presence
from nodekit_remote import ContainerLog, StartProgress, Streamed, restart_pause, text_for_clients

logger = logging.getLogger("nodekit.docker")

LINES_IN_LOG = 20
NO_TLS = 'a program with mode = "once" needs an engine\'s socket without TLS: unix:///path'
SHOWN_BYTES = 500
"""Number of bytes of an unexpected output that the log shows, and an error if clients may see it."""

_raw: msgspec.json.Decoder[msgspec.Raw] = msgspec.json.Decoder(msgspec.Raw)


def bounded(container: DockerContainer) -> DockerContainer:
    """Limit a program without a `concurrency` to as many steps at once as there are processors.

    A program is assumed to keep one processor busy.
    """
    if not container.once or container.concurrency is not None:
        return container
    return replace(container, concurrency=os.cpu_count() or 1)


class Once:
    """The program of one entry of the node file. It calls `notify` whenever it goes up or down."""

    def __init__(
        self, container: DockerContainer, workshop: Workshop, presence: Presence, notify: Callable[[], None]
    ) -> None:
        self.id = ""
        """Always empty: no container is kept up."""
        self._container = container
        self._workshop = workshop
        self._presence = presence
        self._notify = notify
        self._log = ContainerLog(container)
        self._why = "was not started yet"
        """The reason why no container of it can be made; empty if one can."""
        self._woken = anyio.Event()
        self._programs: set[str] = set()
        """Names of the containers that run now."""
        self._tasks: TaskGroup | None = None

    @property
    def up(self) -> bool:
        """True while its image is there and the engine answers."""
        return not self._why and not self._presence.trouble

    def problem(self) -> str | None:
        """Say why it cannot be run. Return None while it is up."""
        return None if self.up else f"container {self._container.id!r} is down: {self._why or self._presence.trouble}"

    def waits_for(self) -> str:
        """Return what making it ready waits for right now."""
        return self._presence.trouble or f"its image {self._container.image}"

    def look(self) -> None:
        """Look again: the engine may be gone, or back."""
        self._woken.set()
        self._notify()

    # -- staying ready ----------------------------------------------------------------------------

    async def run(self, *, task_status: "TaskStatus[None]") -> None:
        """Keep it ready until cancelled. Raise `NotStarted` if it is required and is not ready the first time."""
        required = self._container.required
        if not required:
            task_status.started()
        if not await self._readied() and required:
            raise NotStarted(self._container.id, self._why)
        async with anyio.create_task_group() as tasks:
            self._tasks = tasks
            try:
                if required:
                    task_status.started()
                await self._stay_ready()
            finally:
                self._tasks = None  # from here on, the runner removes containers when it is left

    async def _stay_ready(self) -> None:
        pause = 0.0
        while True:
            if not self._why:
                pause = 0.0
                await self._woken.wait()
            else:
                pause = restart_pause(pause, 0.0)
                logger.warning("container %r: %s; it is looked at again in %g s", self._container.id, self._why, pause)
                await anyio.sleep(pause)
            await self._presence.here()
            await self._readied()

    async def _readied(self) -> bool:
        """Pull its image and remove containers that an earlier run or a lost engine left. Return True on success."""
        self._woken = anyio.Event()
        why = ""
        try:
            if self._workshop.engine.place.tls:
                raise NotUp(NO_TLS)
            with StartProgress(logger, self._container.id, self.waits_for):
                await self._workshop.images.ready(self._container)
            await self._workshop.remove_programs(self._container, but=self._programs)
        except EngineGone as error:
            self._presence.is_gone(str(error))
            why = str(error)
        except (NotUp, NameTaken, EngineRefused) as error:
            why = str(error)
        except Exception:  # a bug must not stop the other containers
            logger.exception("container %r: keeping it ready failed", self._container.id)
            why = "internal error of the runner; the log has it"
        if why != self._why:
            self._why = why
            self._notify()
        return not why

    # -- calls ------------------------------------------------------------------------------------

    instance = ""
    """Each step has a container of its own, whose name is not known before it is made."""

    async def call(self, step: Step) -> ContainerOutput:
        """Run a step in a container of its own. Raises `ContainerFailed`.

        The container is killed and removed however the call ends, also if it is cancelled. The call does not wait for
        that.
        """
        if not self.up:
            raise ContainerFailed("connection", f"the container is not running: {self._why or self._presence.trouble}")
        program: Program | None = None
        try:
            program = await self._workshop.program(self._container, step)
            self._programs.add(program.name)
            return await self._output(step, program)
        except NotUp as error:
            raise ContainerFailed("died", f"the container could not be run: {error}") from error
        except EngineGone as error:
            self._presence.is_gone(str(error))
            raise ContainerFailed("connection", f"the Docker engine does not answer: {error}") from error
        except EngineRefused as error:
            raise self._not_run(error) from error
        finally:
            if program is not None:
                self._give_up(program)

    def _give_up(self, program: Program) -> None:
        program.give_up()
        if self._tasks is not None:
            self._tasks.start_soon(self._remove, program)

    @asynccontextmanager
    async def stream(self, step: Step) -> AsyncIterator[Streamed]:
        """Run a step as `call` does, and give the output in one piece: only its end shows that it is whole JSON."""
        output = await self.call(step)
        yield Streamed(_whole(bytes(output.output)), output.instance)

    async def resources(self, model_id: str | None) -> msgspec.Raw | None:
        """Return None: there is no container to ask."""
        return None

    async def _output(self, step: Step, program: Program) -> ContainerOutput:
        most = self._container.max_reply_bytes
        try:
            printed = await program.run(bytes(step.input.data), most)
        except TooLarge as error:
            raise ContainerFailed(
                "too_large", f"the reply is larger than {counted(most, 'byte')}; it was killed"
            ) from error
        if printed.exit_code:
            raise await self._fault(program, printed)
        try:
            output = await parse_json(printed.output, _raw, max_depth=MAX_DEPTH)
        except InvalidPayload as error:
            text, beginning = f"the reply is {error}", _start_of(printed.output)
            lines = self._said(printed)
            self._log.add([printable(f"{text}{beginning}")])
            text += beginning if self._container.output_in_errors else ""
            raise ContainerFailed("not_json", self._text(text, lines)) from error
        return ContainerOutput(container=step.container, output=output, instance=f"{program.name}:{program.short_id}")

    async def _fault(self, program: Program, printed: Printed) -> ContainerFailed:
        """Return the reason why it failed, in the same words as for containers that are kept up."""
        lines = self._said(printed)
        inspected = await self._workshop.engine.inspect(program.id)
        if inspected is None:
            return ContainerFailed("died", self._text("the container was removed", lines))
        state = State.of(inspected)
        text = self._text(f"the container {state.ending(self._container.memory)}", lines)
        return ContainerFailed("died" if state.error or state.killed_by else "status", text)

    def _said(self, printed: Printed) -> tuple[str, ...]:
        """Return its last lines on standard error, and log them."""
        lines = shown_lines(printed.errors)[-LINES_IN_LOG:]
        self._log.add(lines)
        return lines

    def _text(self, text: str, lines: Sequence[str]) -> str:
        return text_for_clients(self._container, text, lines)

    def _not_run(self, error: EngineRefused) -> ContainerFailed:
        if error.status == 404 and "no such image" in str(error).lower():
            self._why = f"image {self._container.image} is not on this machine any more"
            self.look()
            return ContainerFailed("connection", f"the container is not running: {self._why}")
        return ContainerFailed("died", f"the container could not be run: {explained(str(error))}")

    async def _remove(self, program: Program) -> None:
        """Remove its container by the id: the name may be that of another one, if this one could not be made."""
        try:
            if program.id:
                await self._workshop.engine.remove(program.id)
        except (EngineGone, EngineRefused) as error:  # the next `_readied` removes it
            logger.warning("container %r is left on the engine for now: %s", program.name, error)
        finally:
            self._programs.discard(program.name)


async def _whole(output: bytes) -> AsyncIterator[bytes]:
    yield output


def _start_of(output: bytes) -> str:
    text = " ".join(shown_lines(output[:SHOWN_BYTES])).strip()
    return f": {text}{'…' if len(output) > SHOWN_BYTES else ''}" if text else ""
