"""The observer `acme`: writes a line of JSON for each job that has ended to a file.

A node tells it of events while it runs jobs, so that it must not wait for a disk or a network. Hence it puts lines into
a channel, and a task that lives as long as the node writes them.

Where to go on: `StepFinished` tells of each step. What is sent elsewhere instead of to a file is opened where the file
is. Events are told at most once; who must not miss one reads the jobs from the node (`node.find`, `node.fetch`).
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

from nodekit import CompositionError, Event, Job, JobFinished, Node, NodeFile, Offer, Problem

__all__ = ["AcmeConfig", "AcmeObserver", "offer"]


class AcmeConfig(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """The table of the observer in a node file."""

    path: Path
    """The file, relative to the node file; lines are added at its end. Its folder must be there."""
    max_waiting: Annotated[int, msgspec.Meta(ge=1)] = 10_000
    """How many lines may wait to be written; beyond it, lines are dropped, and `/health` says so."""


class AcmeObserver:
    """Notices what has ended, and never holds it up."""

    def __init__(self, config: AcmeConfig) -> None:
        self._config = config
        self._lines: MemoryObjectSendStream[bytes] | None = None
        self._dropped = 0

    @asynccontextmanager
    async def nodekit_lifespan(self, node: Node) -> AsyncIterator[None]:
        """Entered before the first job is run, left after the last one."""
        failure: Exception | None = None
        with await anyio.to_thread.run_sync(FileIO, self._config.path, "ab") as file:
            self._lines, lines = anyio.create_memory_object_stream[bytes](self._config.max_waiting)
            async with anyio.create_task_group() as tasks:
                tasks.start_soon(self._write, file, lines)
                try:
                    yield
                except Exception as error:  # of the node: it goes on as it is, not in a group of errors
                    failure = error
                finally:
                    self._lines.close()  # the task ends when it has written what waits
        if failure is not None:
            raise failure

    def nodekit_observe(self, event: Event) -> None:
        if isinstance(event, JobFinished) and self._lines is not None:
            try:
                self._lines.send_nowait(_line(event.job))
            except anyio.WouldBlock:
                self._dropped += 1

    def nodekit_problems(self) -> Sequence[str]:
        return [f"{self._dropped} lines were not written to {self._config.path}"] if self._dropped else []

    async def _write(self, file: FileIO, lines: MemoryObjectReceiveStream[bytes]) -> None:
        async with lines:
            async for line in lines:
                try:
                    await anyio.to_thread.run_sync(file.write, line)
                except OSError:  # a full disk must not end the node
                    self._dropped += 1


def _line(job: Job) -> bytes:
    """No payload is in it: what clients send and get is not the log's business."""
    ended: dict[str, Any] = {
        "id": job.id,
        "client": job.client,
        "status": job.status,
        "containers": [step.container for step in job.steps],
        "seconds": round((job.finished_at or job.accepted_at) - job.accepted_at, 6),
    }
    return msgspec.json.encode(ended) + b"\n"


def from_config(config: AcmeConfig, file: NodeFile) -> AcmeObserver:
    """What can be found to be wrong without acquiring anything is said here, before the node starts."""
    if not config.path.parent.is_dir():
        raise CompositionError(Problem("path", f"there is no folder {config.path.parent}; make it first"))
    return AcmeObserver(config)


offer = Offer(AcmeConfig, from_config)
