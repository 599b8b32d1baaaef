"""Processes of a measurement: started on a core of their own, and what they use."""

import os
import select
import subprocess
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path

START_SECONDS = 60.0
CORES = sorted(os.sched_getaffinity(0))
MEASURED = {CORES[0]}
"""Core of what is measured. Everything else shares the others."""
OTHERS = set(CORES[1:]) or MEASURED


class BenchError(Exception):
    """A measurement that cannot be made; the message says why."""


@contextmanager
def on(cores: set[int]) -> Iterator[None]:
    """Start processes on these cores: they inherit them."""
    before = os.sched_getaffinity(0)
    os.sched_setaffinity(0, cores)
    try:
        yield
    finally:
        os.sched_setaffinity(0, before)


class Process:
    """A child whose output is read by lines."""

    def __init__(
        self, command: Sequence[str | Path], cores: set[int], *, env: Mapping[str, str] | None = None, folder: Path
    ) -> None:
        self.name = Path(command[0]).name
        self._errors = (folder / f"{self.name}-{time.monotonic_ns()}.log").open("w+b")
        pipe = subprocess.PIPE
        variables = {**os.environ, **(env or {})}
        with on(cores):
            self._child = subprocess.Popen(
                [str(word) for word in command], stdin=pipe, stdout=pipe, stderr=self._errors, env=variables, cwd=folder
            )
        assert self._child.stdin
        assert self._child.stdout
        self._in, self._out = self._child.stdin, self._child.stdout
        self._read = b""

    @property
    def pid(self) -> int:
        return self._child.pid

    def write(self, line: str) -> None:
        self._in.write(line.encode() + b"\n")
        self._in.flush()

    def line(self, begins: str = "", seconds: float = START_SECONDS) -> str:
        """Return the next line that begins like this. Raise `BenchError` if there is none in time."""
        ends = time.monotonic() + seconds
        while True:
            line, found, rest = self._read.partition(b"\n")
            if found:
                self._read = rest
                if line.decode().startswith(begins):
                    return line.decode()
                continue
            ready, _, _ = select.select([self._out], [], [], max(0.0, ends - time.monotonic()))
            if not ready:
                raise BenchError(f"{self.name}: no line {begins!r} within {seconds:g} s")
            data = os.read(self._out.fileno(), 65536)
            if not data:
                raise BenchError(f"{self.name} has ended: {self.errors()}")
            self._read += data

    def errors(self) -> str:
        """Return the end of what it has written to its standard error."""
        self._child.wait(START_SECONDS)
        self._errors.seek(0)
        return self._errors.read()[-2000:].decode(errors="replace").strip()

    def end(self) -> None:
        self._in.close()
        if self._child.poll() is None:
            self._child.terminate()
        try:
            self._child.wait(20)
        except subprocess.TimeoutExpired:
            self._child.kill()
            self._child.wait()
        self._out.close()
        self._errors.close()

    def thread_seconds(self) -> dict[int, float]:
        """Return the time on a core of each thread that is there."""
        threads = Path(f"/proc/{self.pid}/task").iterdir()
        return {int(thread.name): int((thread / "schedstat").read_text().split()[0]) / 1e9 for thread in threads}

    def cpu_seconds(self) -> float:
        return sum(self.thread_seconds().values())

    def memory_mb(self, line: str = "VmRSS") -> float:
        status = Path(f"/proc/{self.pid}/status").read_text()
        return int(status.partition(f"{line}:")[2].split()[0]) / 1024


@contextmanager
def ending(*processes: Process) -> Iterator[None]:
    try:
        yield
    finally:
        for process in reversed(processes):
            process.end()
