"""A container of the soak, in a process of its own: `worker.py [PORT]`, or with the port in PORT.

It adds one to `n`, and returns `pad` as it was. `op` in the data asks for something else: `slow`, `stream`, or a fault.
SOAK_PLANT plants faults: `container` keeps memory, `processes` leaves processes, `wrong` miscounts now and then.
"""

import asyncio
import itertools
import json
import os
import subprocess
import sys
from collections.abc import Mapping
from contextlib import suppress
from typing import Any

PLANTS = os.environ.get("SOAK_PLANT", "").split(",")
OK = b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n"

_calls = itertools.count(1)
_kept: list[object] = []


async def connected(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    with suppress(asyncio.IncompleteReadError, OSError):
        is_kept = True
        while is_kept:
            head = (await reader.readuntil(b"\r\n\r\n")).lower()
            _, _, length = head.partition(b"content-length: ")
            body = await reader.readexactly(int(length.split(b"\r\n")[0]) if length else 0)
            is_kept = await answer(writer, json.loads(body)["data"] if body else {})
            await writer.drain()
    writer.close()


async def answer(writer: asyncio.StreamWriter, data: Mapping[str, Any]) -> bool:
    """Answer one request; return False if the connection ends with it."""
    number = next(_calls)
    _plant(number)
    match data.get("op"):
        case "die":
            os._exit(1)
        case "hang":
            await asyncio.sleep(3600)
        case "rubbish":
            writer.write(OK % 9 + b'{"n": 1, ')
        case "nonsense":
            writer.write(b"\x00\x01 these are not the bytes that you are looking for\r\n\r\n")
            return False
        case "status":
            writer.write(b'HTTP/1.1 500 Oh\r\nContent-Length: 17\r\n\r\n{"error": "oops"}')
        case "short":
            writer.write(OK % 100 + b'{"n":')
            return False
        case "close":
            return False
        case "stream":
            await _stream(writer, data["pieces"], data["size"])
        case _:
            await asyncio.sleep(data.get("seconds", 0))
            value = {"n": data.get("n", 0) + 1 + ("wrong" in PLANTS and number % 50 == 0), "pad": data.get("pad", "")}
            reply = json.dumps(value).encode()
            writer.write(OK % len(reply) + reply)
    return True


async def _stream(writer: asyncio.StreamWriter, pieces: int, size: int) -> None:
    writer.write(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n")
    for _ in range(pieces):
        writer.write(b"%x\r\n%b\r\n" % (size, b"x" * size))
        await writer.drain()
        await asyncio.sleep(0.01)
    writer.write(b"0\r\n\r\n")


def _plant(number: int) -> None:
    if "container" in PLANTS and len(_kept) < 100:
        _kept.append(bytearray(b"x") * 2_000_000)
    if "processes" in PLANTS and number % 20 == 0:
        _kept.append(subprocess.Popen(["sleep", "3600"]))


async def _served(port: int) -> asyncio.Server:
    """Listen, once the port is free: after a restart, a connection to somebody else may have it for a moment."""
    while True:
        try:
            return await asyncio.start_server(connected, "127.0.0.1", port, backlog=1024)
        except OSError:
            await asyncio.sleep(0.1)


async def main() -> None:
    port = int(sys.argv[1] if len(sys.argv) > 1 else os.environ["PORT"])
    server = await _served(port)
    print(f"listens at {server.sockets[0].getsockname()[1]}", flush=True)
    await server.serve_forever()


if __name__ == "__main__":
    asyncio.run(main())
