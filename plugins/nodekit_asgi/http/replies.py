"""Sending of replies: as a whole or in pieces, for as long as the client stays."""

import math
from collections.abc import AsyncGenerator, AsyncIterator, Awaitable, Callable, Sequence
from contextlib import AsyncExitStack
from functools import partial

import anyio

from nodekit_asgi.http.callers import Caller, CallerLost
from nodekit_asgi.http.extensions import OnGone, on_gone
from nodekit_asgi.http.messages import Disconnected, Header, Reply, Request
from nodekit_asgi.http.sending import Send, send_body

KEEP_ALIVE_SECONDS = 15.0
"""Quiet time after which an unfinished reply sends a keep-alive; proxies give up after 30 or 60 seconds."""
_WITHOUT_CONTENT = (204, 304)
"""Statuses whose replies must not even have a Content-Length of 0."""


async def send_reply(reply: Reply, send: Send, request: Request, extra: Sequence[Header]) -> None:
    """Send a reply. A reply in pieces ends early, with `Disconnected`, if its client goes away."""
    headers = [*reply.headers, *extra]
    body = reply.body
    if reply.status not in _WITHOUT_CONTENT:
        headers.append((b"content-type", reply.content_type))
        if isinstance(body, bytes):
            headers.append((b"content-length", b"%d" % len(body)))
    await send({"type": "http.response.start", "status": reply.status, "headers": headers})
    if request.method == "HEAD":
        if isinstance(body, AsyncGenerator):
            await body.aclose()
        body = b""
    if isinstance(body, bytes):
        await send_body(send, body, more=request.unread)
        if not request.unread:
            return
        await request.linger()
    elif reply.keep_alive:
        await while_there(request, lambda: _send_live(body, reply.keep_alive, send))
    else:
        await while_there(request, lambda: _send_pieces(body, partial(send_body, send, more=True)))
    await send({"type": "http.response.body", "body": b"", "more_body": False})


async def _send_pieces(pieces: AsyncIterator[bytes], send: Callable[[bytes], Awaitable[None]]) -> None:
    async with AsyncExitStack() as stack:
        if isinstance(pieces, AsyncGenerator):
            stack.push_async_callback(pieces.aclose)
        async for piece in pieces:
            await send(piece)
            del piece  # it may be large, and the wait for the next one may be long


async def _send_live(pieces: AsyncIterator[bytes], keep_alive: bytes, send: Send) -> None:
    """Send the pieces like `_send_pieces`, and `keep_alive` at regular intervals."""
    turn = anyio.Lock()

    async def say(piece: bytes) -> None:
        async with turn:
            await send_body(send, piece, more=True)

    async def keep() -> None:
        while True:
            await anyio.sleep(KEEP_ALIVE_SECONDS)
            await say(keep_alive)

    async with anyio.create_task_group() as tasks:
        tasks.start_soon(keep)
        await _send_pieces(pieces, say)
        tasks.cancel_scope.cancel()


async def while_there(request: Request, work: Callable[[], Awaitable[None]], seconds: float = math.inf) -> None:
    """Run `work` while the client stays, for so many seconds at most. The body must have been read before.

    Raise `Disconnected` once the client has gone, `CallerLost` once the node does not know the caller any more,
    otherwise what `work` raises.
    """
    if request.caller is None and (offered := on_gone(request.scope)) is not None:
        await _while_connected(offered, work, seconds)
        return
    gone = False
    failure: Exception | None = None
    lost: CallerLost | None = None

    async def watch() -> None:
        nonlocal gone
        await request.gone()
        gone = True
        tasks.cancel_scope.cancel()

    async def watch_caller(caller: Caller) -> None:
        nonlocal lost
        lost = await caller.lost()
        tasks.cancel_scope.cancel()

    async with anyio.create_task_group() as tasks:
        tasks.cancel_scope.deadline = anyio.current_time() + seconds
        tasks.start_soon(watch)
        if request.caller is not None:
            tasks.start_soon(watch_caller, request.caller)
        try:
            await work()
        except Exception as error:  # raised below as it is, not in an exception group
            failure = error
        tasks.cancel_scope.cancel()
    if gone:
        raise Disconnected
    if lost is not None:
        raise lost
    if failure is not None:
        raise failure


async def _while_connected(on_gone: OnGone, work: Callable[[], Awaitable[None]], seconds: float) -> None:
    """Run `work` like `while_there`, without a task that watches."""
    gone = False
    scope = anyio.move_on_after(seconds)

    def cancel() -> None:
        nonlocal gone
        gone = True
        scope.cancel()

    on_gone(cancel)
    try:
        with scope:
            await work()
    except Exception:
        if not gone:
            raise
    finally:
        on_gone(None)
    if gone:
        raise Disconnected
