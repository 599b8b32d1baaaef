"""A container in a process of its own that holds thousands of calls: each takes as long as its path says.

`/1.0/service_output` answers after a second, or at once when `/open` was called; `/held/1.0/service_output` a second
after that; and `/second/1.0/service_output` only when it is called for the second time, three seconds later.
"""

import asyncio
import json
import resource
import subprocess
import sys
from collections import Counter
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from typing import Any

import anyio.to_thread

OK, NOT_NOW = b"200 OK", b"503 Service Unavailable\r\nRetry-After: 3"


class Service:
    """A server that answers, counts and holds calls."""

    def __init__(self) -> None:
        self.opened = asyncio.Event()
        self.calls: Counter[str] = Counter()
        self.running = self.most = 0

    async def connected(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with suppress(asyncio.IncompleteReadError, OSError):
            while True:
                head = (await reader.readuntil(b"\r\n\r\n")).decode()
                request, *lines = head.rstrip().split("\r\n")
                headers = {name.lower(): value for name, _, value in (line.partition(": ") for line in lines)}
                body = await reader.readexactly(int(headers.get("content-length", 0)))
                status, answer = await self.answer(request.split()[1], headers, body)
                writer.write(b"HTTP/1.1 %s\r\nContent-Length: %d\r\n\r\n%s" % (status, len(answer), answer))
        writer.close()

    async def answer(self, path: str, headers: dict[str, str], body: bytes) -> tuple[bytes, bytes]:
        if path == "/open":
            self.opened.set()
        if path.endswith("/service_output"):
            return await self.serve(path, headers["idempotency-key"], json.loads(body)["data"])
        once = sum(count == 1 for count in self.calls.values())
        return OK, json.dumps({"running": self.running, "most": self.most, "once": once, "calls": self.calls}).encode()

    async def serve(self, path: str, key: str, data: Any) -> tuple[bytes, bytes]:
        self.calls[key] += 1
        if path.startswith("/second") and self.calls[key] == 1:
            return NOT_NOW, b"{}"
        self.running += 1
        self.most = max(self.most, self.running)
        try:
            if path.startswith("/held"):
                await self.opened.wait()
            if path.startswith("/held") or not self.opened.is_set():
                await asyncio.sleep(float(path.split("/")[-2]))
        finally:
            self.running -= 1
        return OK, json.dumps({"n": data["n"] + 1}).encode()


async def main() -> None:
    _, most = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (most, most))
    server = await asyncio.start_server(Service().connected, "127.0.0.1", 0, backlog=4096)
    print(server.sockets[0].getsockname()[1], flush=True)
    await asyncio.to_thread(sys.stdin.read)  # until the parent closes the pipe, or dies
    server.close()


@asynccontextmanager
async def service() -> AsyncIterator[str]:
    """Run a service; yield its URL."""
    process = subprocess.Popen([sys.executable, __file__], stdin=subprocess.PIPE, stdout=subprocess.PIPE)
    assert process.stdin
    assert process.stdout
    with process.stdin, process.stdout:
        try:
            port = int(await anyio.to_thread.run_sync(process.stdout.readline))
            yield f"http://127.0.0.1:{port}"
        finally:
            process.kill()
            process.wait()


if __name__ == "__main__":
    asyncio.run(main())
