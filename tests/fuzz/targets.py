"""Fuzz targets: each takes any bytes, and raises if what they say would hurt a node.

- `requests`: a request as text, to a whole node in memory: no 500, no error in the log, and each reply is JSON.
- `node_file`: a file, composed as `nodekit check` does: it composes, or the error says why in printable lines.
- `replies`: what a container sends, after a byte that says how it is cut: it is the same as in one piece, and ends.
- `payloads`: JSON from a client or container: if it is accepted, `decode_payload` returns its value or says why not.
"""

import asyncio
import json
import logging
import tempfile
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import msgspec

from nodekit import CompositionError, InvalidPayload, JobFinished, Node, decode_payload, parse_json
from nodekit.config.compose import compose_file
from nodekit.config.distributions import read_once
from nodekit.config.formats import read_file
from nodekit_asgi import AsgiApp
from nodekit_asgi.config import Limits
from nodekit_function import FunctionRunner
from nodekit_memory import MemoryStore
from nodekit_remote._breaks import Broken
from nodekit_remote._decoding import decoder_for
from nodekit_remote._parser import ReplyParser

LONGEST_LINE = 4000
_QUIET_SECONDS = 60.0

Target = Callable[[bytes], None]


class _Errors(logging.Handler):
    """The errors that were logged."""

    def __init__(self) -> None:
        super().__init__(logging.ERROR)
        self.records: list[str] = []

    def emit(self, record: logging.LogRecord) -> None:
        self.records.append(self.format(record))


class _Ends:
    """An observer that keeps the failures that are the node's own."""

    def __init__(self) -> None:
        self.internal: list[str] = []

    def nodekit_observe(self, event: object) -> None:
        if isinstance(event, JobFinished) and getattr(event.job.result, "kind", "") == "internal":
            self.internal.append(repr(event.job.result))


class Requests:
    """A node in memory, and a loop that runs while a request is answered."""

    def __init__(self) -> None:
        self._loop = asyncio.new_event_loop()
        self._errors, self._ends = _Errors(), _Ends()
        logging.getLogger("nodekit").addHandler(self._errors)
        logging.getLogger("nodekit").propagate = False
        functions = FunctionRunner()

        @functions.container("echo")
        async def echo(data: Any) -> Any:
            return data

        node = Node(store=MemoryStore(), runners=[functions], plugins=[self._ends])
        self._app = AsgiApp(node, Limits(max_wait_seconds=0, status_networks=("127.0.0.0/8",)))
        ready = asyncio.Event()

        async def serve() -> None:
            async with node:
                ready.set()
                await asyncio.Event().wait()

        self._serving = self._loop.create_task(serve())
        self._loop.run_until_complete(ready.wait())

    def __call__(self, data: bytes) -> None:
        sent: list[dict[str, Any]] = []
        self._loop.run_until_complete(asyncio.wait_for(self._answered(data, sent), _QUIET_SECONDS))
        status = next((part["status"] for part in sent if part["type"] == "http.response.start"), None)
        assert status is not None, "no reply"
        assert status < 500 or status in (503, 505), status
        headers = dict(sent[0]["headers"])
        body = b"".join(part.get("body", b"") for part in sent[1:])
        if body and headers.get(b"content-type") == b"application/json":
            json.loads(body)
        for kept in (self._errors.records, self._ends.internal):
            assert not kept, kept.pop()

    async def _answered(self, data: bytes, sent: list[dict[str, Any]]) -> None:
        head, _, body = data.partition(b"\n\n")
        first, *lines = head.split(b"\n")
        method, _, target = first.decode("latin-1").partition(" ")
        path, _, query = target.partition("?")
        headers = [tuple(part.strip() for part in line.split(b":", 1)) for line in lines if b":" in line]
        incoming: list[dict[str, Any]] = [{"type": "http.request", "body": body, "more_body": False}]

        begun = asyncio.Event()

        async def receive() -> dict[str, Any]:
            if incoming:
                return incoming.pop()
            await begun.wait()  # the client leaves once its reply has begun
            return {"type": "http.disconnect"}

        async def send(message: dict[str, Any]) -> None:
            sent.append(message)
            begun.set()

        scope = {
            "type": "http",
            "method": method.upper() or "GET",
            "path": path or "/",
            "query_string": query.encode("latin-1"),
            "headers": [(name.lower(), value) for name, value in headers],
            "client": ("127.0.0.1", 1),
            "http_version": "1.1",
        }
        await self._app(scope, receive, send)
        for _ in range(20):  # the job of this request runs
            await asyncio.sleep(0)


class NodeFiles:
    """A folder for the file."""

    def __init__(self) -> None:
        self._folder = Path(tempfile.mkdtemp(prefix="nodekit-fuzz-"))

    def __call__(self, data: bytes) -> None:
        path = self._folder / ("node.json" if data.lstrip().startswith(b"{") else "node.toml")
        path.write_bytes(data)
        try:
            with read_once():
                compose_file(read_file(path), path)
        except CompositionError as error:
            lines = str(error).splitlines()
            assert lines
            assert all(line.isprintable() and 0 < len(line) <= LONGEST_LINE for line in lines[:200]), lines[:3]


_raw = msgspec.json.Decoder(msgspec.Raw)


def payloads(data: bytes) -> None:
    """Check JSON as it is checked on arrival."""
    try:
        payload = asyncio.run(parse_json(data, _raw)) if data.count(b"[") + data.count(b"{") > 128 else _checked(data)
    except InvalidPayload as refused:
        _check_text(refused)
        return
    try:
        value = decode_payload(payload)
    except msgspec.ValidationError as refused:
        _check_text(refused)
    else:
        msgspec.json.encode(value)


def _check_text(error: Exception) -> None:
    assert str(error).isprintable()


def _checked(data: bytes) -> msgspec.Raw:
    """Run the check without an event loop, which it needs only for deep or large JSON."""
    checking = parse_json(data, _raw)
    try:
        checking.send(None)
    except StopIteration as done:
        payload: msgspec.Raw = done.value
        return payload
    raise AssertionError("it waits")


def replies(data: bytes) -> None:
    """Read a reply in one piece, and in pieces of as many bytes as the first byte says."""
    size, reply = (data[0] % 64 + 1, data[1:]) if data else (1, b"")
    parser, body = read_reply([reply])
    cut, cut_body = read_reply([reply[at : at + size] for at in range(0, len(reply), size)])
    if parser.error is None:  # where a broken one breaks may depend on what follows its end
        assert (cut.error, cut.status, cut_body) == (None, parser.status, body)
    else:
        _check_text(parser.error)


def read_reply(pieces: list[bytes]) -> tuple[ReplyParser, bytes]:
    """Read one reply and decompress it, until it is complete or broken."""
    parser, body = ReplyParser(), bytearray()
    for piece in pieces:
        if not (parser.is_complete or parser.error):
            parser.feed(piece)
    parser.end()
    assert parser.is_complete or parser.error
    try:
        decoder = decoder_for(parser.header(b"content-encoding") or "")
        sent = parser.take()
        for part in decoder.decode(sent) if decoder else (sent,):
            body += part
    except Broken as broken:
        parser.error = parser.error or broken
    return parser, bytes(body)


TARGETS: Mapping[str, Callable[[], Target]] = {
    "requests": Requests,
    "node_file": NodeFiles,
    "payloads": lambda: payloads,
    "replies": lambda: replies,
}
