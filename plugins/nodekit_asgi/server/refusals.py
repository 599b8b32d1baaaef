"""Replies of the servers themselves, to requests that no application sees. The connection ends after each of them."""

from http import HTTPStatus

import msgspec

HEADER_BYTES = 1 << 16
"""Limit of the head of a request, and of each piece of a body's framing: a chunk's head, or all trailers."""
MAX_HEADERS = 256
"""Limit of the number of header lines: in memory, a line takes far more than its bytes."""

LATE = (408, "the head of the request did not arrive in time")
TOO_LARGE = (
    431,
    f"the head of the request is larger than {HEADER_BYTES} bytes, or has more than {MAX_HEADERS} headers",
)
MALFORMED = (400, "this is no valid HTTP request")
NO_TUNNEL = (405, "CONNECT: this is no proxy")
VERSION = (505, "expected HTTP/1.0 or HTTP/1.1; a node speaks HTTP/2 only if its transport has http2 = true")

Refusal = tuple[int, str]


def refusal_body(refusal: Refusal) -> bytes:
    return msgspec.json.encode({"error": refusal[1]})


def refusal_headers(refusal: Refusal) -> list[tuple[bytes, bytes]]:
    """Return the headers of a reply over HTTP/1."""
    length = str(len(refusal_body(refusal))).encode()
    headers = [(b"content-type", b"application/json"), (b"content-length", length), (b"connection", b"close")]
    return [*headers, (b"allow", b"DELETE, GET, HEAD, OPTIONS, POST, PUT")] if refusal[0] == 405 else headers


def refusal_reply(refusal: Refusal) -> bytes:
    """Return the whole reply over HTTP/1."""
    lines = [f"HTTP/1.1 {refusal[0]} {HTTPStatus(refusal[0]).phrase}".encode()]
    lines += [name + b": " + value for name, value in refusal_headers(refusal)]
    return b"\r\n".join([*lines, b"", b""]) + refusal_body(refusal)


def refusal_of(status: int) -> Refusal:
    """Return the refusal for a status that a parser has given."""
    return TOO_LARGE if status == TOO_LARGE[0] else MALFORMED
