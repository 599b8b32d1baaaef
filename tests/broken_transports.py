"""Transports that break one promise each: made of `LinesTransport`, or of the asgi app with something in between."""

import asyncio
import json
import os
import time
from collections.abc import Callable, Sequence
from typing import Any

import anyio
import msgspec
from anyio.abc import SocketListener, SocketStream, TaskStatus
from http_api import free_port
from lines_transport import LinesTransport

from nodekit import JobRequest, Node, Refusal, Unavailable, encode_payload
from nodekit_asgi import AsgiApp, AsgiConfig, AsgiTransport
from nodekit_asgi._listen import listen, url_of
from nodekit_asgi._servers import SERVERS

# -- of any kind ---------------------------------------------------------------------------------------


class IgnoresCancellation(LinesTransport):
    async def serve(self, node: Node, *, task_status: "TaskStatus[Sequence[str]]") -> None:
        try:
            await super().serve(node, task_status=task_status)
        finally:
            with anyio.CancelScope(shield=True):
                await anyio.sleep(3)


class SaysTooEarly(LinesTransport):
    async def serve(self, node: Node, *, task_status: "TaskStatus[Sequence[str]]") -> None:
        self.port = free_port()
        task_status.started([f"lines://127.0.0.1:{self.port}"])
        await super().serve(node, task_status=anyio.TASK_STATUS_IGNORED)


class SaysNothing(LinesTransport):
    async def serve(self, node: Node, *, task_status: "TaskStatus[Sequence[str]]") -> None:
        task_status.started(())
        await super().serve(node, task_status=anyio.TASK_STATUS_IGNORED)


class FailsWithoutAnAddress(LinesTransport):
    async def listen(self) -> SocketListener:
        return (await anyio.create_tcp_listener(local_host=self.host, local_port=self.port)).listeners[0]


class StartsWithoutListening(LinesTransport):
    async def serve(self, node: Node, *, task_status: "TaskStatus[Sequence[str]]") -> None:
        try:
            await super().serve(node, task_status=task_status)
        except Exception:
            task_status.started([f"lines://{self.host}:{self.port}"])
            await anyio.sleep_forever()


class KeepsItsPort(LinesTransport):
    kept = -1

    async def listen(self) -> SocketListener:
        listener = await super().listen()
        self.kept = os.dup(listener.extra(anyio.abc.SocketAttribute.raw_socket).fileno())
        return listener

    def close(self) -> None:
        os.close(self.kept)


class LeaksATask(LinesTransport):
    async def answer(self, line: bytes, node: Node, client: str) -> Any:
        self.task = asyncio.create_task(asyncio.sleep(60))
        return await super().answer(line, node, client)


class LeaksADescriptor(LinesTransport):
    def __init__(self) -> None:
        super().__init__()
        self.left: list[int] = []

    async def answer_all(self, client: SocketStream, node: Node) -> None:
        self.left.append(os.open("/dev/null", os.O_RDONLY))
        await super().answer_all(client, node)

    def close(self) -> None:
        for descriptor in self.left:
            os.close(descriptor)


class BlocksTheLoop(LinesTransport):
    async def answer(self, line: bytes, node: Node, client: str) -> Any:
        time.sleep(0.7)
        return await super().answer(line, node, client)


class ServesOneClientAtATime(LinesTransport):
    def __init__(self) -> None:
        super().__init__()
        self.turn = anyio.Lock()

    async def answer_all(self, client: SocketStream, node: Node) -> None:
        async with self.turn:
            await super().answer_all(client, node)


class AnswersOneRequestAtATime(LinesTransport):
    def __init__(self) -> None:
        super().__init__()
        self.turn = anyio.Lock()

    async def answer(self, line: bytes, node: Node, client: str) -> Any:
        async with self.turn:
            return await super().answer(line, node, client)


class MixesReplies(LinesTransport):
    last: Any = None

    async def answer(self, line: bytes, node: Node, client: str) -> Any:
        self.last = await super().answer(line, node, client)
        await anyio.sleep(0.001)
        return self.last


class SharesTheFirstNode(LinesTransport):
    nodes: list[Node] = []  # noqa: RUF012

    async def answer(self, line: bytes, node: Node, client: str) -> Any:
        self.nodes.append(node)
        return await super().answer(line, self.nodes[0], client)

    def close(self) -> None:
        self.nodes.clear()


