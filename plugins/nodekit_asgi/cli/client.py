"""Requests to a node over one connection that is kept open, and their errors."""

import socket
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from http import HTTPStatus
from http.client import BadStatusLine, HTTPException, HTTPMessage, RemoteDisconnected
from types import TracebackType
from typing import Any, Self, TypeVar

import msgspec

from nodekit_asgi.cli.address import CONNECT_SECONDS, Address
from nodekit_asgi.cli.key import CURE as KEY_CURE
from nodekit_asgi.cli.problems import Busy, Dropped, NotANode, Refused, Unreachable

ANSWER_SECONDS = 30.0
"""Time a node may take to answer, in addition to the time it was asked to wait."""
PIECE_BYTES = 64 * 1024
RETRY_AFTER_SECONDS = 1.0
"""Pause if a busy node does not say how long to wait."""

CURE = "start one (nodekit serve FILE), or name another with --node or NODEKIT_URL"
WHERE = "is this a node's URL? name another with --node or NODEKIT_URL"

T = TypeVar("T")


class Reply(msgspec.Struct, frozen=True):
    """A reply of a node."""

    url: str
    status: int
    headers: HTTPMessage
    body: bytes

    def read_as(self, type: type[T]) -> T:
        """Decode the body as JSON of this type. Raise `NotANode` for anything else."""
        return self.part_as(type, self.body)

    def part_as(self, type: type[T], part: bytes | msgspec.Raw) -> T:
        """Decode a piece of the body, in the same way as `read_as`."""
        try:
            return msgspec.json.decode(part, type=type)
        except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
            raise self.not_a_node() from error

    def not_a_node(self) -> NotANode:
        kind = self.headers.get("Content-Type", "").partition(";")[0] or "no Content-Type"
        return NotANode(f"the server at {self.url} is not a node (HTTP status {self.status}, {kind}); {WHERE}")


class _Error(msgspec.Struct, frozen=True):
    error: str
    params: dict[str, Any] = {}

    @property
    def text(self) -> str:
        params = ", ".join(f"{key}: {value}" for key, value in self.params.items())
        return f"{self.error} ({params})" if params else self.error


