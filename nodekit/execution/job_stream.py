"""The answer of a job that streams, on its way from the container to the one who asked, and what is kept of it."""

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
    """A stream ended before its job had succeeded; what came of it is no whole answer.

    `job` says why once it is finished; it is not where it was cancelled, or its node stops.
    """

    def __init__(self, job: Job) -> None:
        self.job = job
        super().__init__(f"the stream of job {job.id} broke off; the job's result says why")


class JobStream:
    """The bytes of a job's last container as they come, one piece at a time: who reads slowly slows the container down.

    The job runs once the first piece is asked for. Where no step streamed, the last output comes in one piece.
    Iterating ends when the job has succeeded and its result is stored; it raises `StreamBroken` where the job ended in
    any other way.
    """

    def __init__(self, job: Job) -> None:
        self.job = job
        """As it was accepted; its end, once there are no more pieces."""
        self._sender, self._receiver = anyio.create_memory_object_stream[bytes](0)
        self._wanted = anyio.Event()
        self._answered = anyio.Event()
        self._error: Exception | None = None
        self._whole = b""
        self._has_left = False
        self._when_left: Callable[[], None] | None = None

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
        """Nobody reads any more."""
        self._has_left = True
        self._receiver.close()
        if self._when_left is not None:
            self._when_left()

    # -- the node's side --------------------------------------------------------------------------

    def accept(self) -> None:
        """The job is kept."""
        self._answered.set()

    def refuse(self, error: Exception) -> None:
        """It is not, unless it was answered before."""
        if not self._answered.is_set():
            self._error = error
            self._answered.set()

    async def accepted(self) -> None:
        """Returns when the job is kept. Raises what was in the way."""
        await self._answered.wait()
        if self._error is not None:
            raise self._error

    def when_left(self, call: Callable[[], None]) -> None:
        """To be called when nobody reads any more; at once, if that is so already."""
        self._when_left = call
        if self._has_left:
            call()

    async def wanted(self) -> None:
        """Returns when the first piece is asked for."""
        await self._wanted.wait()

    async def send(self, piece: bytes) -> None:
        """Hand a piece over; returns when it was taken. Where nobody is left to take it, `when_left` has ended this."""
        try:
            await self._sender.send(piece)
        except anyio.BrokenResourceError:
            await anyio.sleep_forever()

    def end(self, job: Job, *, streamed: bool = True) -> None:
        """No more pieces come; the job is as it is stored, or as far as it got. What no step `streamed` comes whole."""
        self.job = job
        if not streamed and job.status is JobStatus.SUCCESS and isinstance(job.result, ContainerOutput):
            self._whole = bytes(job.result.output)
        self._sender.close()


class StreamRecord:
    """Gathers the pieces of a stream, which passes at its full length whatever is kept.

    Of a stream of UTF-8 `output` is ``{"output": text}``. Of more than `most_bytes`, the beginning is kept and
    ``"truncated": true, "bytes": <all there were>`` is added; what is not UTF-8 is kept in base64, which
    ``"encoding": "base64"`` says.
    """

    def __init__(self, most_bytes: int = MOST_KEPT_BYTES) -> None:
        self._left = most_bytes
        self._kept: list[bytes] = []
        self.bytes = 0
        """How many there were."""

    def add(self, piece: bytes) -> None:
        self.bytes += len(piece)
        if self._left > 0:
            self._kept.append(piece if len(piece) <= self._left else piece[: self._left])
            self._left -= len(self._kept[-1])

    def output(self) -> msgspec.Raw:
        """What a job's result has of it."""
        kept = b"".join(self._kept)
        cut = len(kept) < self.bytes
        told: dict[str, Any] = {}
        try:
            told["output"] = codecs.getincrementaldecoder("utf-8")().decode(kept, final=not cut)
        except UnicodeDecodeError:
            told = {"output": b64encode(kept).decode(), "encoding": "base64"}
        if cut:
            told |= {"truncated": True, "bytes": self.bytes}
        return encode_payload(told)
