"""The reading of a container's reply: its JSON in whatever encoding, or the reason why it is none. No I/O."""

import codecs
import logging
import math
import re
import time
from collections.abc import Callable
from email.message import Message
from email.utils import parsedate_to_datetime

import msgspec

from nodekit import (
    MAX_DEPTH,
    ContainerFailed,
    ContainerId,
    InvalidPayload,
    counted,
    parse_json,
    printable,
    printable_lines,
    reserve_output,
)
from nodekit_remote._container import HttpContainer
from nodekit_remote._session import ERROR_STATUS, Reply

logger = logging.getLogger("nodekit.calls")

SHOWN_BYTES = 500
"""Maximum size of the part of an unexpected reply that an error or the log shows."""
PAUSE_SECONDS = 1.0
"""Pause between two beginnings of replies of one container in the log."""
SHOWN_CHARACTERS = 200
"""Maximum length of a header's value in an error."""

_REDIRECTS = (301, 302, 303, 307, 308)

_MARKS = (
    (codecs.BOM_UTF8, "utf-8"),
    (codecs.BOM_UTF32_LE, "utf-32-le"),  # it begins like that of UTF-16
    (codecs.BOM_UTF32_BE, "utf-32-be"),
    (codecs.BOM_UTF16_LE, "utf-16-le"),
    (codecs.BOM_UTF16_BE, "utf-16-be"),
)
_NULLS = ((b"\0\0\0.", "utf-32-be"), (b"\0.", "utf-16-be"), (b".\0\0\0", "utf-32-le"), (b".\0", "utf-16-le"))
"""Patterns of the beginning of JSON, whose first character is of ASCII, in encodings with several bytes for each."""
_WIDE = ("utf-16", "utf-32")
_CHARSETS = re.compile(
    r"utf-(16|32)(-le|-be)?|iso8859-\d+|cp125\d|koi8-[ru]|gb2312|gbk|gb18030|big5|shift_jis|euc_jp|euc_kr"
)
"""Python's names of the charsets that are decoded. Some of its other codecs are slow, or none of texts."""
_GZIP = b"\x1f\x8b"

_raw: msgspec.json.Decoder[msgspec.Raw] = msgspec.json.Decoder(msgspec.Raw)


class UnexpectedReplies:
    """The log of replies that are not meant for clients: their beginnings, at most one a second of each container."""

    def __init__(self, *, monotonic: Callable[[], float] = time.monotonic) -> None:
        self._monotonic = monotonic
        self._quiet_until: dict[ContainerId, float] = {}
        self._dropped: dict[ContainerId, int] = {}

    def add(self, container: ContainerId, text: str) -> None:
        """Log the text, or count it."""
        now = self._monotonic()
        if now < self._quiet_until.get(container, -math.inf):
            self._dropped[container] = self._dropped.get(container, 0) + 1
            return
        self._quiet_until[container] = now + PAUSE_SECONDS
        more = f" (and {dropped} more before it)" if (dropped := self._dropped.pop(container, 0)) else ""
        logger.warning("container %r: an unexpected reply%s, %s", container, more, text)


async def output_of(reply: Reply, container: HttpContainer, log: UnexpectedReplies) -> msgspec.Raw:
    """Return the output in a reply. Raise `ContainerFailed`."""
    if reply.status >= ERROR_STATUS and container.http_errors == "fail":
        raise status_failure(reply, container, log)
    try:
        return await json_of(reply, container.max_reply_bytes)
    except InvalidPayload as error:
        if reply.status >= ERROR_STATUS:
            raise status_failure(reply, container, log) from error
        text = _not_json(reply, container, str(error), log)
        raise ContainerFailed("not_json", text, status=reply.status) from error


async def json_of(reply: Reply, max_bytes: int) -> msgspec.Raw:
    """Return the JSON of a reply. Raise `InvalidPayload` if it is none, and `ContainerFailed` if it is too large."""
    encoding, mark = _encoding(reply)
    body = reply.body[mark:]
    if encoding != "utf-8":
        await reserve_output(len(body))  # it is in memory a second time
        try:
            body = body.decode(encoding).encode()
        except UnicodeDecodeError as error:
            raise InvalidPayload(f"not {encoding}: invalid byte at position {mark + error.start}") from error
        if len(body) > max_bytes:
            raise ContainerFailed(
                "too_large", f"the reply is larger than {counted(max_bytes, 'byte')}", status=reply.status
            )
    elif body.startswith(_GZIP):
        raise InvalidPayload("not JSON: it is compressed with gzip, and has no Content-Encoding that says so")
    return await parse_json(body, _raw, max_depth=MAX_DEPTH)


