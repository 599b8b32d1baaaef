"""Requests to a node over one connection that is kept open, and their errors."""

import socket
import time
from collections.abc import Generator, Iterator, Mapping
from contextlib import contextmanager, suppress
from http import HTTPStatus
from http.client import HTTPException, HTTPMessage, HTTPResponse, IncompleteRead
from io import BytesIO
from types import TracebackType
from typing import Any, Self, TypeVar

import msgspec

from nodekit_asgi.cli.address import CONNECT_SECONDS, Address
from nodekit_asgi.cli.diagnosis import WHERE, no_reply, unreachable
from nodekit_asgi.cli.key import CURE as KEY_CURE
from nodekit_asgi.cli.key import OTHER_KEY
from nodekit_asgi.cli.problems import Busy, Dropped, NotANode, Refused

ANSWER_SECONDS = 30.0
"""Time a node may take to answer, in addition to the time it was asked to wait."""
BODY_SECONDS = 60.0
"""Time for a body that may still be on its way when all of it has been sent, in addition, too."""
PIECE_BYTES = 64 * 1024
RETRY_AFTER_SECONDS = 1.0
"""Pause if a busy node does not say how long to wait."""

EVENT_STREAM = "text/event-stream"
NO_SUCH_JOB = "no such job"
NO_PATH = ("no such path", "not found")
"""Errors with the status 404, in small letters, that are not about a job: of a node, and of other servers."""

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


class ErrorReply(msgspec.Struct, frozen=True):
    """An error of a node."""

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
        once: bool = False,
    ) -> Reply:
        """Send a request and return the reply.

        The node may take `wait_seconds` longer than usual to answer, but no longer than `until` (monotonic clock).
        With `once` the request is never sent again, so that `Dropped` says that the node may have seen it.

        Raise `Unreachable`, `NotANode` or `Refused`.
        """
        if once:
            self._connection.close()  # the node may close a kept connection at any time, and then nothing is known
        kept = self._connection.sock is not None
        limit = ANSWER_SECONDS + wait_seconds + (BODY_SECONDS if body and len(body) > PIECE_BYTES else 0)
        send = method, self.address.target(path), body, dict(headers or {})
        try:
            reply = self._exchange(*send, limit, until)
        except Dropped as dropped:
            if not kept or isinstance(dropped.__cause__, TimeoutError):
                raise
            reply = self._exchange(*send, limit, until)  # the node may close a kept connection at any time
        return successful(reply, key_given=self.address.key is not None)

    def stream(self, path: str, *, body: bytes, headers: Mapping[str, str]) -> Iterator[bytes]:
        """Send a POST. Yield the first line of the reply, and then its pieces as they come.

        Raise the same errors as `request`, and `Dropped` if the reply breaks off.
        """
        with self._translated(ANSWER_SECONDS):
            response, sock = self._open("POST", path, body, headers)
            with response:
                yield response.readline()
                if not response.isclosed():
                    sock.settimeout(None)  # a stream may be silent for any time
                yield from _pieces(response)

    def events(self, path: str, *, headers: Mapping[str, str], silent_seconds: float) -> Generator[bytes, None, None]:
        """Send a GET. Yield the pieces of a stream of events as they come, and nothing if there is no content.

        Raise the same errors as `request`, and `Dropped` if the reply breaks off or is silent for too long.
        """
        with self._translated(silent_seconds):
            response, sock = self._open("GET", path, None, headers)
            with response:
                if response.status != HTTPStatus.NO_CONTENT and response.headers.get_content_type() != EVENT_STREAM:
                    raise Reply(self.address.url, response.status, response.headers, b"").not_a_node()
                if not response.isclosed():
                    sock.settimeout(silent_seconds)
                yield from _pieces(response)

    def _open(
        self, method: str, path: str, body: bytes | None, headers: Mapping[str, str]
    ) -> tuple[HTTPResponse, socket.socket]:
        """Send a request on a new connection. Return the head of a reply of success, and the connection's socket."""
        self._connection.close()
        sock = self._connect(None)
        sock.settimeout(ANSWER_SECONDS)
        self._send(method, self.address.target(path), body, headers)
        response = self._connection.getresponse()
        if not 200 <= response.status < 300:
            reply = Reply(self.address.url, response.status, response.headers, response.read())
            successful(reply, key_given=self.address.key is not None)
        return response, sock

    def _exchange(
        self,
        method: str,
        target: str,
        body: bytes | None,
        headers: Mapping[str, str],
        limit: float,
        until: float | None,
    ) -> Reply:
        sock = self._connect(until)
        with self._translated(limit):
            sock.settimeout(_within(limit, until))
            self._send(method, target, body, headers)
            response = self._connection.getresponse()
            content = bytearray()
            with response:
                for piece in _pieces(response):
                    content += piece
                    if not response.isclosed():  # with the last piece, the socket may be closed, too
                        sock.settimeout(_within(limit, until))
            return Reply(self.address.url, response.status, response.headers, bytes(content))

    def _send(self, method: str, target: str, body: bytes | None, headers: Mapping[str, str]) -> None:
        headers = {**self.address.headers, **headers}
        with suppress(ConnectionError):  # a node that stops reading a body has already replied why
            if body is None:
                self._connection.request(method, target, None, headers)
            else:  # as a file it is sent piece by piece, each within the time limit of the socket
                self._connection.request(method, target, BytesIO(body), {**headers, "Content-Length": str(len(body))})

    @contextmanager
    def _translated(self, limit: float) -> Iterator[None]:
        """Translate the errors of the HTTP library into those of nodekit."""
        try:
            yield
        except (HTTPException, OSError, ValueError) as error:
            self._connection.close()
            raise no_reply(self.address, error, limit) from error

    def _connect(self, until: float | None) -> socket.socket:
        """Return the socket of the connection, which is opened unless it is open. Raise `Unreachable`."""
        connection = self._connection
        if connection.sock is None:
            connection.timeout = _within(CONNECT_SECONDS, until)
            try:
                connection.connect()
            except OSError as error:
                connection.close()
                raise unreachable(self.address, error) from error
        assert connection.sock is not None
        return connection.sock


