"""The reasons why a connection broke, or a reply could not be read, in words for clients.

The texts of the parser and of the system quote replies and name types. None of that is for clients. The log has it.
"""

import ssl

TOO_LONG_LINE = "a line of the reply's head is longer than {} bytes"
NO_REPLY = "it was closed without a reply"
CUT_HEAD = "it was closed in the middle of the reply's head"
CUT_BODY = "the reply is shorter than its Content-Length"
CUT_CHUNK = "the reply ended in the middle of a chunk"
NOT_HTTP = "the reply is not HTTP, or longer than its head says"
TLS_WITHOUT_HTTPS = "it speaks TLS, so that its URL begins with https"

_TLS_RECORDS = (b"\x15", b"\x16")
"""First bytes of records of TLS: an alert or a handshake. No reply of HTTP begins with them."""
_NOT_HTTP = (
    "Data after",
    "Expected HTTP/",
    "Expected dot",
    "Expected space after version",
    "Invalid HTTP version",
    "Invalid major version",
    "Invalid minor version",
    "Invalid response status",
    "Invalid status code",
    "Response overflow",
)
"""Beginnings of the parser's reasons that are about the first line, or what follows the end of a reply."""


class Broken(Exception):
    """A connection broke, or what came on it is no reply. `str` is the reason for clients, `detail` for the log."""

    def __init__(self, reason: str, detail: str = "") -> None:
        self.detail = detail
        super().__init__(reason)


def unreadable(reason: str, beginning: bytes) -> Broken:
    """Return the error for a reply that the parser refused for a reason. `beginning` is that of what it refused."""
    detail = f"{reason}: {beginning!r}"
    if beginning.startswith(_TLS_RECORDS):
        return Broken(TLS_WITHOUT_HTTPS, detail)
    if reason.startswith(_NOT_HTTP):
        return Broken(NOT_HTTP, detail)
    first = reason.partition("\n")[0].rstrip(":. ")
    return Broken(f"the reply is not valid HTTP: {first}" if first else "the reply is not valid HTTP", detail)


def cause_of(error: BaseException) -> str:
    """Return the reason for an error of a connection."""
    if isinstance(error, Broken):
        return str(error)
    if isinstance(error, ConnectionRefusedError):
        return "connection refused"
    if isinstance(error, ssl.SSLError):
        return _of_tls(error)
    if isinstance(error, OSError) and error.strerror:
        return error.strerror
    return "it broke off"


def _of_tls(error: ssl.SSLError) -> str:
    if isinstance(error, ssl.SSLCertVerificationError):
        return f"its certificate is not valid: {error.verify_message}"
    reason = str(getattr(error, "reason", None) or "").replace("_", " ").lower()
    return f"TLS failed: {reason}" if reason else "TLS failed"
