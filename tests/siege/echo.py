"""Containers in a process of their own that give their input back, of any size and as fast as they can.

The second one serves one connection until it ends, and only then the next one. If the data say so, as `"close": 0.005`,
they close the connection so many seconds after the reply.
"""

import asyncio
import sys
from contextlib import suppress
from functools import partial
from typing import Any

import msgspec


class _Call(msgspec.Struct):
    data: msgspec.Raw


async def connected(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    closes: Any = None
    with suppress(asyncio.IncompleteReadError, OSError):
        while closes is None:
            head = (await reader.readuntil(b"\r\n\r\n")).lower()
            _, _, length = head.partition(b"content-length: ")
            body = await reader.readexactly(int(length.split(b"\r\n")[0]) if length else 0)
            answer = bytes(msgspec.json.decode(body, type=_Call).data) if body else b"{}"
            writer.write(b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n" % len(answer))
            writer.write(answer)
            await writer.drain()
            closes = _close_seconds(answer)
        await asyncio.sleep(closes)
    writer.close()


def _close_seconds(data: bytes) -> Any:
    return msgspec.json.decode(data).get("close") if len(data) < 100 and data[:1] == b"{" else None


async def one_at_a_time(turn: asyncio.Lock, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    async with turn:
        await connected(reader, writer)


async def main() -> None:
    serves = (connected, partial(one_at_a_time, asyncio.Lock()))
    servers = [await asyncio.start_server(serve, "127.0.0.1", 0, backlog=1024) for serve in serves]
    print(*(server.sockets[0].getsockname()[1] for server in servers), flush=True)
    await asyncio.to_thread(sys.stdin.read)  # until the parent closes the pipe, or dies
    for server in servers:
        server.close()


if __name__ == "__main__":
    asyncio.run(main())