def _pieces(response: HTTPResponse) -> Iterator[bytes]:
    """Yield the body as it comes. Raise `IncompleteRead` if it is shorter than its head says."""
    while piece := response.read1(PIECE_BYTES):
        yield piece
    if response.length:
        raise IncompleteRead(b"", response.length)


def _within(seconds: float, until: float | None) -> float:
    return seconds if until is None else max(min(seconds, until - time.monotonic()), 0.001)


def successful(reply: Reply, *, key_given: bool = False) -> Reply:
    """Return a reply with a status of success. `key_given` says that the request had a key.

    Raise `Refused` with the node's error text, `NotANode` if there is none, and `Dropped` if a proxy reaches no node.
    """
    if 200 <= reply.status < 300:
        return reply
    if 300 <= reply.status < 400:
        elsewhere = reply.headers.get("Location", "elsewhere")
        raise NotANode(f"{reply.url} redirects to {elsewhere}; name the node's own URL with --node or NODEKIT_URL")
    try:
        error = reply.read_as(ErrorReply)
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
        raise Refused(reply.status, f"{error.text}; {OTHER_KEY if key_given else KEY_CURE}")
    if reply.status == HTTPStatus.NOT_FOUND and error.error.lower() in NO_PATH:
        raise NotANode(f"{reply.url} answered: {error.text}; {WHERE}, with the path below which the node is mounted")
    raise Refused(reply.status, error.text)


def _retry_after(reply: Reply) -> float:
    value = reply.headers.get("Retry-After", "")
    return float(value) if value.isascii() and value.isdecimal() else RETRY_AFTER_SECONDS
