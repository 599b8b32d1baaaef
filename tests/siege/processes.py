"""Attacks on the containers of a node that are processes. They come from the same machine, beside the target."""

import asyncio
import json
import os
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from uuid import uuid4

from served import serve
from shapes import SERVER, SHAPES, tables
from witnessed import witnessed

NOBODY = 65534

NODE_FILE = """
store = {{ use = "memory" }}

[[runners]]
use = "process"
{tables}
[[transports]]
use = "asgi"
bind = "127.0.0.1:0"
"""

SECRET = "sesame"

STRANGER = r"""
import os, re, selectors, socket, sys
got = open(sys.argv[2], "ab", buffering=0)
os.setuid(int(sys.argv[1]))
ready, taken = selectors.DefaultSelector(), set()
print("ready", flush=True)
while True:
    for port in set(re.findall(r"@nodekit-port-(\d+)", open("/proc/net/unix").read())) - taken:
        listener = socket.socket()
        try:
            listener.bind(("127.0.0.1", int(port)))
        except OSError:
            listener.close()
            continue
        listener.listen()
        taken.add(port)
        got.write(b"@")
        ready.register(listener, selectors.EVENT_READ)
    for key, _ in ready.select(0.0005):
        if key.fileobj.getsockname()[1] and key.data is None:
            connection, _ = key.fileobj.accept()
            ready.register(connection, selectors.EVENT_READ, "connection")
        elif data := key.fileobj.recv(65536):
            got.write(data)
            key.fileobj.send(b'HTTP/1.1 200 OK\r\nContent-Length: 8\r\n\r\n"forged"')
        else:
            ready.unregister(key.fileobj)
            key.fileobj.close()
"""
"""It takes each port that a container is given as soon as the port is reserved, and answers there."""


async def killed_nodes(seconds: float) -> None:
    """Kill nodes whose containers try to outlive them. Nothing may be left two seconds later."""
    end = time.monotonic() + seconds
    with tempfile.TemporaryDirectory() as name:
        file, mark = Path(name) / "node.toml", uuid4().hex
        file.write_text(NODE_FILE.format(tables=tables(["shell", *SHAPES], mark)))
        while time.monotonic() < end:
            async with witnessed(file) as served:
                await asyncio.sleep(0.4)
                served.signal(signal.SIGKILL)
                await served.nothing_is_left()
                assert served.seconds < 2, f"something lived for {served.seconds:.1f} s"


@contextmanager
def _stranger(got: Path) -> Iterator[None]:
    """Run a program of another user; without the right to that, of the same."""
    got.touch()
    user = os.geteuid() or NOBODY
    command = [sys.executable, "-ISc", STRANGER, str(user), str(got)]
    with subprocess.Popen(command, stdout=subprocess.PIPE) as process:
        assert process.stdout
        assert process.stdout.readline() == b"ready\n"
        try:
            yield
        finally:
            process.kill()


async def strangers_at_ports(seconds: float) -> None:
    """Take the ports that containers are given. The stranger gets no byte; who inherits a port works on."""
    end = time.monotonic() + seconds
    command = json.dumps([sys.executable, "-ISc", f"import time\ntime.sleep(0.1)\n{SERVER}\nserve()\n"])

    def table(id: str, more: str) -> str:
        return f'[[runners.containers]]\nid = "{id}"\ncommand = {command}\nbearer = {{ env = "SECRET" }}\n{more}\n'

    made = [table(f"c{number}", "required = false\nstartup_seconds = 5") for number in range(4)]
    made.append(table("inherits", 'listen = "inherit"'))
    with tempfile.TemporaryDirectory() as name:
        file, got = Path(name) / "node.toml", Path(name) / "got"
        file.write_text(NODE_FILE.format(tables="".join(made)))
        with _stranger(got):
            async with serve(file, env={**os.environ, "SECRET": SECRET}) as (_, api):
                while time.monotonic() < end:
                    answer = await api.post("/api/jobs", {"containers": ["inherits"], "data": {}})
                    [job] = await api.results(answer.json["id"])
                    assert job["status"] == "success", job
                    await asyncio.sleep(0.05)
        data = got.read_bytes()
        assert data.strip(b"@") == b"", f"the stranger got {data!r:.200}"
        assert data, "it took no port"
