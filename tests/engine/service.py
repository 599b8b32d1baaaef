"""A container for tests: it speaks the protocol of containers, and does what a job's data and its environment say.

Data: a number is answered with itself plus ADD; `{"do": name, …}` is one of the functions below; all else is echoed.

PORT (3000)       where it listens
ADD (0)           what is added to a number
START_SECONDS     it listens only after that long
CRASH             it prints a line and ends with this code before it listens
CRASH_TIMES       … only at its first so many starts in this container
IGNORE_SIGTERM    it has to be killed
"""

import contextlib
import fcntl
import http.client
import json
import os
import signal
import socket
import struct
import sys
import time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

ENV = os.environ
STARTS = Path("/tmp/starts")


def act(data: Any) -> Any:
    if isinstance(data, int | float) and not isinstance(data, bool):
        return data + int(ENV.get("ADD", "0"))
    if isinstance(data, dict) and "do" in data:
        arguments = dict(data)
        return ACTIONS[arguments.pop("do")](**arguments)
    return data


def sleep(seconds: float, then: Any = None) -> Any:
    time.sleep(seconds)
    return then


def leave(code: int = 1, lines: list[str] | None = None) -> None:
    say(lines or [])
    os._exit(code)


def die() -> None:
    """End as after `kill -9`. Process 1 (a container without `init`) cannot; it exits with the same code."""
    os.kill(os.getpid(), signal.SIGKILL)
    os._exit(137)


def eat(mebibytes: int = 1 << 20) -> int:
    """Allocate this many MiB; by default, until the process is killed for it."""
    eaten = [os.urandom(1 << 20) for _ in range(mebibytes)]
    return len(eaten)


def fork(count: int) -> int:
    """Return the number of processes that could be started, up to `count`; they end before the answer."""
    children: list[int] = []
    with contextlib.suppress(BlockingIOError):
        while len(children) < count:
            child = os.fork()
            if child == 0:
                signal.pause()
            children.append(child)
    for child in children:
        os.kill(child, signal.SIGKILL)
        os.waitpid(child, 0)
    return len(children)


def say(lines: list[str], to: str = "stdout") -> list[str]:
    for line in lines:
        print(line, file=getattr(sys, to), flush=True)
    return lines


def connect(host: str, port: int) -> str:
    """Connect to an address; return `"connected"`, or the error."""
    try:
        socket.create_connection((host, port), timeout=2).close()
    except OSError as error:
        return f"{type(error).__name__}: {error}"
    return "connected"


def post(host: str, port: int, path: str, body: Any) -> list[Any]:
    """Post JSON to a server; return the status and the text of its reply."""
    connection = http.client.HTTPConnection(host, port, timeout=10)
    connection.request("POST", path, json.dumps(body), {"Content-Type": "application/json"})
    reply = connection.getresponse()
    return [reply.status, reply.read().decode()]


def report(write: list[str] | None = None, read: list[str] | None = None) -> dict[str, Any]:
    """Describe the container from inside; try to access the paths in `write` and `read`."""
    status = dict(line.split(":\t", 1) for line in Path("/proc/self/status").read_text().splitlines())
    return {
        "hostname": socket.gethostname(),
        "pid": os.getpid(),
        "uid": os.getuid(),
        "gid": os.getgid(),
        "argv": sys.argv[1:],
        "env": dict(ENV),
        "capabilities": int(status["CapEff"], 16),
        "bounding_capabilities": int(status["CapBnd"], 16),
        "no_new_privileges": status["NoNewPrivs"] == "1",
        "pids_limit": _limit("pids/pids.max", "pids.max"),
        "memory_limit": _limit("memory/memory.limit_in_bytes", "memory.max"),
        "init": Path("/proc/1/comm").read_text().strip(),
        "addresses": addresses(),
        "write": {path: _tried(lambda path=path: Path(path).write_text("x") and "ok") for path in write or ()},
        "read": {path: _tried(Path(path).read_text) for path in read or ()},
    }


def _limit(*names: str) -> str | None:
    """Return a limit of control groups, version 1 or 2."""
    for path in (Path("/sys/fs/cgroup") / name for name in names):
        if path.exists():
            return path.read_text().strip()
    return None


def _tried(attempt: Any) -> str:
    try:
        return str(attempt())
    except OSError as error:
        return f"{type(error).__name__}: {error}"


def addresses() -> dict[str, str]:
    """Return the IPv4 address of each interface."""
    found: dict[str, str] = {}
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe:
        for _, name in socket.if_nameindex():
            with contextlib.suppress(OSError):
                packed = fcntl.ioctl(probe, 0x8915, struct.pack("256s", name.encode()))  # SIOCGIFADDR
                found[name] = socket.inet_ntoa(packed[20:24])
    return found


ACTIONS: dict[str, Any] = {
    "sleep": sleep,
    "exit": leave,
    "die": die,
    "eat": eat,
    "fork": fork,
    "print": say,
    "connect": connect,
    "post": post,
    "report": report,
}


class Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"  # keeps connections open
    disable_nagle_algorithm = True

    def do_GET(self) -> None:
        self.reply(200 if self.path == "/health" else 404, {})

    def do_POST(self) -> None:
        body = json.loads(self.rfile.read(int(self.headers.get("Content-Length", 0))))
        if self.path != "/service_output":
            return self.reply(404, {"error": "not found"})
        try:
            return self.reply(200, act(body["data"]))
        except Exception as error:
            return self.reply(400, {"error": f"{type(error).__name__}: {error}"})

    def reply(self, status: int, value: Any) -> None:
        body = json.dumps(value, ensure_ascii=False).encode()
        self.send_response(status)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, format: str, *args: Any) -> None:
        """Log nothing per request."""


class Server(ThreadingHTTPServer):
    daemon_threads = True
    request_queue_size = 1024


def crash() -> None:
    if "CRASH" not in ENV:
        return
    starts = int(STARTS.read_text()) if STARTS.exists() else 0
    if starts < int(ENV.get("CRASH_TIMES", "1000000")):
        with contextlib.suppress(OSError):  # a read-only container crashes for ever
            STARTS.write_text(str(starts + 1))
        leave(int(ENV["CRASH"]), [f"crashing as told, with {ENV['CRASH']}"])


def main() -> None:
    signal.signal(signal.SIGTERM, signal.SIG_IGN if "IGNORE_SIGTERM" in ENV else lambda number, frame: sys.exit(0))
    say(["starting"])
    crash()
    time.sleep(float(ENV.get("START_SECONDS", "0")))
    with Server(("0.0.0.0", int(ENV.get("PORT", "3000"))), Handler) as server:
        say(["listening"])
        server.serve_forever()


if __name__ == "__main__":
    main()
