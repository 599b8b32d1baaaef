"""The observer `acme`: writes a line of JSON to a file for each job that has ended.

The node emits events while it runs jobs, so an observer must not wait for a disk or a network. This one puts lines into
a channel, and a background task, which lives as long as the node, writes them.

Where to go on: `StepFinished` is emitted for each step. To send lines elsewhere, open the connection where the file is
opened. Events are emitted at most once. Code that must not miss a job reads the jobs from the node (`node.find`,
`node.fetch`).
"""

from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from io import FileIO
from pathlib import Path
from typing import Annotated, Any

import anyio
import anyio.to_thread
import msgspec
from anyio.streams.memory import MemoryObjectReceiveStream, MemoryObjectSendStream

from nodekit import (
    CompositionError,
    Event,
    HasLifespan,
    Job,
    JobFinished,
    Node,
    NodeFile,
    Observes,
    Problem,
    Provider,
    ReportsProblems,
    counted,
)

__all__ = ["AcmeConfig", "AcmeObserver", "provider"]


class AcmeConfig(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """The table of the observer in a node file.

    - `path`: The file, relative to the node file; lines are added at its end. Its folder must exist.
    - `max_waiting`: Maximum number of lines that wait to be written. Further lines are dropped, and `/health` says so.
    """

    path: Path
    max_waiting: Annotated[int, msgspec.Meta(ge=1)] = 10_000


class AcmeObserver(HasLifespan, Observes, ReportsProblems):
    """An observer of jobs that have ended. It never holds them up."""

    def __init__(self, config: AcmeConfig) -> None:
        self._config = config
        self._lines: MemoryObjectSendStream[bytes] | None = None
        self._dropped = 0

    @asynccontextmanager
    async def nodekit_lifespan(self, node: Node) -> AsyncIterator[None]:
        """Open the file before the first job runs, and close it after the last one."""
        failure: Exception | None = None
        with await anyio.to_thread.run_sync(FileIO, self._config.path, "ab") as file:
            self._lines, lines = anyio.create_memory_object_stream[bytes](self._config.max_waiting)
            async with anyio.create_task_group() as tasks:
                tasks.start_soon(self._write, file, lines)
                try:
                    yield
                except Exception as error:  # the node's error: raise it as it is, not in an ExceptionGroup
                    failure = error
                finally:
                    self._lines.close()  # the task ends when it has written the waiting lines
        if failure is not None:
            raise failure

    def nodekit_observe(self, event: Event, node: Node) -> None:
        if isinstance(event, JobFinished) and self._lines is not None:
            try:
                self._lines.send_nowait(_line(event.job))
            except anyio.WouldBlock:
                self._dropped += 1

    def nodekit_problems(self, node: Node) -> Sequence[str]:
        return (
            [f"{counted(self._dropped, 'line', 'was', 'were')} not written to {self._config.path}"]
            if self._dropped
            else []
        )

    async def _write(self, file: FileIO, lines: MemoryObjectReceiveStream[bytes]) -> None:
        async with lines:
            async for line in lines:
                try:
                    await anyio.to_thread.run_sync(file.write, line)
                except OSError:  # a full disk must not end the node
                    self._dropped += 1


def _line(job: Job) -> bytes:
    """Encode a job without payloads, because the data of clients does not belong into a log."""
    ended: dict[str, Any] = {
        "id": job.id,
        "client": job.client,
        "status": job.status,
        "containers": [step.container for step in job.steps],
        "seconds": round((job.finished_at or job.accepted_at) - job.accepted_at, 6),
    }
    return msgspec.json.encode(ended) + b"\n"


def from_config(config: AcmeConfig, file: NodeFile) -> AcmeObserver:
    """Build the observer of a node file. Report mistakes here, before the node starts, but acquire nothing."""
    if not config.path.parent.is_dir():
        raise CompositionError(Problem("path", f"there is no folder {config.path.parent}; make it first"))
    return AcmeObserver(config)


provider = Provider(AcmeConfig, from_config)
