"""Requests that are handed to an application which a plugin has mounted, below ``/-/<name>/``."""

import time
from collections.abc import Sequence
from functools import lru_cache
from ipaddress import ip_address
from typing import Any

import anyio

from nodekit import AsgiApplication, Mount, Node
from nodekit_asgi.http.client_address import says_for_whom
from nodekit_asgi.http.messages import Disconnected, Header, HttpError, Request, Scope, Send
from nodekit_asgi.http.networks import UNIX
from nodekit_asgi.http.origins import check_access

PREFIX = "/-/"

GONE_SECONDS = 10.0
"""How long an application may work on a reply once its client has gone, before it is cancelled."""

_PASSED_ON = (b"forwarded", b"via", b"x-real-ip")
_PASSED_ON_PREFIX = b"x-forwarded-"
_PIECES_AHEAD = 8
"""Of a body, that are read before an application asks for them: behind them, that a client has gone goes unseen."""
_EACH_COUNTS = b"vary"
"""A header of which a reply may have several."""


class BrokenOff(Exception):
    """An application failed when a part of its reply had been sent. The failure is its cause."""


def mount_at(path: str, node: Node) -> Mount | None:
    """What is mounted where a path leads, if anything is: the name alone, with no slash behind it, is another path."""
    if not path.startswith(PREFIX):
        return None
    name, slash, _ = path.removeprefix(PREFIX).partition("/")
    return node.mounts.get(name) if slash else None


def check_caller(mount: Mount, request: Request) -> None:
    """Raises `HttpError` 403 where what is not public is called from elsewhere than this machine.

    What a proxy passed on is from elsewhere unless the proxy is trusted to say from where; and so is, as with nodes on
    loopback, a browser that calls by a name which is not one of this machine.
    """
    if mount.public:
        return
    if _is_passed_on(request) or not (request.client == UNIX or _is_loopback(request.address)):
        raise HttpError(403, f"{PREFIX}{mount.name}/ is not public: it can be called from the node's own machine only")
    if request.peer != UNIX:
        check_access(request, loopback=True)


def _is_passed_on(request: Request) -> bool:
    """Whether a proxy did so whose word for whom was not taken: it is not trusted, or says it in another header."""
    if says_for_whom(request):
        return False
    return any(name in _PASSED_ON or name.startswith(_PASSED_ON_PREFIX) for name in request.headers)


@lru_cache(64)
def _is_loopback(address: str | None) -> bool:
    return address is not None and ip_address(address).is_loopback


async def hand_on(mount: Mount, request: Request, send: Send, extra: Sequence[Header]) -> None:
    """Have the application answer. `extra` are headers of its reply.

    Raises `HttpError` where the body is too large or too slow, `Disconnected` where it was cancelled since the client
    has gone, `BrokenOff` where a part of a reply was sent, and else what the application raised.
    """
    request.check_length()
    exchange = _Exchange(request, send, extra)
    failure = await exchange.run(mount.app, _scope(mount, request))
    if exchange.given_up:
        raise Disconnected
    if exchange.ended:
        await exchange.end()
        if failure is not None:
            raise BrokenOff from failure
        return
    failure = exchange.objection or failure or RuntimeError(f"the application {mount.name!r} ended without a reply")
    if exchange.started:
        raise BrokenOff from failure
    if not isinstance(failure, Exception):
        raise RuntimeError(f"the application {mount.name!r} tried to end the process") from failure
    raise failure


def _scope(mount: Mount, request: Request) -> Scope:
    """As the application sees it: `path` begins with `root_path`, as ASGI has it, and the client is the one known."""
    scope = request.scope
    root = scope.get("root_path", "")
    path = f"{root}{request.path}"
    return {**scope, "root_path": f"{root}{PREFIX}{mount.name}", "path": path, "client": _scope_client(request)}


def _scope_client(request: Request) -> tuple[str, int] | None:
    if request.client == UNIX:
        return None
    host, port = request.scope["client"] if request.client == request.peer else (request.client, 0)
    return request.address or host, port


class _Exchange:
    """One request and its reply, between a server and an application."""

    def __init__(self, request: Request, send: Send, extra: Sequence[Header]) -> None:
        self._request = request
        self._send = send
        self._extra = extra
        self._replaced = {name for name, _ in extra} - {_EACH_COUNTS}
        self._bytes_left = request.limits.max_body_bytes
        self._seconds_left = request.limits.body_seconds
        self._more = True
        """Whether more of the body may come, for all that the application knows."""
        self._give, self._take = anyio.create_memory_object_stream[dict[str, Any]](_PIECES_AHEAD)
        self.objection: HttpError | None = None
        """Why no more of the body is read."""
        self.started = False
        self.ended = False
        self.given_up = False
        """Whether the application was cancelled: nobody would have read what it said."""

    async def run(self, app: AsgiApplication, scope: Scope) -> BaseException | None:
        """What the application raised, were it an attempt to end the process."""
        failure: BaseException | None = None
        with self._take:
            async with anyio.create_task_group() as tasks:
                tasks.start_soon(self._read_ahead, tasks.cancel_scope)
                try:
                    await app(scope, self.receive, self.send)
                except (Exception, SystemExit) as error:
                    failure = error
                tasks.cancel_scope.cancel()
        return failure

    async def _read_ahead(self, application: anyio.CancelScope) -> None:
        """Until the client has gone. Applications need not ask for that, and could hold its connection for ever."""
        with self._give:
            while (message := await self._request.receive())["type"] != "http.disconnect":
                self._request.unread = message.get("more_body", False)
                await self._give.send(message)
        await anyio.sleep(GONE_SECONDS)
        if not self.ended:
            self.given_up = True
            application.cancel()

    async def _next(self) -> dict[str, Any]:
        try:
            return await self._take.receive()
        except anyio.EndOfStream:
            return {"type": "http.disconnect"}

    async def receive(self) -> dict[str, Any]:
        """As of ASGI, within the limits of a body. The time is that for which the application waits for it."""
        if self.objection is not None:
            raise self.objection
        if not self._more:
            return await self._next()
        since = time.monotonic()
        message: dict[str, Any] | None = None
        with anyio.move_on_after(self._seconds_left):
            message = await self._next()
        self._seconds_left -= time.monotonic() - since
        if message is None:
            self.objection = self._request.too_slow()
            raise self.objection
        if message["type"] == "http.request":
            self._bytes_left -= len(message.get("body", b""))
            if self._bytes_left < 0:
                self.objection = self._request.too_large()
                raise self.objection
        self._more = message.get("more_body", False)
        return message

    async def send(self, message: dict[str, Any]) -> None:
        """As of ASGI. What an application says to an objection of ours is ours to say, unless it had begun to reply."""
        if self.objection is not None and not self.started:
            return
        if message["type"] == "http.response.start":
            self.started = True
            own = [(name, value) for name, value in message.get("headers", ()) if name.lower() not in self._replaced]
            message = {**message, "headers": [*own, *self._extra]}
        elif message["type"] == "http.response.body" and not message.get("more_body", False):
            self.ended = True
            message = {**message, "more_body": self._request.unread}
        await self._send(message)

    async def end(self) -> None:
        """Let a client that is still sending see the reply."""
        if self._request.unread:
            await self._request.linger()
            await self._send({"type": "http.response.body", "body": b"", "more_body": False})
