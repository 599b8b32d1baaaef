"""Requests for applications that plugins have mounted below ``/-/<name>/``."""

import time
from collections.abc import Sequence
from functools import lru_cache
from ipaddress import ip_address
from typing import Any

import anyio
import anyio.lowlevel

from nodekit import AsgiApplication, Mount, Node
from nodekit_asgi.http.callers import Caller, CallerLost
from nodekit_asgi.http.client_address import says_for_whom
from nodekit_asgi.http.extensions import without_ours
from nodekit_asgi.http.messages import CutShort, Disconnected, Header, HttpError, Request, Scope
from nodekit_asgi.http.networks import UNIX
from nodekit_asgi.http.origins import check_access
from nodekit_asgi.http.pace import BodyPace
from nodekit_asgi.http.sending import Send, send_body

PREFIX = "/-/"

GONE_SECONDS = 10.0
"""Time an application has to finish its reply once its client has gone; then it is cancelled."""

_PASSED_ON = (b"forwarded", b"via", b"x-real-ip")
_PASSED_ON_PREFIX = b"x-forwarded-"
_PIECES_AHEAD = 8
"""Body chunks read ahead of the application; a disconnect behind them is not seen."""
_EACH_COUNTS = b"vary"
"""The header that a reply may have several times: the application's own is kept beside the node's."""


class BrokenOff(Exception):
    """A failure of an application after a part of its reply was sent. The failure is its cause."""


def mount_at(path: str, node: Node) -> Mount | None:
    """Return the mount of a path, or None. The name without a slash behind it is not a path of the mount."""
    if not path.startswith(PREFIX):
        return None
    name, slash, _ = path.removeprefix(PREFIX).partition("/")
    return node.mounts.get(name) if slash else None


def check_caller(mount: Mount, request: Request) -> None:
    """Raise `HttpError` 403 if a mount that is not public is called from another machine, and by no operator.

    A request forwarded by a proxy counts as one from another machine, unless the proxy is trusted to name the client.
    So does, as for nodes on loopback, a request of a browser whose ``Host`` is not a name of this machine.
    """
    if mount.public or (request.identity is not None and request.identity.operator):
        return
    if _is_passed_on(request) or not (request.sender == UNIX or _is_loopback(request.address)):
        raise HttpError(403, f"{PREFIX}{mount.name}/ is not public: it can be called from the node's own machine only")
    if request.peer != UNIX:
        check_access(request, loopback=True)


def _is_passed_on(request: Request) -> bool:
    """Return True if the request was forwarded by a proxy that is not trusted, or that names the client elsewhere.

    "Elsewhere" is any other header than the configured `forwarded_header`.
    """
    if says_for_whom(request):
        return False
    return any(name in _PASSED_ON or name.startswith(_PASSED_ON_PREFIX) for name in request.headers)


@lru_cache(64)
def _is_loopback(address: str | None) -> bool:
    return address is not None and ip_address(address).is_loopback


async def hand_on(mount: Mount, request: Request, send: Send, extra: Sequence[Header]) -> None:
    """Let the application answer, and add the headers `extra` to its reply.

    Raise `HttpError` if the body is too large or too slow, `Disconnected` if the application was cancelled because the
    client has gone, `CallerLost` or `CutShort` if the node does not know the caller any more, `BrokenOff` if a part of
    a reply was sent, and otherwise what the application raised.
    """
    request.check_length()
    exchange = _Exchange(request, send, extra)
    failure = await exchange.run(mount.app, _scope(mount, request))
    if exchange.given_up:
        raise Disconnected
    if exchange.lost is not None and not exchange.ended:
        raise CutShort(str(exchange.lost)) if exchange.started else exchange.lost
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
    """Return the scope for the application: `path` begins with `root_path`, as in ASGI, and `client` is resolved.

    ``nodekit.identity`` is the `Identity` of the caller.
    """
    root = request.scope.get("root_path", "")
    return {
        **request.scope,
        "root_path": f"{root}{PREFIX}{mount.name}",
        "path": f"{root}{request.path}",
        "client": _scope_client(request),
        "nodekit.identity": request.identity,
        "extensions": without_ours(request.scope),
    }


