"""The output of a streaming job on its way from the container to the client, and the part of it that is stored."""

import codecs
from base64 import b64encode
from collections.abc import Callable
from typing import Any, Self

import anyio
import msgspec

from nodekit.errors import NodekitError
from nodekit.model.container import ContainerOutput
from nodekit.model.job import Job, JobStatus
from nodekit.model.payload import encode_payload

MOST_KEPT_BYTES = 1 << 20


class StreamBroken(NodekitError):
    """Raised when a stream ends before its job has succeeded. The pieces read so far are not a whole answer.

    `job` gives the reason if it is finished. It is unfinished if the stream was cancelled or its node stops.
    """

    def __init__(self, job: Job) -> None:
        self.job = job
        super().__init__(f"the stream of job {job.id} broke off; the job's result says why")


class JobStream:
    """The bytes of a job's last container, one piece at a time as they arrive. A slow reader slows the container down.

    The job runs once the first piece is requested. If no step streamed, the last output comes in one piece. Iteration
    ends when the job has succeeded and its result is stored; it raises `StreamBroken` if the job ended in any other
    way.
    """

    def __init__(self, job: Job) -> None:
        self.job = job
        """The job as it was accepted, and its final state once there are no more pieces."""
        self._sender, self._receiver = anyio.create_memory_object_stream[bytes](0)
        self._wanted = anyio.Event()
        self._answered = anyio.Event()
        self._error: Exception | None = None
        self._whole = b""
        self._has_left = False
        self._when_left: Callable[[], None] | None = None
        self._when_read: Callable[[], None] = _nothing

    def __aiter__(self) -> Self:
        return self

    async def __anext__(self) -> bytes:
        self._wanted.set()
        try:
            return await self._receiver.receive()
        except anyio.EndOfStream:
            if self._whole:
                whole, self._whole = self._whole, b""
                return whole
            if self.job.status is JobStatus.SUCCESS:
                raise StopAsyncIteration from None
            raise StreamBroken(self.job) from None

    def leave(self) -> None:
        """Stop reading."""
        self._has_left = True
        self._whole = b""
        self._receiver.close()
        self._when_read()
        if self._when_left is not None:
            self._when_left()

    # -- the node's side --------------------------------------------------------------------------

    def accept(self) -> None:
        """Report that the job is stored."""
        self._answered.set()

    def refuse(self, error: Exception) -> None:
        """Report that the job is not stored. Does nothing after `accept`."""
        if not self._answered.is_set():
            self._error = error
            self._answered.set()

    async def accepted(self) -> None:
        """Wait until the job is stored. Raise the error that prevented it."""
        await self._answered.wait()
        if self._error is not None:
            raise self._error

    def when_left(self, call: Callable[[], None]) -> None:
        """Set a function to call when the reader leaves. Call it at once if the reader has left already."""
        self._when_left = call
        if self._has_left:
            call()

    def when_read(self, call: Callable[[], None]) -> None:
        """Set a function to call when the reader leaves, which it does after the last piece, too."""
        self._when_read = call
        if self._has_left:
            call()

    async def wanted(self) -> None:
        """Wait until the first piece is requested."""
        await self._wanted.wait()

    async def send(self, piece: bytes) -> None:
        """Hand a piece over; return when it was taken. If the reader has left, `when_left` ends this call."""
        try:
            await self._sender.send(piece)
        except anyio.BrokenResourceError:
            await anyio.sleep_forever()

    def end(self, job: Job, *, streamed: bool = True) -> None:
        """End the stream with the job as it is stored, or as far as it got.

        If no step `streamed`, the result comes as one piece.
        """
        self.job = job
        if not streamed and job.status is JobStatus.SUCCESS and isinstance(job.result, ContainerOutput):
            self._whole = bytes(job.result.output)
        self._sender.close()


def _nothing() -> None:
    """Do nothing: there is nothing to release yet."""


class StreamRecord:
    """Recorder of a stream. The stream passes at its full length; the record keeps a limited part of it.

    A UTF-8 stream is recorded as ``{"output": text}``. If the stream has more than `most_bytes`, the beginning is kept
    and ``"truncated": true, "bytes": <total number of bytes>`` is added. Anything but UTF-8 is kept in base64, marked
    by ``"encoding": "base64"``.
    """

    def __init__(self, most_bytes: int = MOST_KEPT_BYTES) -> None:
        self._left = most_bytes
        self._kept: list[bytes] = []
        self.bytes = 0
        """Number of bytes in the whole stream."""

    def add(self, piece: bytes) -> None:
        self.bytes += len(piece)
        if self._left > 0:
            self._kept.append(piece if len(piece) <= self._left else piece[: self._left])
            self._left -= len(self._kept[-1])

    def output(self) -> msgspec.Raw:
        """Return the part of the stream that goes into the job's result."""
        kept = b"".join(self._kept)
        cut = len(kept) < self.bytes
        record: dict[str, Any] = {}
        try:
            record["output"] = codecs.getincrementaldecoder("utf-8")().decode(kept, final=not cut)
        except UnicodeDecodeError:
            record = {"output": b64encode(kept).decode(), "encoding": "base64"}
        if cut:
            record |= {"truncated": True, "bytes": self.bytes}
        return encode_payload(record)
