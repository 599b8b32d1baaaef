"""Payloads: opaque JSON that is checked once, where it comes in, and then carried as it is.

`data` of a request and `output` of a container travel as `msgspec.Raw`, so the digits of numbers and duplicate keys
survive. A payload is decoded only where its value is needed.
"""

from typing import Any, Protocol, TypeVar

import anyio.lowlevel
import msgspec

from nodekit.errors import InvalidPayload

T = TypeVar("T")
T_co = TypeVar("T_co", covariant=True)

MAX_DEPTH = 128
_CHUNK_BYTES = 1 << 16
_NOT_BRACKETS = bytes(c for c in range(256) if c not in b"[]{}")


def encode_payload(value: Any) -> msgspec.Raw:
    """Return the payload of a Python value. NaN and infinities become null.

    Raise `InvalidPayload` for what JSON cannot hold.
    """
    try:
        return msgspec.Raw(msgspec.json.encode(value))
    except (TypeError, ValueError, msgspec.MsgspecError, RecursionError) as error:
        raise InvalidPayload(f"not JSON: {error}") from error


def decode_payload(payload: msgspec.Raw) -> Any:
    """Return the Python value of a payload that was checked before.

    Raise `msgspec.ValidationError` if it has a number that Python cannot hold: a float beyond 1.8e308, or an integer of
    more than 4300 digits. Such numbers are JSON, and pass unchanged from client to container.
    """
    return msgspec.json.decode(payload)


async def check_payload(payload: msgspec.Raw) -> None:
    """Check a payload that code of others has made, as `parse_json` checks bytes. Raise `InvalidPayload`."""
    await parse_json(bytes(payload), _raw)


_raw = msgspec.json.Decoder(msgspec.Raw)


class Decoder(Protocol[T_co]):
    """A decoder of JSON, such as `msgspec.json.Decoder`."""

    def decode(self, body: Any, /) -> T_co: ...


async def parse_json(body: bytes | bytearray, decoder: Decoder[T], *, max_depth: int = MAX_DEPTH) -> T:
    """Check bytes from outside completely (UTF-8, strict JSON without NaN, at most `max_depth` deep) and decode them.

    `msgspec.Raw` in the decoder's type is checked too, without being built. Raise `msgspec.ValidationError` for wrong
    types, `InvalidPayload` for everything else. A large body is checked in pieces, with pauses for the event loop.
    """
    if not body.isascii():
        _check_utf8(body)
    if body.count(b"[") + body.count(b"{") > max_depth:
        await _check_depth(body, max_depth)
    try:
        return decoder.decode(body)
    except msgspec.ValidationError:
        raise
    except RecursionError as error:
        raise InvalidPayload("nested too deep") from error
    except (msgspec.DecodeError, UnicodeDecodeError) as error:
        raise InvalidPayload(f"not JSON: {_reason(error)}" if body.strip() else "empty") from error


def _check_utf8(body: bytes | bytearray) -> None:
    try:
        body.decode()
    except UnicodeDecodeError as error:
        raise InvalidPayload(f"not UTF-8: invalid byte at position {error.start}") from error


async def _check_depth(body: bytes | bytearray, max_depth: int) -> None:
    """Count nesting outside strings, in pieces: constant memory, and no long block of the event loop."""
    depth, in_string, carry = 0, False, b""
    for start in range(0, len(body), _CHUNK_BYTES):
        chunk = carry + body[start : start + _CHUNK_BYTES]
        carry = b""
        if (len(chunk) - len(chunk.rstrip(b"\\"))) % 2:  # an escape cut in two
            chunk, carry = chunk[:-1], b"\\"
        pieces = chunk.replace(b"\\\\", b"").replace(b'\\"', b"").split(b'"')
        outside = b"".join(pieces[1 if in_string else 0 :: 2])
        in_string ^= (len(pieces) - 1) % 2 == 1
        for bracket in outside.translate(None, _NOT_BRACKETS):
            depth += 1 if bracket in b"[{" else -1
            if depth > max_depth:
                raise InvalidPayload(f"nested more than {max_depth} deep")
        await anyio.lowlevel.checkpoint()


def _reason(error: Exception) -> str:
    text = str(error).removeprefix("JSON is malformed: ")
    cut = "a number or text is cut short, or a text has half of a surrogate pair"
    return cut if text == "Input data was truncated" else text
