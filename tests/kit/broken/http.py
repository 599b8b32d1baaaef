"""Transports that speak HTTP and break a promise each. `tests/kit/test_caught.py` runs the suite on them.

They are the asgi app, with something between it and its server.
"""

import json
from collections.abc import Mapping, Sequence
from typing import Any

import anyio
import msgspec
import pytest
from anyio.abc import TaskStatus

from nodekit import Node
from nodekit.testing import HttpTransportContract
from nodekit_asgi import AsgiApp, AsgiConfig, AsgiTransport
from nodekit_asgi.server.deadlines import Deadlines
from nodekit_asgi.server.listen import listen, url_of
from nodekit_asgi.server.servers import SERVERS


class Sound(AsgiTransport):
    """The asgi transport, with something between server and app."""

    def __init__(self, server: str = "hypercorn") -> None:
        self.config = AsgiConfig(bind="127.0.0.1:0", server=server, stop_seconds=0.5)  # type: ignore[arg-type]
        super().__init__(config=self.config)

    async def serve(self, node: Node, *, task_status: "TaskStatus[Sequence[str]]") -> None:
        listener, stop, app = listen(self.config.bind), anyio.Event(), AsgiApp(node, self.config, loopback=True)

        async def between(scope: Any, receive: Any, send: Any) -> None:
            await self.between(app, scope, receive, send)

        async with anyio.create_task_group() as tasks:
            deadlines = Deadlines(self.config)
            tasks.start_soon(SERVERS[self.config.server], between, self.config, listener, stop, deadlines)
            task_status.started([url_of(listener)])
            try:
                await anyio.sleep_forever()
            finally:
                stop.set()

    async def between(self, app: Any, scope: Any, receive: Any, send: Any) -> None:
        await app(scope, receive, send)


class Configured(Sound):
    """Has wrong settings."""

    settings: Mapping[str, Any]

    def __init__(self) -> None:
        super().__init__()
        self.config = msgspec.structs.replace(self.config, **self.settings)


class RefusesAsOthersDo(Configured):
    settings = {"profile": "infernet-1.4"}  # noqa: RUF012


class TakesBodiesOfAnySize(Configured):
    settings = {"max_body_bytes": 1 << 30}  # noqa: RUF012


class TakesJsonOfAnyDepth(Configured):
    settings = {"max_json_depth": 500}  # noqa: RUF012


class TakesReportsFromAnybody(Configured):
    settings = {"status_networks": ("127.0.0.0/8",)}  # noqa: RUF012


# -- that do not read ------------------------------------------------------------------------------


class Unread(Sound):
    """Ignores a header of this name."""

    header: bytes

    async def between(self, app: Any, scope: Any, receive: Any, send: Any) -> None:
        headers = [(name, value) for name, value in scope["headers"] if name != self.header]
        await app({**scope, "headers": headers}, receive, send)


class ForgetsTheKey(Unread):
    header = b"idempotency-key"


class WaitsForNothing(Unread):
    header = b"prefer"


class ReadsNoPriority(Unread):
    header = b"priority"


class ReadsNoRequestId(Unread):
    header = b"x-request-id"


class TellsAllEventsAgain(Unread):
    header = b"last-event-id"


class TakesPagesOfAnySite(Unread):
    header = b"origin"


class TakesAnyHost(Unread):
    header = b"host"


class BelievesOneOfTwoFramings(Unread):
    header = b"content-length"


class TakesNoSubscriptions(Sound):
    """Reads the fields of a job only."""

    async def between(self, app: Any, scope: Any, receive: Any, send: Any) -> None:
        async def received() -> Any:
            message = await receive()
            return {**message, "body": message.get("body", b"").replace(b'"signature"', b'"unsigned!"')}

        await app({**scope, "extensions": {}}, received, send)


class OtherQuery(Sound):
    """Reads another query."""

    old: bytes
    new: bytes

    async def between(self, app: Any, scope: Any, receive: Any, send: Any) -> None:
        await app({**scope, "query_string": scope["query_string"].replace(self.old, self.new)}, receive, send)


class DoesNotWaitForResults(OtherQuery):
    old, new = b"wait=15", b"wait=0"


class IgnoresPending(OtherQuery):
    old, new = b"pending", b"x"


class OneClientForAll(Sound):
    async def between(self, app: Any, scope: Any, receive: Any, send: Any) -> None:
        await app({**scope, "client": ("127.0.0.1", 1)}, receive, send)


class TakesSlashes(Sound):
    async def between(self, app: Any, scope: Any, receive: Any, send: Any) -> None:
        await app({**scope, "path": scope["path"].rstrip("/") or "/"}, receive, send)


# -- that do not say -------------------------------------------------------------------------------


