"""The API as an ASGI application: everything that applies to every request, on any route."""

import logging
import re
from functools import lru_cache
from random import Random

from nodekit import (
    Connection,
    Forbidden,
    Identity,
    KeyReused,
    Mount,
    Node,
    Refusal,
    StoreFailed,
    StreamBroken,
    TooManyJobs,
    TooManyRequests,
    TooMuchStored,
    Unauthorized,
    Unavailable,
)
from nodekit_asgi.api.routes import PROBES, ROUTES, handler, options, route
from nodekit_asgi.config import Limits
from nodekit_asgi.http.access import access_is_wanted, logged
from nodekit_asgi.http.callers import Caller, CallerLost, challenge
from nodekit_asgi.http.client_address import came_securely, sender_name
from nodekit_asgi.http.messages import (
    CutShort,
    Disconnected,
    Header,
    HttpError,
    Receive,
    Reply,
    Request,
    Scope,
    error_reply,
)
from nodekit_asgi.http.mounted import PREFIX, BrokenOff, check_caller, hand_on, mount_at
from nodekit_asgi.http.networks import unmapped
from nodekit_asgi.http.origins import PREFLIGHT, check_access
from nodekit_asgi.http.replies import send_reply
from nodekit_asgi.http.sending import Send
from nodekit_asgi.wire.profiles import PROFILES

logger = logging.getLogger("nodekit.http")

OPEN_TO_ALL = PROBES | {"/docs", "/docs/{file}", "/openapi.json"}
"""Routes that answer anybody, as often as they ask: the probes and the documentation of the API."""

_random = Random().getrandbits
_REQUEST_ID = re.compile(rb"[\x21-\x7e]{1,128}")


class AsgiApp:
    """An ASGI app that serves a node. The caller starts and stops the node.

    If `loopback` is true, requests whose ``Host`` is not a loopback name are refused.
    """

    def __init__(self, node: Node, limits: Limits | None = None, *, loopback: bool = False) -> None:
        self._node = node
        self._limits = limits or Limits()
        self._loopback = loopback

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "http":
            await self._http(Request(scope, receive, self._limits, self._node.budget), send)
        elif scope["type"] == "lifespan":
            await _lifespan(receive, send)
        else:
            await send({"type": "websocket.close", "code": 1008})

    async def _http(self, request: Request, send: Send) -> None:
        request_id = _request_id(request)
        request.id = request_id.decode()
        if not access_is_wanted():
            await self._answer(request, send, request_id)
            return
        with logged(request, send) as send:
            await self._answer(request, send, request_id)

    async def _answer(self, request: Request, send: Send, request_id: bytes) -> None:
        headers: list[Header] = [(b"x-request-id", request_id)]
        try:
            reply = await self._reply(request, send, headers)
            if reply is None:
                return
            if reply.held is None:
                await send_reply(reply, send, request, headers)
                return
            async with reply.held:
                await send_reply(reply, send, request, headers)
        except (
            StreamBroken,
            CutShort,
            CallerLost,
        ) as broken:  # left open, so the server cuts it: it must not look complete
            logger.info(
                "%s %s: %s (request %s)", request.method, request.path, broken, request.id, extra=_fields(request)
            )
        except Disconnected:
            logger.debug("%s %s: the client has gone", request.method, request.path)
        except Exception:
            failed = "%s %s failed while replying (request %s)"
            logger.exception(failed, request.method, request.path, request.id, extra=_fields(request))
            raise  # the server cuts the connection: half a reply must not look complete
        finally:
            request.release()

    async def _reply(self, request: Request, send: Send, headers: list[Header]) -> Reply | None:
        """Return the reply. Return None if an application mounted by a plugin has already sent it."""
        try:
            request.check_framing()
            allowed = check_access(request, loopback=self._loopback)
            headers += allowed
            path, request.parameters = route(request.path)
            if request.method == "OPTIONS" and (reply := options(request, path, preflight=bool(allowed))):
                headers += PREFLIGHT if allowed else ()
                return reply
            mount = mount_at(request.path, self._node)
            if path not in OPEN_TO_ALL:
                request.sent_by(sender_name(request))
                if self._node.identifies:
                    identity = await self._identity(request, _operation(request, path, mount))
                else:
                    identity = _identity_of(request.sender)
                request.identified(identity)
                self._node.limit(identity)
            if mount is not None:
                check_caller(mount, request)
                await hand_on(mount, request, send, headers)
                return None
            return await handler(request, path)(request, self._node)
        except HttpError as error:
            return error.reply
        except Unauthorized as error:
            return error_reply(401, error.reason, headers=challenge(error))
        except CallerLost as lost:
            return error_reply(lost.status, lost.text, headers=lost.headers)
        except Forbidden as error:
            return error_reply(403, error.reason)
        except Refusal as refusal:
            return error_reply(PROFILES[request.limits.profile].refused, refusal.reason, refusal.params)
        except Unavailable as unavailable:
            retry_after = [(b"retry-after", str(unavailable.retry_after_seconds).encode())]
            status = 429 if isinstance(unavailable, TooManyJobs | TooManyRequests | TooMuchStored) else 503
            return error_reply(status, unavailable.reason, headers=retry_after)
        except KeyReused as reused:
            return error_reply(422, str(reused))
        except StoreFailed as error:
            failed = "%s %s: %s (request %s)"
            logger.error(failed, request.method, request.path, error, request.id, extra=_fields(request))
            return error_reply(503, "the store does not work right now", headers=[(b"retry-after", b"5")])
        except (Disconnected, BrokenOff, CutShort):
            raise
        except Exception:
            failed = "%s %s failed (request %s)"
            logger.exception(failed, request.method, request.path, request.id, extra=_fields(request))
            return error_reply(500, "internal error", {"request_id": request.id})

    async def _identity(self, request: Request, operation: str) -> Identity:
        connection = Connection(
            transport="http",
            client=request.sender,
            address=request.address,
            headers=request.texts(),
            secure=came_securely(request),
            operation=operation,
        )
        identity = await self._node.identify(connection)
        request.caller = Caller(self._node, connection, identity)
        return identity


def _operation(request: Request, path: str, mount: Mount | None) -> str:
    """Return the operation that a request asks for. Return an empty text if there is none of this name."""
    method = "GET" if request.method == "HEAD" else request.method
    if mount is not None:
        return f"{method} {PREFIX}{mount.name}/"
    return f"{method} {path}" if method in ROUTES.get(path, ()) else ""


def _fields(request: Request) -> dict[str, str]:
    """Return the fields of a request for a log of JSON."""
    return {"method": request.method, "path": request.path}


@lru_cache(1024)
def _identity_of(sender: str) -> Identity:
    """Return the identity of a sender whom no plugin identifies."""
    return Identity(client=sender, address=unmapped(sender))


def _request_id(request: Request) -> bytes:
    given = request.headers.get(b"x-request-id")
    return given if given and _REQUEST_ID.fullmatch(given) else b"%016x" % _random(64)


async def _lifespan(receive: Receive, send: Send) -> None:
    while True:
        message = await receive()
        await send({"type": f"{message['type']}.complete"})
        if message["type"] == "lifespan.shutdown":
            return
