"""The protocol between a client and the engine's server: JSON in frames, with the types of the engine's methods.

A frame is its length in four bytes, most significant first, and then JSON. A client sends `Request`s and the server
`Answer`s, in any order. The types of arguments and results are those of the methods that are called, so a call over
the wire gives what a call in the same process gives.
"""

import inspect
import struct
from collections.abc import Callable, Sequence
from typing import Any, get_type_hints

import anyio
import msgspec
from anyio.abc import ByteStream
from anyio.streams.buffered import BufferedByteReceiveStream
from msgspec.structs import replace

from nodekit import (
    ClaimLost,
    EmbeddedStore,
    InvalidRecord,
    Job,
    JobFields,
    NodekitError,
    PluginStorage,
    StoreFailed,
    StoreInUse,
    VersionConflict,
)
from nodekit.testing.shared_store.engine import Engine

MAX_FRAME_BYTES = 64 << 20
BROKEN = (OSError, EOFError, anyio.BrokenResourceError, anyio.ClosedResourceError, anyio.EndOfStream)
"""Errors of a connection that is gone."""
LOST = 0
"""Id of an answer that nobody asked for: it has the token of a claim that was lost."""
CANCEL = "cancel"
"""Method that takes back the call with the id of its request. It has no answer."""
WRITES = {"add", "add_claimed", "save", "release", "settle", "delete", "expire", "put", "batch"}
"""Calls that write jobs or records."""

_HEADER = struct.Struct(">I")
_OF_ENGINE = ("resume", "leave", "renew", "give_back", "claim", "add_claimed", "save", "release", "settle", "relay")
_OF_CLUSTER = ("announce", "nodes", "now", "held", "queues")
_OF_STORE = ("add", "get", "find", "sizes", "steps", "delete", "expire", "pending")
_OF_RECORDS = ("get", "put", "delete", "scan", "batch")
_SUPPLIED = {"self", "number", "ticket", "lose", "begun", "put"}
"""Parameters that the server sets. A session is named `number` where the server sets it, as that of the connection, and
`session` where the client sends it: it has no connection yet, or leaves over another one."""


class ProtocolError(NodekitError):
    """The other side sent something that is not of this protocol. The connection ends."""


class Request(msgspec.Struct, array_like=True, frozen=True):
    """A call. `namespace` is not empty for calls of records."""

    id: int
    method: str
    arguments: msgspec.Raw = msgspec.Raw(b"{}")
    namespace: str = ""


class Failure(msgspec.Struct, array_like=True, frozen=True):
    """An error, by the name of its class, with its text and its attributes."""

    kind: str
    text: str
    facts: dict[str, Any] = {}


class Answer(msgspec.Struct, array_like=True, frozen=True):
    """The result of a call, or its error. A call of `relay` is answered again with each change."""

    id: int
    value: msgspec.Raw = msgspec.Raw(b"null")
    failure: Failure | None = None


# -- errors -------------------------------------------------------------------------------------------

_ERRORS = {error.__name__: error for error in (ClaimLost, InvalidRecord, NodekitError, StoreFailed, StoreInUse)}


def failure_of(error: Exception) -> Failure:
    if isinstance(error, VersionConflict):
        return Failure("VersionConflict", str(error), vars(error))
    if type(error).__name__ in _ERRORS:
        return Failure(type(error).__name__, str(error))
    return Failure("StoreFailed", f"the engine failed: {error!r}")


def error_of(failure: Failure) -> Exception:
    if failure.kind == "VersionConflict":
        return VersionConflict(**failure.facts)
    return _ERRORS.get(failure.kind, StoreFailed)(failure.text)


# -- calls --------------------------------------------------------------------------------------------


class Method:
    """The types of a method's arguments and of its result."""

    def __init__(self, function: Callable[..., Any]) -> None:
        hints = get_type_hints(function)
        result = hints.pop("return")
        fields: list[Any] = []
        for name, parameter in inspect.signature(function).parameters.items():
            if name not in _SUPPLIED:
                default = () if parameter.default is parameter.empty else (parameter.default,)
                fields.append((name, hints[name], *default))
        arguments = msgspec.defstruct(function.__name__, fields, kw_only=True, forbid_unknown_fields=True)
        self._arguments = msgspec.json.Decoder(arguments)
        self._result = msgspec.json.Decoder(result)

    def arguments(self, encoded: msgspec.Raw) -> dict[str, Any]:
        """Decode arguments. Raise `msgspec.DecodeError` if they are not the method's."""
        decoded = self._arguments.decode(encoded)
        return {name: getattr(decoded, name) for name in decoded.__struct_fields__}

    def result(self, encoded: msgspec.Raw) -> Any:
        return self._result.decode(encoded)


METHODS = {
    **{name: Method(getattr(Engine, name)) for name in (*_OF_ENGINE, *_OF_CLUSTER)},
    **{name: Method(getattr(EmbeddedStore, name)) for name in _OF_STORE},
}
OF_RECORDS = {name: Method(getattr(PluginStorage, name)) for name in _OF_RECORDS}


def method_of(name: str, namespace: str) -> Method:
    """Return a method. Raise `ProtocolError` if there is none of this name."""
    method = (OF_RECORDS if namespace else METHODS).get(name)
    if method is None:
        raise ProtocolError(f"there is no method {name!r}")
    return method


def whole(jobs: Sequence[Job]) -> list[Job]:
    """Return jobs in a form that can be encoded: data that were not read are null, for JSON cannot leave a gap."""
    return [job if bytes(job.request.data) else _with_data(job, b"null") for job in jobs]


def parts(jobs: Sequence[Job], fields: JobFields) -> list[Job]:
    """Return the jobs again as `whole` was given them."""
    if JobFields.REQUEST in fields:
        return list(jobs)
    return [_with_data(job, b"") if bytes(job.request.data) == b"null" else job for job in jobs]


def _with_data(job: Job, data: bytes) -> Job:
    return replace(job, request=replace(job.request, data=msgspec.Raw(data)))


# -- frames -------------------------------------------------------------------------------------------

encode = msgspec.json.Encoder(order="deterministic").encode  # sets in an order that does not depend on the process
decode_request = msgspec.json.Decoder(Request).decode
decode_answer = msgspec.json.Decoder(Answer).decode


def raw(value: Any) -> msgspec.Raw:
    """Encode a value as a part of a frame."""
    return msgspec.Raw(encode(value))


class Frames:
    """The frames of a connection. Sending and receiving may overlap, but not with themselves."""

    def __init__(self, stream: ByteStream) -> None:
        self._stream = stream
        self._incoming = BufferedByteReceiveStream(stream)

    async def receive(self) -> bytes:
        """Wait for a frame. Raise `ProtocolError` if it is too large, and one of `BROKEN`."""
        try:
            (size,) = _HEADER.unpack(await self._incoming.receive_exactly(_HEADER.size))
            if size > MAX_FRAME_BYTES:
                raise ProtocolError(f"a frame of {size} bytes is larger than {MAX_FRAME_BYTES}")
            return await self._incoming.receive_exactly(size) if size else b""
        except anyio.IncompleteRead as error:
            raise EOFError("the connection was closed") from error

    async def send(self, frame: bytes) -> None:
        """Send a frame. If this is cancelled, the connection is of no use any more."""
        await self._stream.send(_HEADER.pack(len(frame)) + frame)
