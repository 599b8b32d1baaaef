"""`nodekit serve` as a process of its own."""

import os
import re
import signal
import subprocess
import sys
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import aiohttp
import anyio
import anyio.to_thread
import pytest
from components import until
from http_api import Api

NODEKIT = (sys.executable, "-m", "nodekit.cli")


def nodekit(*arguments: str | Path, **env: str) -> "subprocess.CompletedProcess[str]":
    """Run a command to its end, with these variables added to the environment."""
    command, given = [*NODEKIT, *map(str, arguments)], {**os.environ, **env}
    return subprocess.run(command, env=given, capture_output=True, text=True, timeout=60, check=False)


class Served:
    """A node's process."""

    def __init__(self, process: subprocess.Popen[bytes], out: Path, log: Path) -> None:
        self.process = process
        self._out, self._log = out, log

    @property
    def out(self) -> str:
        return self._out.read_text()

    @property
    def log(self) -> str:
        return self._log.read_text()

    @property
    def url(self) -> str | None:
        found = re.search(r"^listening on (\S+)$", self.out, re.MULTILINE)
        return found and found[1]

    @property
    def resident_bytes(self) -> int:
        status = Path(f"/proc/{self.process.pid}/status").read_text()
        found = re.search(r"VmRSS:\s+(\d+) kB", status)
        assert found
        return int(found[1]) * 1024

    @property
    def descriptors(self) -> int:
        """Number of open descriptors. A node hides them from others than root."""
        try:
            return len(os.listdir(f"/proc/{self.process.pid}/fd"))
        except PermissionError:
            pytest.skip("only root sees the descriptors of a node")

    def signal(self, number: signal.Signals) -> None:
        self.process.send_signal(number)

    async def ended(self) -> int:
        """Wait for the end of the process; return the exit code."""
        return await anyio.to_thread.run_sync(lambda: self.process.wait(60))


@asynccontextmanager
async def started(
    *arguments: str | Path,
    folder: Path,
    env: Mapping[str, str] | None = None,
    open_files: int | None = None,
    under: Sequence[str] = (),
    python: str | Path = sys.executable,
) -> AsyncIterator[Served]:
    """Run `nodekit` with these arguments, with `open_files` or as many open files as `ulimit -n` allows.

    `python` is that of an environment, and `under` the beginning of a command that becomes it. The process is killed at
    the end if it still runs.
    """

    prefix = [*under] if open_files is None else ["sh", "-c", f'ulimit -n {open_files} && exec "$@"', "sh", *under]
    number = len(list(folder.glob("node-*.log")))
    out, log = folder / f"node-{number}.out", folder / f"node-{number}.log"
    with out.open("wb") as stdout, log.open("wb") as stderr:
        command = [*prefix, str(python), *NODEKIT[1:], *map(str, arguments)]
        process = subprocess.Popen(command, stdout=stdout, stderr=stderr, env=env)
    try:
        yield Served(process, out, log)
    finally:
        if process.poll() is None:
            process.kill()
        process.wait()


@asynccontextmanager
async def serve(
    file: Path,
    *arguments: str,
    env: Mapping[str, str] | None = None,
    open_files: int | None = None,
    under: Sequence[str] = (),
) -> AsyncIterator[tuple[Served, Api]]:
    """Run `nodekit serve`; yield it, listening, and a client of it."""
    given: dict[str, Any] = {"folder": file.parent, "env": env, "open_files": open_files, "under": under}
    async with started("serve", file, *arguments, **given) as served:
        await until(lambda: served.url or served.process.poll() is not None)
        assert served.url, served.log
        async with aiohttp.ClientSession() as session:
            yield served, Api(served.url, session)