class NodeClient:
    """A client of one node. It may send a request twice, which is safe: a POST carries an idempotency key."""

    def __init__(self, address: Address) -> None:
        self.address = address
        self._connection = address.connection()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._connection.close()

    def request(
        self,
        method: str,
        path: str,
        *,
        body: bytes | None = None,
        headers: Mapping[str, str] | None = None,
        wait_seconds: float = 0,
        until: float | None = None,
    ) -> Reply:
        """Send a request and return the reply.

        The node may take `wait_seconds` longer than usual to answer, but no longer than `until` (monotonic clock).

        Raise `Unreachable`, `NotANode` or `Refused`.
        """
        kept = self._connection.sock is not None
        limit = ANSWER_SECONDS + wait_seconds
        send = method, self.address.target(path), body, {**self.address.headers, **(headers or {})}
        try:
            reply = self._exchange(*send, limit, until)
        except Dropped as dropped:
            if not kept or isinstance(dropped.__cause__, TimeoutError):
                raise
            reply = self._exchange(*send, limit, until)  # the node may close a kept connection at any time
        return _successful(reply)

    def stream(self, path: str, *, body: bytes, headers: Mapping[str, str]) -> Iterator[bytes]:
        """Send a POST. Yield the first line of the reply, and then its pieces as they come.

        Raise the same errors as `request`, and `Dropped` if the reply breaks off.
        """
        self._connect(None)
        url, connection = self.address.url, self._connection
        with self._translated(ANSWER_SECONDS):
            connection.sock.settimeout(ANSWER_SECONDS)
            connection.request("POST", self.address.target(path), body, {**self.address.headers, **headers})
            response = connection.getresponse()
            if response.status != HTTPStatus.OK:
                _successful(Reply(url, response.status, response.headers, response.read()))
            yield response.readline()
            connection.sock.settimeout(None)  # a stream may be silent for any time
            while piece := response.read1(PIECE_BYTES):
                yield piece

    def _exchange(
        self, method: str, path: str, body: bytes | None, headers: dict[str, str], limit: float, until: float | None
    ) -> Reply:
        self._connect(until)
        url, connection = self.address.url, self._connection
        with self._translated(limit):
            connection.sock.settimeout(_within(limit, until))
            with suppress(BrokenPipeError):  # a node that stops reading a body has already replied why
                connection.request(method, path, body, headers)
            response = connection.getresponse()
            return Reply(url, response.status, response.headers, response.read())

    @contextmanager
    def _translated(self, limit: float) -> Iterator[None]:
        """Translate the HTTP library's errors into ours."""
        url, connection = self.address.url, self._connection
        try:
            yield
        except TimeoutError as error:
            connection.close()
            raise Dropped(f"the node at {url} took the connection and did not answer within {limit:g} s") from error
        except (RemoteDisconnected, ConnectionError) as error:
            connection.close()
            raise Dropped(f"{url} closed the connection without an answer; is the node stopping?") from error
        except BadStatusLine as error:
            connection.close()
            raise NotANode(f"the server at {url} does not speak HTTP; {WHERE}") from error
        except (HTTPException, OSError, ValueError) as error:
            connection.close()
            raise Dropped(f"the reply of {url} broke off ({type(error).__name__})") from error

    def _connect(self, until: float | None) -> None:
        """Connect, unless connected. Raise `Unreachable`."""
        url, connection = self.address.url, self._connection
        if connection.sock is not None:
            return
        connection.timeout = _within(CONNECT_SECONDS, until)
        try:
            connection.connect()
        except OSError as error:
            connection.close()
            raise Unreachable(_why(url, error)) from error


def _within(seconds: float, until: float | None) -> float:
    return seconds if until is None else max(min(seconds, until - time.monotonic()), 0.001)


def _why(url: str, error: OSError) -> str:
    if isinstance(error, ConnectionRefusedError):
        return f"no node listens at {url}; {CURE}"
    if isinstance(error, FileNotFoundError):
        return f"there is no socket at {url}; {CURE}"
    if isinstance(error, TimeoutError):
        return f"{url} did not take the connection within {CONNECT_SECONDS:g} s; {WHERE}"
    if isinstance(error, socket.gaierror):
        return f"the host of {url} is not known ({error.strerror}); {WHERE}"
    return f"no connection to {url}: {error.strerror or error}; {CURE}"


def _successful(reply: Reply) -> Reply:
    """Return a reply with a status of success.

    Raise `Refused` with the node's error text, `NotANode` if there is none, and `Dropped` if a proxy reaches no node.
    """
    if 200 <= reply.status < 300:
        return reply
    if 300 <= reply.status < 400:
        elsewhere = reply.headers.get("Location", "elsewhere")
        raise NotANode(f"{reply.url} redirects to {elsewhere}; name the node's own URL with --node or NODEKIT_URL")
    try:
        error = reply.read_as(_Error)
    except NotANode:
        if reply.status in (502, 503, 504):
            phrase = HTTPStatus(reply.status).phrase
            raise Dropped(
                f"{reply.url} answered {reply.status} {phrase}: is it a proxy that cannot reach the node?"
            ) from None
        raise
    if reply.status in (429, 503):
        raise Busy(reply.status, error.text, _retry_after(reply))
    if reply.status == HTTPStatus.UNAUTHORIZED:
        raise Refused(reply.status, f"{error.text}; {KEY_CURE}")
    raise Refused(reply.status, error.text)


def _retry_after(reply: Reply) -> float:
    value = reply.headers.get("Retry-After", "")
    return float(value) if value.isascii() and value.isdecimal() else RETRY_AFTER_SECONDS