class EndsWithAClient(LinesTransport):
    async def answer_all(self, client: SocketStream, node: Node) -> None:
        async with client:
            while line := await client.receive():
                await client.send(msgspec.json.encode(await self.answer(line, node, "127.0.0.1")) + b"\n")


class StopsReadingWhileItDrains(LinesTransport):
    async def asked(self, request: dict[str, Any], node: Node, client: str) -> Any:
        if not (await node.health()).healthy:
            raise Unavailable("draining", retry_after_seconds=1)
        return await super().asked(request, node, client)


class AnswersBeforeItKeeps(LinesTransport):
    """It guesses that the job will be kept."""

    async def asked(self, request: dict[str, Any], node: Node, client: str) -> Any:
        if "submit" in request:
            with anyio.move_on_after(0.02):
                return await super().asked(request, node, client)
            return {"id": "soon"}
        return await super().asked(request, node, client)


class TakesAllForOneClient(LinesTransport):
    async def answer(self, line: bytes, node: Node, client: str) -> Any:
        return await super().answer(line, node, "anybody")


class AsksNoLimit(LinesTransport):
    async def answer(self, line: bytes, node: Node, client: str) -> Any:
        try:
            return await self.asked(msgspec.json.decode(line), node, client)
        except Refusal as refusal:
            return {"refused": refusal.reason, "params": refusal.params}


class ForgetsParams(LinesTransport):
    async def answer(self, line: bytes, node: Node, client: str) -> Any:
        told = await super().answer(line, node, client)
        return {**told, "params": {}} if "params" in told else told


class SaysNotWhenToComeBack(LinesTransport):
    async def answer(self, line: bytes, node: Node, client: str) -> Any:
        told = await super().answer(line, node, client)
        return {**told, "seconds": 0} if "seconds" in told else told


class EndsWithAFault(LinesTransport):
    async def answer(self, line: bytes, node: Node, client: str) -> Any:
        told = await super().answer(line, node, client)
        if "error" in told:
            raise RuntimeError(told["error"])
        return told


class ForgetsData(LinesTransport):
    async def asked(self, request: dict[str, Any], node: Node, client: str) -> Any:
        if "submit" in request:
            asked = JobRequest(containers=tuple(request["submit"]), data=encode_payload({"n": 1}), client=client)
            return {"id": (await node.submit(asked)).id}
        return await super().asked(request, node, client)


# -- that speak HTTP ------------------------------------------------------------------------------------


class BrokenHttp(AsgiTransport):
    """The asgi transport, with something between server and app."""

    def __init__(self, server: str = "hypercorn") -> None:
        self.config = AsgiConfig(bind="127.0.0.1:0", server=server, stop_seconds=0.5)  # type: ignore[arg-type]

    async def serve(self, node: Node, *, task_status: "TaskStatus[Sequence[str]]") -> None:
        listener, stop, app = listen(self.config.bind), anyio.Event(), AsgiApp(node, self.config, loopback=True)

        async def between(scope: Any, receive: Any, send: Any) -> None:
            await self.between(app, scope, receive, send)

        async with anyio.create_task_group() as tasks:
            tasks.start_soon(SERVERS[self.config.server], between, self.config, listener, stop)
            task_status.started([url_of(listener)])
            try:
                await anyio.sleep_forever()
            finally:
                stop.set()

    async def between(self, app: Any, scope: Any, receive: Any, send: Any) -> None:
        await app(scope, receive, send)


class Configured(BrokenHttp):
    def __init__(self, **settings: Any) -> None:
        super().__init__()
        self.config = msgspec.structs.replace(self.config, **settings)


class Unread(BrokenHttp):
    """Reads no header of these names."""

    def __init__(self, *names: bytes) -> None:
        super().__init__()
        self.names = names

    async def between(self, app: Any, scope: Any, receive: Any, send: Any) -> None:
        headers = [(name, value) for name, value in scope["headers"] if name not in self.names]
        await app({**scope, "headers": headers}, receive, send)


class Unsaid(BrokenHttp):
    """Sends no header of these names."""

    def __init__(self, *names: bytes) -> None:
        super().__init__()
        self.names = names

    async def between(self, app: Any, scope: Any, receive: Any, send: Any) -> None:
        async def sends(part: Any) -> None:
            if "headers" in part:
                part = {**part, "headers": [pair for pair in part["headers"] if pair[0] not in self.names]}
            await send(part)

        await app(scope, receive, sends)


