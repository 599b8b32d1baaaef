"""The reasons why a connection broke, or a reply could not be read, in words for clients.

The HTTP client's own texts name its types and packages, and quote replies. None of that is for clients. The log has it.
"""

import re
import ssl

import aiohttp
from aiohttp import http_exceptions

_CODING = re.compile(r"Can not decode content-encoding: (\w+)")
_KNOWN_CODINGS = ("gzip", "deflate")
_TLS = re.compile(r"b'\\x1[56]\\x03")
"""A record of TLS, as the HTTP client quotes what it cannot read: an alert or a handshake."""
_NOT_HTTP = ("Bad status line", "Data after")
_TOO_LONG = re.compile(r"Got more than (\d+) bytes")


def cause_of(error: BaseException) -> str:
    """Return the reason for an error of the HTTP client."""
    if isinstance(error, ConnectionRefusedError):
        return "connection refused"
    if isinstance(error, aiohttp.ClientConnectorCertificateError | ssl.SSLError):
        return _of_tls(error)
    if isinstance(error, aiohttp.ServerDisconnectedError):
        whole = isinstance(error.message, str)
        return "it was closed without a reply" if whole else "it was closed in the middle of the reply's head"
    if isinstance(error, aiohttp.ClientPayloadError):
        return _of_body(error)
    if isinstance(error, aiohttp.ClientResponseError | http_exceptions.HttpProcessingError):
        return _of_head(error.message)
    if isinstance(error, OSError) and error.strerror:
        return error.strerror
    return "it broke off"


def _of_tls(error: BaseException) -> str:
    inner = getattr(error, "certificate_error", error)
    if isinstance(inner, ssl.SSLCertVerificationError):
        return f"its certificate is not valid: {inner.verify_message}"
    reason = str(getattr(inner, "reason", None) or "").replace("_", " ").lower()
    return f"TLS failed: {reason}" if reason else "TLS failed"


def _of_body(error: BaseException) -> str:
    inner = error.__cause__ or error.__context__
    if isinstance(inner, http_exceptions.ContentLengthError):
        return "the reply is shorter than its Content-Length"
    if isinstance(inner, http_exceptions.ContentEncodingError):
        return _of_head(inner.message)
    return "the reply ended in the middle of a chunk"


def _of_head(message: str) -> str:
    """Return the reason for a head that cannot be read: the first line of the client's own, without what it quotes."""
    if found := _CODING.search(message):
        if found[1] in _KNOWN_CODINGS:
            return f"the body of the reply is not {found[1]}, as its Content-Encoding says"
        return f"the Content-Encoding of the reply, {found[1]}, is not known here, and none was asked for"
    if found := _TOO_LONG.search(message):
        return f"a line of the reply's head is longer than {found[1]} bytes"
    if _TLS.search(message):
        return "it speaks TLS, so that its URL begins with https"
    if message.startswith(_NOT_HTTP):
        return "the reply is not HTTP, or longer than its head says"
    first = message.partition("\n")[0].partition(": b'")[0].rstrip(":. ")
    return f"the reply is not valid HTTP: {first}" if first else "the reply is not valid HTTP"