class Unsaid(Sound):
    """Sends no header of this name."""

    header: bytes

    async def between(self, app: Any, scope: Any, receive: Any, send: Any) -> None:
        async def sends(part: Any) -> None:
            if "headers" in part:
                part = {**part, "headers": [pair for pair in part["headers"] if pair[0] != self.header]}
            await send(part)

        await app(scope, receive, sends)


class SaysNotWhenToComeBack(Unsaid):
    header = b"retry-after"


class NamesNoOtherMethods(Unsaid):
    header = b"allow"


class LinksNoNextPage(Unsaid):
    header = b"link"


# -- that answer otherwise -------------------------------------------------------------------------


class Rewritten(Sound):
    """Changes the app's reply; a stream arrives whole, and properly ended."""

    paths: tuple[str, ...] = ("/",)

    def rewrite(self, status: int, body: bytes) -> tuple[int, bytes, bytes]:
        """Return the status, the body, and its type if that changes."""
        return status, body, b""

    async def between(self, app: Any, scope: Any, receive: Any, send: Any) -> None:
        if not scope["path"].startswith(self.paths):
            await app(scope, receive, send)
            return
        parts: list[Any] = []

        async def keep(part: Any) -> None:
            parts.append(part)

        await app(scope, receive, keep)
        status, body, kind = self.rewrite(parts[0]["status"], b"".join(part.get("body", b"") for part in parts))
        replaced = {b"content-length", b"content-type"} if kind else {b"content-length"}
        headers = [pair for pair in parts[0]["headers"] if pair[0] not in replaced]
        headers += [(b"content-type", kind)] if kind else []
        await send({"type": "http.response.start", "status": status, "headers": headers})
        await send({"type": "http.response.body", "body": body})


class TellsAtTheEnd(Rewritten):
    """Sends nothing before all of it is there."""


class AnswersErrorsAsText(Rewritten):
    def rewrite(self, status: int, body: bytes) -> tuple[int, bytes, bytes]:
        return (status, json.loads(body)["error"].encode(), b"text/plain") if status >= 400 else (status, body, b"")


class ReordersLists(Rewritten):
    paths = ("/api/jobs",)

    def rewrite(self, status: int, body: bytes) -> tuple[int, bytes, bytes]:
        read = json.loads(body)
        return status, json.dumps(read[::-1]).encode() if isinstance(read, list) else body, b""


class DecodesPayloads(Rewritten):
    def rewrite(self, status: int, body: bytes) -> tuple[int, bytes, bytes]:
        return status, json.dumps(json.loads(body)).encode(), b""


class IsAlwaysWell(Rewritten):
    paths = ("/health",)

    def rewrite(self, status: int, body: bytes) -> tuple[int, bytes, bytes]:
        return 200, body, b""


class ShowsItsInside(Rewritten):
    def rewrite(self, status: int, body: bytes) -> tuple[int, bytes, bytes]:
        if status < 500:
            return status, body, b""
        return status, json.dumps({**json.loads(body), "error": "Traceback: RuntimeError"}).encode(), b""


class TellsNoKinds(Rewritten):
    def rewrite(self, status: int, body: bytes) -> tuple[int, bytes, bytes]:
        return status, body.replace(b'"kind"', b'"sort"'), b""


class EndsBrokenStreams(Sound):
    """Ends broken streams as if they were complete."""

    async def between(self, app: Any, scope: Any, receive: Any, send: Any) -> None:
        ended = False

        async def sends(part: Any) -> None:
            nonlocal ended
            ended = part["type"] == "http.response.body" and not part.get("more_body")
            await send(part)

        await app(scope, receive, sends)
        if not ended:
            await send({"type": "http.response.body", "body": b""})


class TellsTheIdLate(Sound):
    """Sends the id together with the first bytes of the stream."""

    async def between(self, app: Any, scope: Any, receive: Any, send: Any) -> None:
        held: list[Any] = []

        async def sends(part: Any) -> None:
            if part["type"] == "http.response.body" and scope["path"].endswith("/stream"):
                held.append(part)
                if len(held) == 2:
                    await send({**part, "body": held[0]["body"] + part["body"]})
                if len(held) < 3:
                    return
            await send(part)

        await app(scope, receive, sends)


class AcceptsTooSoon(Sound):
    """Sends 200 as soon as it has the body."""

    async def between(self, app: Any, scope: Any, receive: Any, send: Any) -> None:
        if (scope["method"], scope["path"]) != ("POST", "/api/jobs"):
            await app(scope, receive, send)
            return
        headers = [(b"content-type", b"application/json")]
        await send({"type": "http.response.start", "status": 200, "headers": headers})
        await send({"type": "http.response.body", "body": b'{"id":"soon"}'})


class Suite(HttpTransportContract):
    subject: type[Sound]

    @pytest.fixture
    def transport(self) -> Sound:
        return self.subject()


HURRIED = {"timeout_seconds": 1.0}