class OtherQuery(BrokenHttp):
    """Reads another query."""

    def __init__(self, old: bytes, new: bytes) -> None:
        super().__init__()
        self.old, self.new = old, new

    async def between(self, app: Any, scope: Any, receive: Any, send: Any) -> None:
        await app({**scope, "query_string": scope["query_string"].replace(self.old, self.new)}, receive, send)


class OneClientForAll(BrokenHttp):
    async def between(self, app: Any, scope: Any, receive: Any, send: Any) -> None:
        await app({**scope, "client": ("127.0.0.1", 1)}, receive, send)


class Rewritten(BrokenHttp):
    """Another reply than the app's; a stream comes whole, and properly ended."""

    def __init__(self, rewrite: Callable[[str, int, bytes], tuple[int, bytes, bytes]], *paths: str) -> None:
        super().__init__()
        self.rewrite, self.paths = rewrite, paths

    def __deepcopy__(self, memo: Any) -> "Rewritten":
        return Rewritten(self.rewrite, *self.paths)

    async def between(self, app: Any, scope: Any, receive: Any, send: Any) -> None:
        if self.paths and not scope["path"].startswith(self.paths):
            await app(scope, receive, send)
            return
        parts: list[Any] = []

        async def keep(part: Any) -> None:
            parts.append(part)

        await app(scope, receive, keep)
        status, body, kind = self.rewrite(
            scope["path"], parts[0]["status"], b"".join(part.get("body", b"") for part in parts)
        )
        replaced = {b"content-length", b"content-type"} if kind else {b"content-length"}
        headers = [pair for pair in parts[0]["headers"] if pair[0] not in replaced]
        headers += [(b"content-type", kind)] if kind else []
        await send({"type": "http.response.start", "status": status, "headers": headers})
        await send({"type": "http.response.body", "body": body})


def errors_as_text(path: str, status: int, body: bytes) -> tuple[int, bytes, bytes]:
    return (status, json.loads(body)["error"].encode(), b"text/plain") if status >= 400 else (status, body, b"")


def reversed_lists(path: str, status: int, body: bytes) -> tuple[int, bytes, bytes]:
    read = json.loads(body)
    return status, json.dumps(read[::-1]).encode() if isinstance(read, list) else body, b""


def decoded(path: str, status: int, body: bytes) -> tuple[int, bytes, bytes]:
    return status, json.dumps(json.loads(body)).encode(), b""


def always_200(path: str, status: int, body: bytes) -> tuple[int, bytes, bytes]:
    return 200, body, b""


def with_a_traceback(path: str, status: int, body: bytes) -> tuple[int, bytes, bytes]:
    if status < 500:
        return status, body, b""
    return status, json.dumps({**json.loads(body), "error": "Traceback: RuntimeError"}).encode(), b""


def without_kinds(path: str, status: int, body: bytes) -> tuple[int, bytes, bytes]:
    return status, body.replace(b'"kind"', b'"sort"'), b""


def as_it_is(path: str, status: int, body: bytes) -> tuple[int, bytes, bytes]:
    return status, body, b""


class EndsBrokenStreams(BrokenHttp):
    """As if they were whole."""

    async def between(self, app: Any, scope: Any, receive: Any, send: Any) -> None:
        ended = False

        async def sends(part: Any) -> None:
            nonlocal ended
            ended = part["type"] == "http.response.body" and not part.get("more_body")
            await send(part)

        await app(scope, receive, sends)
        if not ended:
            await send({"type": "http.response.body", "body": b""})


class TellsTheIdLate(BrokenHttp):
    """With the first bytes behind it."""

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


class AcceptsTooSoon(BrokenHttp):
    """Says 200 as soon as it has the body."""

    async def between(self, app: Any, scope: Any, receive: Any, send: Any) -> None:
        if (scope["method"], scope["path"]) != ("POST", "/api/jobs"):
            await app(scope, receive, send)
            return
        headers = [(b"content-type", b"application/json")]
        await send({"type": "http.response.start", "status": 200, "headers": headers})
        await send({"type": "http.response.body", "body": b'{"id":"soon"}'})


class TakesSlashes(BrokenHttp):
    async def between(self, app: Any, scope: Any, receive: Any, send: Any) -> None:
        await app({**scope, "path": scope["path"].rstrip("/") or "/"}, receive, send)
