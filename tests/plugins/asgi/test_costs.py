"""The cost of a request, in counts that no load disturbs: Python calls, writes, tasks, timers.

`benchmarks/http_requests.py` measures the same in microseconds. The limits leave room for other versions of Python and
of the servers, and none for a piece of work per request that was not there before.
"""

import asyncio
import gc
import socket
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import anyio.to_thread
import pytest
from components import SwitchRunner, until
from connections import ask
from http_api import Api, both_servers, post, serving

from nodekit import Container
from nodekit_asgi import AsgiApp

pytestmark = pytest.mark.anyio

REQUESTS = 40
HEADERS = "user-agent: test/1", "accept: */*"
LIVE, JOB = ask("/health/live", *HEADERS), post(b'{"containers":["queued"],"data":{"text":"hello"}}', *HEADERS)


@pytest.fixture
def anyio_backend() -> str:
    return "asyncio"


def queued() -> SwitchRunner:
    """Return a runner whose container is down, so that its jobs wait in the queue."""
    return SwitchRunner(Container(id="echo"), Container(id="queued"), up=["echo"])


def exchange(address: tuple[str, int], message: bytes, times: int) -> bytes:
    """Send a request again and again on one connection. Return the last body."""
    body = b""
    with socket.create_connection(address, timeout=60) as connection:
        for _ in range(times):
            connection.sendall(message)
            head, body = b"", b""
            while b"\r\n\r\n" not in head:
                head += connection.recv(1 << 16)
            head, _, body = head.partition(b"\r\n\r\n")
            assert head.startswith(b"HTTP/1.1 200"), head
            length = int(head.lower().partition(b"content-length: ")[2].partition(b"\r\n")[0])
            while len(body) < length:
                body += connection.recv(1 << 16)
    return body


async def calls(api: Api, message: bytes) -> float:
    """Return the Python calls per request of the event loop's thread; the client is in another one."""
    counted = 0

    def count(frame: Any, event: str, argument: Any) -> None:
        nonlocal counted
        counted += event in ("call", "c_call")

    await anyio.to_thread.run_sync(exchange, api.address, message, 2)
    sys.setprofile(count)
    try:
        await anyio.to_thread.run_sync(exchange, api.address, message, REQUESTS)
    finally:
        sys.setprofile(None)
    return counted / REQUESTS


@contextmanager
def counted_writes(api: Api, monkeypatch: pytest.MonkeyPatch) -> Iterator[list[bytes]]:
    """Note what the node writes to its clients."""
    written: list[bytes] = []
    transport: Any = asyncio.selector_events._SelectorSocketTransport  # type: ignore[attr-defined]
    write = transport.write

    def noted(self: Any, data: bytes) -> None:
        if self.get_extra_info("sockname") == api.address:
            written.append(bytes(data))
        write(self, data)

    with monkeypatch.context() as patch:
        patch.setattr(transport, "write", noted)
        yield written


MOST_CALLS = {
    ("uvicorn", "live"): 235,
    ("uvicorn", "read by id"): 380,
    ("uvicorn", "submit"): 880,
    ("hypercorn", "live"): 660,
    ("hypercorn", "read by id"): 800,
    ("hypercorn", "submit"): 1330,
}
"""Python calls of one request, of its server and of the whole node behind it, with the store `memory`."""


@both_servers
async def test_a_small_request_costs_few_python_calls(server: str) -> None:
    async with serving(server, runners=[queued()]) as api:
        id = await api.submit("queued")
        messages = {"live": LIVE, "read by id": ask(f"/api/jobs?id={id}", *HEADERS), "submit": JOB}
        found = {kind: await calls(api, message) for kind, message in messages.items()}
    print(f"\n{server}: {found}")
    assert {kind: count for kind, count in found.items() if count > MOST_CALLS[server, kind]} == {}


@both_servers
async def test_a_reply_is_one_write(server: str, monkeypatch: pytest.MonkeyPatch) -> None:
    async with serving(server, runners=[queued()]) as api:
        with counted_writes(api, monkeypatch) as written:
            await anyio.to_thread.run_sync(exchange, api.address, LIVE, 3)
            await anyio.to_thread.run_sync(exchange, api.address, JOB, 3)
    assert len(written) == 6
    assert all(b"\r\n\r\n{" in one for one in written)


@both_servers
async def test_a_request_on_a_kept_connection_costs_no_timer(server: str, monkeypatch: pytest.MonkeyPatch) -> None:
    async with serving(server, runners=[queued()]) as api:
        loop: Any = asyncio.get_running_loop()
        timers, call_at = 0, loop.call_at

        def counted(*arguments: Any, **settings: Any) -> Any:
            nonlocal timers
            timers += 1
            return call_at(*arguments, **settings)

        monkeypatch.setattr(loop, "call_at", counted)
        await anyio.to_thread.run_sync(exchange, api.address, JOB, 200)
    assert timers < 100  # of the server, for all requests together


@both_servers
async def test_a_client_that_waits_costs_no_second_task(server: str) -> None:
    async with serving(server, runners=[queued()]) as api:
        id = await api.submit("queued")
        async with api.raw() as connection:
            await connection.send(LIVE)
            assert (await connection.answer()).status == 200
            before = len(asyncio.all_tasks())
            await connection.send(ask(f"/api/jobs?id={id}&wait=60"))
            await until(lambda: len(api.node._waiters.present) == 1)
            assert len(asyncio.all_tasks()) == before + 1
        await until(lambda: not api.node._waiters.present)


@both_servers
async def test_requests_that_were_answered_do_not_wait_for_the_garbage_collector(server: str) -> None:
    async with serving(server, runners=[queued()]) as api:
        await anyio.to_thread.run_sync(exchange, api.address, LIVE, 1)
        gc.collect()
        gc.disable()
        try:
            await anyio.to_thread.run_sync(exchange, api.address, LIVE, 20)
            left = [one for one in gc.get_objects() if type(one).__name__ in ("Exchange", "Request")]
        finally:
            gc.enable()
    assert len(left) <= 2  # the last request of each connection


@both_servers
async def test_a_body_that_came_with_its_head_is_taken_without_receiving(
    server: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked = 0
    answer = AsgiApp.__call__

    async def spied(app: AsgiApp, scope: Any, receive: Any, send: Any) -> None:
        async def counted() -> Any:
            nonlocal asked
            asked += 1
            return await receive()

        await answer(app, scope, counted, send)

    monkeypatch.setattr(AsgiApp, "__call__", spied)
    async with serving(server, runners=[queued()]) as api:
        await anyio.to_thread.run_sync(exchange, api.address, JOB, 3)
        assert asked == 0
        async with api.raw() as connection:
            await connection.send(JOB[:-5])
            await until(lambda: asked > 0)
            await connection.send(JOB[-5:])
            assert (await connection.answer()).status == 200
