"""Request headers that apply to a job. Malformed ones are ignored if their RFC demands that."""

import re
from collections.abc import Mapping, Sequence
from functools import lru_cache

from nodekit_asgi.http.messages import HttpError, Request

DEFAULT_URGENCY = 3
"""The default urgency of RFC 9218 and of a JobRequest."""

LONGEST_HINT_BYTES = 4096
"""Limit of Prefer and Priority. Longer ones are not honest requests, and are ignored."""

_KEY = re.compile(rb"[\x21-\x7e]{1,255}")


def idempotency_key(request: Request) -> str | None:
    """Return the key unchanged. Raise `HttpError` for a key that might not be recognised when it is sent again."""
    if not (values := request.values(b"idempotency-key")):
        return None
    if len(values) > 1 or not _KEY.fullmatch(values[0]):
        raise HttpError(400, "Idempotency-Key: expected one key of 1 to 255 visible ASCII characters")
    return values[0].decode("ascii")


def wait_seconds(request: Request) -> int | None:
    """Return the seconds of ``Prefer: wait=N``, at most `max_wait_seconds`. Return None without that preference."""
    if b"prefer" not in request.headers:
        return None
    text = _known_preferences(tuple(_hints(request, b"prefer"))).get("wait", "")
    if not text.isascii() or not text.isdecimal():
        return None
    return min(int(text.lstrip("0")[:9] or "0"), request.limits.max_wait_seconds)


def urgency(request: Request) -> int:
    """Return the ``u`` of the Priority header, or `DEFAULT_URGENCY` if it is missing or invalid."""
    found = asked_urgency(request)
    return DEFAULT_URGENCY if found is None else found


def asked_urgency(request: Request) -> int | None:
    """Return the ``u`` of the Priority header. Return None if it is missing or invalid."""
    if b"priority" not in request.headers:
        return None
    lines = [line.decode("latin-1") for line in _hints(request, b"priority") if line]
    text = (dictionary(", ".join(lines)) or {}).get("u") or ""
    found = int(text) if _INTEGER.fullmatch(text) else -1
    return found if 0 <= found <= 7 else None


def _hints(request: Request, name: bytes) -> Sequence[bytes]:
    lines = request.values(name)
    return lines if sum(map(len, lines)) <= LONGEST_HINT_BYTES else ()


# -- Prefer, RFC 7240 -------------------------------------------------------------------------------

_WORD = r"[!#$%&'*+.^_`|~0-9A-Za-z-]++"
_PAIR = re.compile(rf'({_WORD})(?:[ \t]*+=[ \t]*+({_WORD}|"(?:[^"\\]|\\.)*+")?)?')


def preferences(lines: Sequence[bytes]) -> Mapping[str, str]:
    """Return the value of each preference by its lower-case name.

    If a preference is repeated, its first value counts. Malformed ones are left out.
    """
    found: dict[str, str] = {}
    for line in lines:
        for element in split(line.decode("latin-1"), ","):
            preference, *parameters = (part.strip(" \t") for part in split(element, ";"))
            pair = _PAIR.fullmatch(preference)
            if pair and all(_PAIR.fullmatch(parameter) for parameter in parameters if parameter):
                found.setdefault(pair[1].lower(), unquoted(pair[2] or ""))
    return found


_known_preferences = lru_cache(64)(preferences)
"""The same for lines that clients send again and again."""


def split(text: str, separator: str) -> list[str]:
    """Split at separators outside quoted strings, in one pass because a client may send a long text.

    Return an empty list if a quoted string is not closed.
    """
    pieces: list[str] = []
    start, quoted, escaped = 0, False, False
    for position, character in enumerate(text):
        if escaped:
            escaped = False
        elif character == '"':
            quoted = not quoted
        elif quoted:
            escaped = character == "\\"
        elif character == separator:
            pieces.append(text[start:position])
            start = position + 1
    return [] if quoted else [*pieces, text[start:]]


def unquoted(text: str) -> str:
    return re.sub(r"\\(.)", r"\1", text[1:-1]) if text.startswith('"') else text


# -- Priority, a dictionary of structured fields, RFC 8941 ------------------------------------------

_INTEGER = re.compile(r"-?[0-9]{1,15}")
_NAME = r"[a-z*][a-z0-9_.*-]*+"
_BARE = (
    r"(?:-?[0-9]{1,12}\.[0-9]{1,3}|-?[0-9]{1,15}"  # a decimal, an integer
    r'|"(?:[ !#-\[\]-~]|\\["\\])*+"'  # a string
    r"|[A-Za-z*][!#$%&'*+.^_`|~0-9A-Za-z:/-]*+"  # a token
    r"|:[A-Za-z0-9+/=]*+:|\?[01])"  # bytes, a boolean
)
_PARAMETERS = rf"(?:; *+{_NAME}(?:={_BARE})?)*+"
_LIST = rf"\((?: *+{_BARE}{_PARAMETERS}(?=[ )]))*+ *+\)"
_MEMBER = re.compile(rf"({_NAME})(?:=({_LIST}|{_BARE}))?{_PARAMETERS}")
_COMMA = re.compile(r"[ \t]*+,[ \t]*+(?=.)")


def dictionary(text: str) -> Mapping[str, str | None] | None:
    """Return the members as written, without their parameters. Return None if any of them is malformed."""
    text = text.strip(" ")
    members: dict[str, str | None] = {}
    position = 0
    while position < len(text):
        if (comma := _COMMA.match(text, position)) is None and members:
            return None
        position = comma.end() if comma and members else position
        if (member := _MEMBER.match(text, position)) is None:
            return None
        members[member[1]] = member[2]
        position = member.end()
    return members
