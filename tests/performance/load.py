"""A client and a container of a node, in a process of their own: `python load.py`.

It prints the container's port. Then it takes lines: the URL of the node, and after that `steps jobs size`, the number
of steps of a job, the number of jobs, and how many of them are one request. Each line is answered by the line `done`,
once all of these jobs have succeeded with the right outputs.
"""

import itertools
import json
import selectors
import socket
import sys
import threading
from collections.abc import Iterator
from typing import Any
from urllib.parse import urlsplit


class Exchange:
    """A keep-alive connection: requests of a client, or those that a container gets."""

    def __init__(self, connection: socket.socket) -> None:
        connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self.connection, self._buffer = connection, b""

    def read(self) -> tuple[bytes, bytes] | None:
        """Return the first line and the body of a message, or None at the end of the connection."""
        while b"\r\n\r\n" not in self._buffer:
            if not self._more():
                return None
        head, _, self._buffer = self._buffer.partition(b"\r\n\r\n")
        lines = head.split(b"\r\n")
        length = next((int(line[15:]) for line in lines if line.lower().startswith(b"content-length:")), 0)
        while len(self._buffer) < length:
            if not self._more():
                return None
        body, self._buffer = self._buffer[:length], self._buffer[length:]
        return lines[0], body

    def _more(self) -> bool:
        data = self.connection.recv(1 << 20)
        self._buffer += data
        return bool(data)

    def write(self, first_line: str, body: bytes, *headers: str) -> None:
        head = "\r\n".join([first_line, "Content-Type: application/json", f"Content-Length: {len(body)}", *headers])
        self.connection.sendall(head.encode() + b"\r\n\r\n" + body)


def contain(listener: socket.socket) -> None:
    """Answer each call with its data, one after another, on any number of connections."""
    with selectors.DefaultSelector() as selector:
        selector.register(listener, selectors.EVENT_READ)
        while True:
            for key, _ in selector.select():
                if key.fileobj is listener:
                    exchange = Exchange(listener.accept()[0])
                    selector.register(exchange.connection, selectors.EVENT_READ, exchange)
                elif (message := key.data.read()) is None:
                    selector.unregister(key.fileobj)
                    key.data.connection.close()
                else:
                    key.data.write("HTTP/1.1 200 OK", json.dumps(json.loads(message[1])["data"]).encode())


class Client:
    """A client that sees every job end as it must."""

    def __init__(self, url: str) -> None:
        address = urlsplit(url)
        self._host = address.netloc
        self._exchange = Exchange(socket.create_connection((address.hostname, address.port)))
        self._numbers = itertools.count()

    def run(self, steps: int, jobs: int, size: int) -> None:
        for _ in range(jobs // size):
            items = [{"containers": ["echo"] * steps, "data": {"number": next(self._numbers)}} for _ in range(size)]
            results = [self._ask("POST", "/api/jobs", items[0], "Prefer: wait=60")] if size == 1 else self._batch(items)
            for item, result in zip(items, results, strict=True):
                if result["status"] != "success" or result["result"]["output"] != item["data"]:
                    raise ValueError(f"asked {item}, got {result}")

    def _batch(self, items: list[dict[str, Any]]) -> Iterator[dict[str, Any]]:
        ids = [one["id"] for one in self._ask("POST", "/api/jobs/batch", items)]
        query = "&".join(f"id={id}" for id in ids)
        results = {one["id"]: one for one in self._ask("GET", f"/api/jobs?wait=60&{query}")}
        return (results[id] for id in ids)

    def _ask(self, method: str, path: str, body: Any = None, *headers: str) -> Any:
        data = b"" if body is None else json.dumps(body).encode()
        self._exchange.write(f"{method} {path} HTTP/1.1", data, f"Host: {self._host}", *headers)
        answer = self._exchange.read()
        if answer is None or b" 200 " not in answer[0]:
            raise ValueError(f"{method} {path}: {answer}")
        return json.loads(answer[1])


def main() -> None:
    listener = socket.create_server(("127.0.0.1", 0), backlog=128)
    threading.Thread(target=contain, args=[listener], daemon=True).start()
    print(listener.getsockname()[1], flush=True)
    client = Client(input())
    for line in sys.stdin:
        client.run(*map(int, line.split()))
        print("done", flush=True)


if __name__ == "__main__":
    main()
