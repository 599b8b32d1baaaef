"""The runner `acme`: each container is a command of this machine.

The command reads a step's data as JSON on standard input, and prints the output. If the job streams, the output's bytes
are passed on as they come. A process is started for each step.

Where to go on: open a resource that stays up between steps (a connection, a server, a model) in `__aenter__`, and close
it in `__aexit__`. If containers may come and go meanwhile, report that by `running`, `changed` and `problems`.
"""

import subprocess
from collections.abc import AsyncGenerator, AsyncIterator, Collection, Mapping, Sequence
from contextlib import aclosing, asynccontextmanager
from tempfile import TemporaryFile
from types import TracebackType
from typing import Annotated, Self

import anyio
import msgspec
from anyio.abc import Process

from nodekit import (
    Container,
    ContainerFailed,
    ContainerId,
    ContainerOutput,
    InvalidPayload,
    NodeFile,
    Provider,
    Step,
    counted,
    parse_json,
)

__all__ = ["AcmeConfig", "AcmeEntry", "AcmeRunner", "provider"]


class AcmeEntry(Container, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """A container's table in a node file. `Container` has the keys that all share, such as `timeout_seconds`.

    - `command`: The program and its arguments; no shell is involved.
    """

    command: Annotated[tuple[str, ...], msgspec.Meta(min_length=1)]


class AcmeConfig(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """The table of the runner in a node file.

    - `max_output_bytes`: Maximum size of a command's output, in bytes. Streams have no limit, because they are read
      only as fast as their reader takes them.
    """

    containers: tuple[AcmeEntry, ...] = ()
    max_output_bytes: Annotated[int, msgspec.Meta(ge=1)] = 64 * 1024 * 1024


class AcmeRunner:
    """A runner that starts a command for each step. The method `stream` is optional for a runner."""

    def __init__(self, config: AcmeConfig) -> None:
        self._config = config
        self._entries = {entry.id: entry for entry in config.containers}
        self._decoder = msgspec.json.Decoder(msgspec.Raw)  # checks an output, and passes it on byte for byte

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        return None

    @property
    def containers(self) -> Mapping[ContainerId, Container]:
        return self._entries

    def running(self) -> Collection[ContainerId]:
        return self._entries.keys()

    async def changed(self) -> None:
        await anyio.sleep_forever()  # the set of running containers never changes

    def problems(self) -> Sequence[str]:
        return []

    async def run(self, step: Step) -> ContainerOutput:
        printed = bytearray()
        async with self.stream(step) as pieces:
            async for piece in pieces:
                printed += piece
                if len(printed) > self._config.max_output_bytes:
                    text = f"it printed more than {counted(self._config.max_output_bytes, 'byte')}"
                    raise ContainerFailed("too_large", text)
        try:
            output = await parse_json(bytes(printed), self._decoder)
        except InvalidPayload as error:
            raise ContainerFailed("not_json", f"what it printed is {error}") from error
        return ContainerOutput(container=step.container, output=output, instance="local")

    @asynccontextmanager
    async def stream(self, step: Step) -> AsyncIterator[AsyncIterator[bytes]]:
        with TemporaryFile() as data:  # not a pipe, which must be fed while the output is read
            data.write(bytes(step.input.data))
            data.seek(0)
            command = self._entries[step.container].command
            process: Process | None = None
            try:
                with anyio.CancelScope(shield=True):  # cancelled in the middle, it would leave the process behind
                    process = await anyio.open_process(command, stdin=data, stderr=subprocess.DEVNULL)
            except OSError as error:
                raise ContainerFailed("connection", f"cannot start {command[0]}: {error.strerror}") from error
            assert process
            async with process, aclosing(_pieces(process)) as pieces:
                try:
                    yield pieces
                finally:
                    if process.returncode is None:  # given up: the node cancels calls that take too long
                        process.kill()


async def _pieces(process: Process) -> AsyncGenerator[bytes, None]:
    assert process.stdout
    async for piece in process.stdout:
        yield piece
    if code := await process.wait():
        raise ContainerFailed("status", f"the command exited with code {code}")


def from_config(config: AcmeConfig, file: NodeFile) -> AcmeRunner:
    """Build the runner of a node file. Acquire nothing here: resources are opened when the node starts."""
    return AcmeRunner(config)


provider = Provider(AcmeConfig, from_config, container=AcmeEntry)
