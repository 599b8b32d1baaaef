"""A log that nobody takes: the node serves, answers and stops as if it had none."""

import json
import os
import signal
import socket
import subprocess
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager, suppress
from pathlib import Path
from typing import Any

import aiohttp
import anyio.to_thread
import pytest
from components import PATIENCE_SECONDS, until
from http_api import Api, free_port
from node_files import write
from served import NODEKIT

from nodekit.cli.serve.log.line_writer import MOST_BYTES

NODE = """
[node]
drain_seconds = 5

[log]
access = true
{log}

[store]
use = "sqlite"
path = "jobs.db"

[[runners]]
use = "function"

[[runners.containers]]
id = "noisy"
call = "noisy.py:noisy"

[[transports]]
use = "asgi"
bind = "127.0.0.1:{port}"
"""
NOISY = """
import logging, sys, threading, warnings

async def noisy(data):
    text = "x" * 1000
    for number in range(data["lines"]):
        print(text)
        print(text, file=sys.stderr)
        logging.getLogger("library").error(text)
    sys.stdout.buffer.write(b"bytes\\n")
    warnings.warn("a warning of a library", stacklevel=1)
    thread = threading.Thread(target=lambda: 1 / 0)
    thread.start()
    thread.join()
    return {"done": True}
"""
LINES = 2 * MOST_BYTES // 1000
"""Lines of `noisy` that fill each queue."""


@pytest.fixture
def anyio_backend() -> str:
    return "asyncio"


class Blocked:
    """A node whose standard output and error are pipes that nobody reads."""

    def __init__(self, process: "subprocess.Popen[bytes]", out: int, err: int) -> None:
        self.process = process
        self.out, self.err = out, err

    async def stopped(self) -> int:
        self.process.send_signal(signal.SIGTERM)
        return await anyio.to_thread.run_sync(lambda: self.process.wait(PATIENCE_SECONDS))


@asynccontextmanager
async def serving(folder: Path, log: str = "", streams: Mapping[str, int] | None = None) -> AsyncIterator[Any]:
    """Serve a node with these streams; pipes by default."""
    (folder / "noisy.py").write_text(NOISY)
    port = free_port()
    file = write(folder, NODE.format(log=log, port=port))
    (out, its_out), (err, its_err) = os.pipe(), os.pipe()
    given: dict[str, Any] = {"stdout": its_out, "stderr": its_err, **(streams or {})}
    process = subprocess.Popen([*NODEKIT, "serve", str(file)], **given)
    os.close(its_out)
    os.close(its_err)
    try:
        async with aiohttp.ClientSession() as session:
            api = Api(f"http://127.0.0.1:{port}", session)

            def answers() -> bool:
                with suppress(OSError), socket.create_connection(("127.0.0.1", port)):
                    return True
                return False

            await until(lambda: answers() or process.poll() is not None)
            assert process.poll() is None
            yield Blocked(process, out, err), api
    finally:
        process.kill()
        process.wait()
        os.close(out)
        os.close(err)


async def make_noise(api: Api) -> None:
    (result,) = await api.results(await api.submit("noisy", lines=LINES))
    assert result["status"] == "success"
    assert (await api.get("/health")).status == 200


@pytest.mark.anyio
async def test_a_node_whose_output_and_errors_nobody_reads_serves_and_stops(tmp_path: Path) -> None:
    async with serving(tmp_path, 'path = "own.log"\nmax_file_bytes = 0') as (node, api):
        await make_noise(api)
        assert await node.stopped() == 0
    text = (tmp_path / "own.log").read_text()
    assert "standard error takes no more lines for now; they are dropped and counted" in text
    assert "nodekit.stderr: xxx" in text
    assert "a warning of a library" in text
    assert "ZeroDivisionError" in text
    assert text.splitlines()[-1].endswith("nodekit: stopped")