def _scope_client(request: Request) -> tuple[str, int] | None:
    if request.sender == UNIX:
        return None
    host, port = request.scope["client"] if request.sender == request.peer else (request.sender, 0)
    return request.address or host, port


class _Exchange:
    """One request and its reply, between a server and an application."""

    def __init__(self, request: Request, send: Send, extra: Sequence[Header]) -> None:
        self._request = request
        self._send = send
        self._extra = extra
        self._replaced = {name for name, _ in extra} - {_EACH_COUNTS}
        self._bytes_left = request.limits.max_body_bytes
        self._pace = BodyPace(request.limits)
        self._more = True
        """True until the application has received the last chunk of the body."""
        self._give, self._take = anyio.create_memory_object_stream[dict[str, Any]](_PIECES_AHEAD)
        self.objection: HttpError | None = None
        """The error for which no more of the body is read."""
        self.started = False
        self.ended = False
        self.given_up = False
        """True if the application was cancelled because its client has gone."""
        self.lost: CallerLost | None = None
        """Set if the application was cancelled because the node does not know the caller any more."""

    async def run(self, app: AsgiApplication, scope: Scope) -> BaseException | None:
        """Run the application. Return what it raised, even an attempt to end the process (`SystemExit`)."""
        failure: BaseException | None = None
        with self._take:
            async with anyio.create_task_group() as tasks:
                tasks.start_soon(self._read_ahead, tasks.cancel_scope)
                if self._request.caller is not None:
                    tasks.start_soon(self._watch_caller, self._request.caller, tasks.cancel_scope)
                try:
                    await app(scope, self.receive, self.send)
                except (Exception, SystemExit) as error:
                    failure = error
                tasks.cancel_scope.cancel()
        return failure

    async def _read_ahead(self, application: anyio.CancelScope) -> None:
        """Read until the client has gone, and then cancel the application after `GONE_SECONDS`.

        Applications need not check for a disconnect, so without this they could hold the connection for ever.
        """
        with self._give:
            while (message := await self._request.receive())["type"] != "http.disconnect":
                self._request.unread = message.get("more_body", False)
                await self._give.send(message)
        await anyio.sleep(GONE_SECONDS)
        if not self.ended:
            self.given_up = True
            application.cancel()

    async def _watch_caller(self, caller: Caller, application: anyio.CancelScope) -> None:
        lost = await caller.lost()
        if not self.ended:
            self.lost = lost
            application.cancel()

    async def _next(self) -> dict[str, Any]:
        try:
            return await self._take.receive()
        except anyio.EndOfStream:
            return {"type": "http.disconnect"}

    async def receive(self) -> dict[str, Any]:
        """Receive for the application, as in ASGI, within the limits of a body.

        Only the time that the application waits for the body counts.
        """
        if self.objection is not None:
            raise self.objection
        if not self._more:
            return await self._next()
        since = time.monotonic()
        message: dict[str, Any] | None = None
        with anyio.move_on_after(self._pace.seconds):
            message = await self._next()
        if message is None:
            self.objection = self._request.too_slow()
            raise self.objection
        if message["type"] == "http.request":
            size = len(message.get("body", b""))
            self._pace.waited(time.monotonic() - since, size)
            self._bytes_left -= size
            if self._bytes_left < 0:
                self.objection = self._request.too_large()
                raise self.objection
        self._more = message.get("more_body", False)
        return message

    async def send(self, message: dict[str, Any]) -> None:
        """Send for the application, as in ASGI.

        After an objection of the node, its reply replaces that of the application, unless that had begun already.
        """
        if self.objection is not None and not self.started:
            return
        if message["type"] == "http.response.start":
            self.started = True
            own = [(name, value) for name, value in message.get("headers", ()) if name.lower() not in self._replaced]
            message = {**message, "headers": [*own, *self._extra]}
        if message["type"] != "http.response.body":
            await self._send(message)
            return
        await anyio.lowlevel.checkpoint()  # an application that only sends would not let others run
        more = message.get("more_body", False)
        self.ended = not more
        await send_body(self._send, message.get("body", b""), more=more or self._request.unread)

    async def end(self) -> None:
        """End the reply so that a client that is still sending sees it."""
        if self._request.unread:
            await self._request.linger()
            await self._send({"type": "http.response.body", "body": b"", "more_body": False})