def status_failure(reply: Reply, container: HttpContainer, log: UnexpectedReplies) -> ContainerFailed:
    """Return the failure of a reply with an HTTP error status."""
    if reply.status in _REDIRECTS:
        place = f"to {_shown_value(reply.location)}" if reply.location else "without a Location"
        text = f"HTTP status {reply.status}, a redirect {place}; redirects are not followed"
    elif _is_page(reply):
        text = f"HTTP status {reply.status}, with a page in HTML{_for_clients(reply, container, log)}"
    else:
        text = f"HTTP status {reply.status}{_beginning(reply.body)}"
    return ContainerFailed("status", text, status=reply.status, retry_after=_seconds(reply.retry_after))


def _not_json(reply: Reply, container: HttpContainer, why: str, log: UnexpectedReplies) -> str:
    if why == "empty":
        return "the reply is empty" if reply.status == 200 else f"the reply is empty (HTTP status {reply.status})"
    if _is_page(reply):
        why = "not JSON: it is a page in HTML"
    kind = f" (content type {_shown_value(reply.content_type)})" if reply.content_type else ""
    return f"the reply is {why}{kind}{_for_clients(reply, container, log)}"


def _for_clients(reply: Reply, container: HttpContainer, log: UnexpectedReplies) -> str:
    """Log the beginning of a reply that is not meant for clients. Return it only if they may see such things."""
    beginning = _beginning(reply.body)
    kind = f", content type {_shown_value(reply.content_type)}" if reply.content_type else ""
    log.add(container.id, f"HTTP status {reply.status}{kind}{beginning}")
    return beginning if container.output_in_errors else ""


def _is_page(reply: Reply) -> bool:
    kind = reply.content_type.partition(";")[0].strip().lower()
    beginning = reply.body[:SHOWN_BYTES].lstrip().lower()
    return (
        kind in ("text/html", "application/xhtml+xml")
        or beginning.startswith((b"<!doctype", b"<html"))
        or (not kind and beginning.startswith(b"<"))
    )


def _beginning(body: bytes) -> str:
    """Return the beginning of a body for an error or a line of the log."""
    text = printable_lines(body[:SHOWN_BYTES].decode(errors="backslashreplace").strip())
    return f": {text}{'…' if len(body) > SHOWN_BYTES else ''}" if text else ""


def _shown_value(value: str) -> str:
    """Return the value of a header for a text."""
    return printable(value[:SHOWN_CHARACTERS], keep="") + ("…" if len(value) > SHOWN_CHARACTERS else "")


# -- encodings ------------------------------------------------------------------------------------


def _encoding(reply: Reply) -> tuple[str, int]:
    """Return the encoding of a reply, and the number of bytes of its byte order mark. Raise `InvalidPayload`.

    The mark counts before the declared charset, as everywhere on the web.
    """
    body, charset = reply.body, _charset(reply.content_type)
    if body[:1].isascii() and b"\0" not in body[:4]:  # no mark, and one byte for a character of ASCII: nearly always
        return _in_order(charset), 0
    for mark, encoding in _MARKS:
        if body.startswith(mark):
            return encoding, len(mark)
    if charset in ("utf-8", *_WIDE):
        beginning = bytes(b and ord(".") for b in body[:4])
        return next((encoding for nulls, encoding in _NULLS if beginning.startswith(nulls)), _in_order(charset)), 0
    return charset, 0


def _in_order(charset: str) -> str:
    return f"{charset}-be" if charset in _WIDE else charset  # the order of bytes unless a mark says so (RFC 2781)


def _charset(content_type: str) -> str:
    """Return Python's name of the declared charset. Raise `InvalidPayload` if it is not known."""
    declared = ""
    if "charset" in content_type.lower():
        head = Message()
        head["Content-Type"] = printable(content_type, keep="")
        declared = str(head.get_content_charset() or "")
    if not declared:
        return "utf-8"
    try:
        name = codecs.lookup(declared).name
    except (LookupError, ValueError):
        name = ""
    if name in ("utf-8", "utf-8-sig", "ascii"):
        return "utf-8"
    if not _CHARSETS.fullmatch(name):
        raise InvalidPayload(f"not JSON: its charset {_shown_value(declared)!r} is not known here; send UTF-8")
    return name


# -- pauses ---------------------------------------------------------------------------------------


def _seconds(retry_after: str | None) -> float | None:
    """Convert ``Retry-After``, which is seconds or a date (RFC 9110), to seconds. Return None if it is neither."""
    if retry_after is None:
        return None
    try:
        seconds = float(retry_after)
        return max(0.0, seconds) if math.isfinite(seconds) or retry_after.isdecimal() else None
    except ValueError:
        pass
    try:
        return max(0.0, parsedate_to_datetime(retry_after).timestamp() - time.time())
    except (ValueError, OverflowError):
        return None