@pytest.mark.anyio
async def test_lines_that_were_dropped_are_counted_once_standard_error_is_read_again(tmp_path: Path) -> None:
    async with serving(tmp_path) as (node, api):
        await make_noise(api)
        seen = bytearray()
        os.set_blocking(node.err, False)

        def read() -> None:
            with suppress(BlockingIOError):
                while piece := os.read(node.err, 1 << 20):
                    seen.extend(piece)

        def flows() -> bool:
            read()
            return b" lines were dropped: standard error was not read\n" in seen

        await until(flows)
        assert (await api.get("/info?token=secret&limit=5")).status == 400

        def is_logged() -> bool:
            read()
            return b'"GET /info?...&limit=5" 400' in seen

        await until(is_logged)
        assert await node.stopped() == 0
        read()
    lines = seen.decode().splitlines()
    assert all(line.startswith(("20", "  | ")) for line in lines)
    assert lines[-1].endswith("nodekit: stopped")
    assert "secret" not in seen.decode()


@pytest.mark.anyio
async def test_a_log_file_that_hangs_stops_nothing_and_is_reported(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "own.log")
    with (tmp_path / "err").open("wb") as err:
        streams = {"stdout": subprocess.DEVNULL, "stderr": err.fileno()}
        async with serving(tmp_path, 'path = "own.log"', streams) as (node, api):
            await make_noise(api)
            assert await node.stopped() == 0
    text = (tmp_path / "err").read_text()
    assert f"the log file {tmp_path}/own.log takes no more lines for now" in text
    assert text.splitlines()[-1].endswith("nodekit: stopped")


@pytest.mark.anyio
async def test_a_node_file_with_a_problem_is_reported_though_nobody_reads_that(tmp_path: Path) -> None:
    reader, writer = os.pipe()
    os.set_blocking(writer, False)
    with suppress(BlockingIOError):
        while os.write(writer, b"x" * 4096):
            pass
    os.set_blocking(writer, True)
    file = write(tmp_path, "[store]\nuse = 'nothing'\n")
    process = subprocess.Popen([*NODEKIT, "serve", str(file)], stderr=writer)
    assert await anyio.to_thread.run_sync(lambda: process.wait(PATIENCE_SECONDS)) == 3
    os.close(reader)
    os.close(writer)


@pytest.mark.anyio
async def test_a_node_whose_streams_are_closed_gives_their_numbers_to_nothing_else(tmp_path: Path) -> None:
    (tmp_path / "noisy.py").write_text(NOISY)
    port = free_port()
    file = write(tmp_path, NODE.format(log='path = "own.log"', port=port))
    process = subprocess.Popen(["sh", "-c", 'exec "$@" <&- >&- 2>&-', "sh", *NODEKIT, "serve", str(file)])
    try:
        log = tmp_path / "own.log"
        await until(lambda: (log.exists() and "nodekit 0" in log.read_text()) or process.poll() is not None)
        if os.geteuid() == 0:  # a node hides them from others
            descriptors = [os.readlink(f"/proc/{process.pid}/fd/{number}") for number in (0, 1, 2)]
            assert descriptors == ["/dev/null"] * 3
        async with aiohttp.ClientSession() as session:
            await make_noise(Api(f"http://127.0.0.1:{port}", session))
        process.send_signal(signal.SIGTERM)
        assert await anyio.to_thread.run_sync(lambda: process.wait(PATIENCE_SECONDS)) == 0
    finally:
        process.kill()
        process.wait()
    assert "Traceback" not in log.read_text().replace("Traceback (most recent call last):\n  |   File", "")


@pytest.mark.anyio
async def test_full_streams_and_readers_that_have_left_stop_nothing(tmp_path: Path) -> None:
    reader, writer = os.pipe()
    os.close(reader)
    with open("/dev/full", "wb") as full, os.fdopen(writer, "wb") as unread:
        streams = {"stdout": full.fileno(), "stderr": unread.fileno()}
        async with serving(tmp_path, 'path = "own.log"\nformat = "json"', streams) as (node, api):
            await api.results(await api.submit("noisy", lines=3))
            assert await node.stopped() == 0
    records = [json.loads(line) for line in (tmp_path / "own.log").read_text().splitlines()]
    told = [record["message"] for record in records if record["logger"] == "nodekit.log"]
    assert "standard output cannot be written: No space left on device; the log goes on here" in told
    assert "standard error cannot be written: Broken pipe; the log goes on here" in told
    assert [record["message"] for record in records if record["logger"] == "nodekit.stderr"] == ["x" * 1000] * 3
    assert next(record["path"] for record in records if record["logger"] == "nodekit.access") == "/api/jobs"
    assert records[-1]["message"] == "stopped"
