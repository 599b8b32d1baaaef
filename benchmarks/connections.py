"""Measure calls of containers that hold connections differently. Run: ``python benchmarks/connections.py``.

Each container is a process of its own. `one thread` serves one connection until it ends, as the standard library's
`HTTPServer` does; `threads` has a thread for each connection.
"""

import argparse
import asyncio
import json
import subprocess
import sys
import time
from http.server import BaseHTTPRequestHandler, HTTPServer, ThreadingHTTPServer

from nodekit.testing import make_step
from nodekit_remote import RemoteContainer, RemoteRunner

SERVERS = {"one thread": HTTPServer, "threads": ThreadingHTTPServer}


class Sleeper(BaseHTTPRequestHandler):
    """A container that gives its input back after the time that it asks for."""

    protocol_version = "HTTP/1.1"
    disable_nagle_algorithm = True

    def do_POST(self) -> None:
        data = json.loads(self.rfile.read(int(self.headers["Content-Length"])))["data"]
        time.sleep(data["seconds"])
        body = json.dumps(data).encode()
        self.send_response(200)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, format: str, *args: object) -> None:
        """Log nothing."""


def serve(kind: str) -> None:
    SERVERS[kind].request_queue_size = 128
    server = SERVERS[kind](("127.0.0.1", 0), Sleeper)
    print(server.server_port, flush=True)
    server.serve_forever()


async def measure(port: int, calls: int, at_once: int, seconds: float) -> float:
    """Return the seconds that the calls take."""
    waiting = iter(range(calls))
    async with RemoteRunner(RemoteContainer(id="x", url=f"http://127.0.0.1:{port}")) as runner:

        async def caller() -> None:
            for number in waiting:
                await runner.run(make_step("x", data={"seconds": seconds, "n": number}))

        began = time.perf_counter()
        async with asyncio.TaskGroup() as tasks:
            for _ in range(at_once):
                tasks.create_task(caller())
        return time.perf_counter() - began


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--serve", help=argparse.SUPPRESS)
    if (kind := parser.parse_args().serve) is not None:
        serve(kind)
    for kind, calls, at_once, seconds in (
        ("one thread", 10, 8, 0.2),
        ("one thread", 100, 8, 0.005),
        ("one thread", 500, 1, 0.0),
        ("threads", 2000, 1, 0.0),
        ("threads", 2000, 16, 0.0),
        ("threads", 160, 16, 0.05),
    ):
        with subprocess.Popen([sys.executable, __file__, "--serve", kind], stdout=subprocess.PIPE, text=True) as server:
            assert server.stdout
            took = asyncio.run(measure(int(server.stdout.readline()), calls, at_once, seconds))
            server.kill()
        print(f"{kind}: {calls} calls of {seconds:g} s, {at_once} at once: {took:.2f} s, {calls / took:.0f}/s")


if __name__ == "__main__":
    main()
