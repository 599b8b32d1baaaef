"""A node that is stopped for seconds: the time that it lost is not held against containers."""

import signal
import socket
import threading
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import anyio
import pytest
from components import until
from served import serve
from service_process import service

pytestmark = [pytest.mark.anyio, pytest.mark.xdist_group("frozen")]

JOBS = 200
FROZEN_SECONDS = 6.5
SYN_SENT = "02"

NODE_FILE = """
[node]
concurrency = 64
[node.each_client]
concurrency = 64
max_pending = 10000

[store]
use = "memory"

[[runners]]
use = "remote"
connect_timeout_seconds = 4

[[runners.containers]]
id = "quick"
url = "{url}/0.05"
timeout_seconds = 5

[[runners.containers]]
id = "slow"
url = "{url}/1.5"
timeout_seconds = 5

[[runners.containers]]
id = "busy"
url = "{busy}"
timeout_seconds = 5
when_down = "fail"

[[transports]]
use = "asgi"
bind = "127.0.0.1:0"
"""


@pytest.fixture
def anyio_backend() -> str:
    return "asyncio"


class Busy:
    """A container that takes no more connections until it is let. Then it takes those that have waited."""

    def __init__(self) -> None:
        self._listener = socket.create_server(("127.0.0.1", 0), backlog=0)
        self.port = self._listener.getsockname()[1]
        self.fillers: list[socket.socket] = []
        while not self._is_full():
            pass

    def _is_full(self) -> bool:
        self.fillers.append(filler := socket.socket())
        filler.settimeout(0.5)
        try:
            filler.connect(("127.0.0.1", self.port))
        except TimeoutError:
            return True
        return False

    @property
    def is_called(self) -> bool:
        """True while a connection that was begun waits for room in the backlog, but for the last of the fillers."""
        lines = Path("/proc/net/tcp").read_text().splitlines()[1:]
        there = f"{self.port:04X}"
        found = [line.split() for line in lines]
        return any(one[2].endswith(f":{there}") and one[3] == SYN_SENT for one in found)

    def let(self) -> None:
        for filler in self.fillers:
            filler.close()
        threading.Thread(target=self._accept, daemon=True).start()

    def close(self) -> None:
        with suppress(OSError):
            self._listener.shutdown(socket.SHUT_RDWR)
        self._listener.close()
        for filler in self.fillers:
            filler.close()

    def _accept(self) -> None:
        with suppress(OSError):
            while True:
                connection, _ = self._listener.accept()
                threading.Thread(target=self._answer, args=(connection,), daemon=True).start()

    def _answer(self, connection: socket.socket) -> None:
        with connection, suppress(OSError):
            while connection.recv(65536):
                connection.sendall(b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\n{}")


@pytest.fixture
def busy() -> Iterator[Busy]:
    busy = Busy()
    busy.fillers.pop().close()  # the one that waits
    yield busy
    busy.close()


async def test_no_job_of_a_node_that_was_stopped_fails(tmp_path: Path, busy: Busy) -> None:
    async with service() as url:
        file = tmp_path / "node.toml"
        file.write_text(NODE_FILE.format(url=url, busy=f"http://127.0.0.1:{busy.port}"))
        async with serve(file) as (served, api):
            items = [{"containers": ["slow" if n % 20 == 0 else "quick"], "data": {"n": n}} for n in range(JOBS)]
            answer = await api.call("POST", "/api/jobs/batch", json=items)
            ids = [one["id"] for one in answer.json]
            ids.append(await api.submit("busy"))
            await until(lambda: busy.is_called)
            served.signal(signal.SIGSTOP)
            busy.let()
            await anyio.sleep(FROZEN_SECONDS)
            served.signal(signal.SIGCONT)
            found: list[dict[str, Any]] = []
            for start in range(0, len(ids), 100):
                query = "&".join(f"id={id}" for id in ids[start : start + 100])
                with anyio.fail_after(120):
                    jobs = [{"status": "running"}]
                    while any(job["status"] == "running" for job in jobs):
                        jobs = (await api.call("GET", f"/api/jobs?{query}&wait=30")).json
                found += jobs
            failed = [job["result"] for job in found if job["status"] != "success"]
            assert (len(found), failed) == (JOBS + 1, [])
