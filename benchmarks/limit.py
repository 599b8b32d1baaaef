"""The limit: the smallest asyncio program that does the exchanges of a node, and stores nothing.

    python benchmarks/limit.py CONTAINER_PORT

It takes jobs and batches over HTTP, calls the container for each step over connections that it keeps, and gives results
back by id. Nothing survives it, nothing is checked and nothing is limited: no node in Python on this event loop is
faster. It prints the port on which it listens.
"""

import asyncio
import collections
import itertools
import sys
from collections.abc import Callable
from typing import Any

import msgspec

HEAD = b"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Length: %d\r\n\r\n%b"
CALL = (
    b"POST /service_output HTTP/1.1\r\nHost: container\r\nContent-Type: application/json\r\nContent-Length: %d\r\n\r\n"
)


class Job(msgspec.Struct):
    containers: list[str]
    data: msgspec.Raw


decode_job, decode_batch = msgspec.json.Decoder(Job).decode, msgspec.json.Decoder(list[Job]).decode


class Messages(asyncio.Protocol):
    """A connection that cuts what it reads into messages."""

    def __init__(self) -> None:
        self._buffer = b""

    def connection_made(self, transport: Any) -> None:
        self.write: Callable[[bytes], None] = transport.write

    def data_received(self, data: bytes) -> None:
        self._buffer = self._buffer + data if self._buffer else data
        while (end := self._buffer.find(b"\r\n\r\n")) >= 0:
            head = self._buffer[:end]
            at = head.lower().find(b"content-length:")
            stop = end + 4 + (int(head[at + 15 :].split(b"\r", 1)[0]) if at >= 0 else 0)
            if len(self._buffer) < stop:
                return
            body, self._buffer = self._buffer[end + 4 : stop], self._buffer[stop:]
            self.message(head, body)

    def message(self, head: bytes, body: bytes) -> None:
        raise NotImplementedError


class Call(Messages):
    """A connection to the container; it takes one call at a time."""

    then: Callable[[bytes], None]

    def message(self, head: bytes, body: bytes) -> None:
        idle.append(self)
        self.then(body)
        while waiting and idle:
            make(*waiting.popleft())


idle: list[Call] = []
waiting: collections.deque[tuple[bytes, Callable[[bytes], None]]] = collections.deque()
results: dict[bytes, bytes] = {}
numbers = itertools.count()


def make(data: bytes, then: Callable[[bytes], None]) -> None:
    if not idle:
        waiting.append((data, then))
        return
    call = idle.pop()
    call.then = then
    body = b'{"source":1,"destination":0,"data":%b}' % data
    call.write(CALL % len(body) + body)


def accept(job: Job, done: Callable[[bytes], None] | None = None) -> bytes:
    id = b"00000000-0000-7000-8000-%012d" % next(numbers)
    left = len(job.containers)

    def step(output: bytes) -> None:
        nonlocal left
        left -= 1
        if left:
            make(output, step)
            return
        results[id] = b'{"id":"%b","status":"success","result":{"container":"echo","output":%b}}' % (id, output)
        if done is not None:
            done(results[id])

    results[id] = b'{"id":"%b","status":"running","result":null}' % id
    make(bytes(job.data), step)
    return b'{"id":"%b"}' % id


class Client(Messages):
    """A connection of a client."""

    def message(self, head: bytes, body: bytes) -> None:
        if head.startswith(b"GET /api/jobs?"):
            ids = head.split(b" ", 2)[1].partition(b"id=")[2].split(b"&id=")
            self._reply(b"[%b]" % b",".join([results[id] for id in ids]))
        elif head.startswith(b"POST /api/jobs/batch"):
            self._reply(b"[%b]" % b",".join([accept(job) for job in decode_batch(body)]))
        elif b"\r\nPrefer: wait" in head:
            accept(decode_job(body), self._reply)
        elif head.startswith(b"POST"):
            self._reply(accept(decode_job(body)))
        else:
            self._reply(b"{}")

    def _reply(self, body: bytes) -> None:
        self.write(HEAD % (len(body), body))


async def main(container: int) -> None:
    loop = asyncio.get_running_loop()
    for _ in range(64):
        idle.append((await loop.create_connection(Call, "127.0.0.1", container))[1])
    server = await loop.create_server(Client, "127.0.0.1", 0, backlog=4096)
    print(f"listening on http://127.0.0.1:{server.sockets[0].getsockname()[1]}", flush=True)
    await server.serve_forever()


if __name__ == "__main__":
    asyncio.run(main(int(sys.argv[1])))
