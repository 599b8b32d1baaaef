"""Payloads: opaque JSON that is checked once, where it comes in, and then carried as it is.

`data` of a request and `output` of a container travel as `msgspec.Raw`, so the digits of numbers and duplicate keys
survive. A payload is decoded only where its value is needed.
"""

import codecs
import re
from typing import Any, Protocol, TypeVar

import anyio.lowlevel
import msgspec

from nodekit.errors import InvalidPayload

T = TypeVar("T")
T_co = TypeVar("T_co", covariant=True)

MAX_DEPTH = 128
_CHUNK_BYTES = 1 << 16
_MARKS = (
    (codecs.BOM_UTF8, "UTF-8"),
    (codecs.BOM_UTF32_LE, "UTF-32"),  # it begins like that of UTF-16
    (codecs.BOM_UTF32_BE, "UTF-32"),
    (codecs.BOM_UTF16_LE, "UTF-16"),
    (codecs.BOM_UTF16_BE, "UTF-16"),
)
_BYTE = re.compile(r"\(byte (\d+)\)")
_NOT_A_NUMBER = re.compile(rb"-?(?:NaN|Infinity|inf)\b", re.IGNORECASE)
_HALF = re.compile(rb"\\u[dD][89a-fA-F][0-9a-fA-F]{2}")
_FIRST_HALF = re.compile(rb"\\u[dD][89abAB][0-9a-fA-F]{2}")
_FIRST_HALF_AT_END = re.compile(rb"\\u[dD][89abAB][0-9a-fA-F]{2}(?!\\u[dD][c-fC-F][0-9a-fA-F]{2})")
"""Escapes of halves of surrogate pairs."""
_NOT_BRACKETS = bytes(c for c in range(256) if c not in b"[]{}")


def encode_payload(value: Any) -> msgspec.Raw:
    """Return the payload of a Python value. NaN and infinities become null.

    Raise `InvalidPayload` for what JSON cannot hold.
    """
    try:
        return msgspec.Raw(msgspec.json.encode(value))
    except UnicodeEncodeError as error:
        half = error.object[error.start].encode("unicode_escape").decode()
        raise InvalidPayload(f"not JSON: a text has {half}, half of a surrogate pair") from error
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
    if b"\0" in body[:2]:  # the first character of JSON is of ASCII
        raise InvalidPayload("not UTF-8: it looks like UTF-16 or UTF-32; send UTF-8")
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
        raise InvalidPayload(f"not JSON: {_reason(str(error), body)}" if body.strip() else "empty") from error


def _check_utf8(body: bytes | bytearray) -> None:
    for mark, encoding in _MARKS:
        if body.startswith(mark):
            cure = "send it without the mark" if encoding == "UTF-8" else "send UTF-8"
            language = "JSON" if encoding == "UTF-8" else "UTF-8"
            raise InvalidPayload(f"not {language}: it begins with the byte order mark of {encoding}; {cure}")
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


def _reason(text: str, body: bytes | bytearray) -> str:
    """Return what is wrong with a body, from the decoder's text and the place that it names."""
    text = text.removeprefix("JSON is malformed: ")
    found = _BYTE.search(text)
    place = int(found[1]) if found else len(body)
    return _not_a_number(body, place) or _half_of_a_pair(body, place, text) or _cut_short(text)


def _not_a_number(body: bytes | bytearray, place: int) -> str:
    """Return a text about a number that only some other languages have, or an empty one."""
    for start in (place - 1, place) if place < len(body) else (len(body.rstrip()) - len("nan"),):
        if found := _NOT_A_NUMBER.match(body, max(start, 0)):
            return f"{found[0].decode()} is no number in JSON (byte {found.start()}); use null"
    return ""


def _half_of_a_pair(body: bytes | bytearray, place: int, text: str) -> str:
    """Return a text about an escape that is half of a surrogate pair, or an empty one."""
    if "surrogate" in text:  # a first half and another escape, or a second half alone
        found = _FIRST_HALF.match(body, max(0, place - 12)) or _HALF.match(body, max(0, place - 6))
    elif "hex escape" in text:  # a first half, and no escape behind it
        found = _FIRST_HALF.match(body, max(0, place - 6))
    elif "truncated" in text:  # the same, so near to the end that there is no room for an escape
        found = _FIRST_HALF_AT_END.search(body, max(0, place - 12))
    else:
        found = None
    if found is None or _is_escaped(body, found.start()):
        return ""
    return f"{found[0].decode()} is half of a surrogate pair (byte {found.start()})"


def _is_escaped(body: bytes | bytearray, place: int) -> bool:
    """Return True if the backslash there is the second one of an escape."""
    before = body[max(0, place - _CHUNK_BYTES) : place]
    return (len(before) - len(before.rstrip(b"\\"))) % 2 == 1


def _cut_short(text: str) -> str:
    return "a number or text is cut short" if text == "Input data was truncated" else text
