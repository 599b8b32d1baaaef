"""Registries that keep engines waiting, count their requests, or refuse them."""

import asyncio
import json
import re
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from connections import listening
from engine.registry import Registry

TLS = b"\x16"
"""The first byte of a TLS handshake. Engines try TLS first, and wait long for an answer."""

_ASKED = re.compile(rb"^(GET|HEAD) (\S+) HTTP/1", re.MULTILINE)


class Front:
    """A registry behind a door: `asked` are the requests, and replies pass while `door` is open."""

    def __init__(self, registry: Registry) -> None:
        self.asked: list[str] = []
        self.door = asyncio.Event()
        self.door.set()
        self.port = 0
        self._registry = registry

    def at(self, target: str) -> str:
        """Return the name of a pushed image in this registry."""
        return target.replace(self._registry.address, f"127.0.0.1:{self.port}")

    def manifests(self, name: str) -> list[str]:
        """Return the requests for an image by its tag."""
        return [asked for asked in self.asked if f"/{name}/manifests/" in asked and "sha256:" not in asked]

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        if (data := await reader.read(1 << 16)).startswith(TLS):
            return
        behind, ahead = await asyncio.open_connection("127.0.0.1", self._registry.port)
        replies = asyncio.create_task(self._pass_on(behind, writer))
        try:
            while data:
                self.asked += [" ".join(asked.decode() for asked in found) for found in _ASKED.findall(data)]
                ahead.write(data)
                data = await reader.read(1 << 16)
        finally:
            replies.cancel()
            ahead.close()

    async def _pass_on(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        while data := await reader.read(1 << 16):
            await self.door.wait()
            writer.write(data)
            await writer.drain()
        writer.close()


@asynccontextmanager
async def in_front_of(registry: Registry) -> AsyncIterator[Front]:
    front = Front(registry)
    async with listening(front.serve) as server:
        front.port = server.sockets[0].getsockname()[1]
        yield front


@asynccontextmanager
async def refusing(status: str, text: str) -> AsyncIterator[str]:
    """Return the address of a registry that refuses everything."""
    body = json.dumps({"errors": [{"code": status.partition(" ")[2].replace(" ", "").upper(), "message": text}]})
    head = f"HTTP/1.1 {status}\r\nContent-Type: application/json\r\nContent-Length: {len(body)}\r\n"

    async def refuse(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        asked = await reader.readexactly(1)
        if asked == TLS:
            return
        asked += await reader.readuntil(b"\r\n\r\n")
        if asked.startswith(b"GET /v2/ "):
            writer.write(b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\nConnection: close\r\n\r\n{}")
        else:
            said = b"" if asked.startswith(b"HEAD") else body.encode()
            writer.write(f"{head}Connection: close\r\n\r\n".encode() + said)
        await writer.drain()
        writer.close()

    async with listening(refuse) as server:
        yield f"127.0.0.1:{server.sockets[0].getsockname()[1]}"
