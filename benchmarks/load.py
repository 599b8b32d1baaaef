"""The load: clients and a container, which are a program in C. Every result is verified there."""

import hashlib
import shutil
import subprocess
import tempfile
from pathlib import Path
from typing import NamedTuple

from processes import OTHERS, BenchError, Process

SOURCE = Path(__file__).resolve().parent / "native" / "load.c"
LONGEST_SECONDS = 600.0


def program() -> Path:
    """Compile the program, once for each version of its source. Raise `BenchError` without a compiler."""
    compiler = shutil.which("gcc") or shutil.which("cc")
    if compiler is None:
        raise BenchError("the load is a program in C, and there is no gcc: apt-get install gcc libc6-dev")
    digest = hashlib.sha256(SOURCE.read_bytes()).hexdigest()[:16]
    built = Path(tempfile.gettempdir()) / f"nodekit-bench-{digest}"
    if not built.exists():
        with tempfile.TemporaryDirectory() as folder:  # on another path first, for others who compile it just now
            made = Path(folder) / "load"
            done = subprocess.run([compiler, "-O2", "-o", made, SOURCE], capture_output=True, text=True, check=False)
            if done.returncode:
                raise BenchError(f"{compiler} cannot compile {SOURCE}: {done.stderr}")
            shutil.copy2(made, f"{built}.{digest}")
        Path(f"{built}.{digest}").rename(built)
    return built


class Jobs(NamedTuple):
    """Jobs to submit, all of the same kind. Times are in milliseconds; `payload` is in bytes."""

    clients: int = 32
    steps: int = 1
    batch: int = 1
    wait: bool = False
    poll: float = 0.0
    payload: int = 10
    delay: float = 0.0

    def order(self, port: int, count: int, header: str) -> str:
        wait = int(self.wait)
        words = (port, self.clients, count, self.steps, self.batch, wait, self.poll, self.payload, self.delay, header)
        return "jobs " + " ".join(map(str, words))


class Gets(NamedTuple):
    """Requests of one path."""

    path: str
    clients: int = 32
    batch: int = 1

    def order(self, port: int, count: int, header: str) -> str:
        return f"gets {port} {self.clients} {count} {self.path} {header}"


class Load:
    """Clients of one subject, and its container."""

    def __init__(self, folder: Path, *, plant: bool = False) -> None:
        self._process = Process([program(), *["plant"] * plant], OTHERS, folder=folder)
        self.container = int(self._process.line("container").split()[1])

    def begin(self, what: Jobs | Gets, port: int, count: int, header: str) -> float:
        """Do this many jobs or requests. Return the seconds until the container has answered the last call."""
        self._process.write(what.order(port, count, header))
        return float(self._process.line("called", LONGEST_SECONDS).split()[1])

    def verify(self) -> tuple[float, float]:
        """Compare every result. Return the median and the 99th percentile of latencies, in milliseconds.

        Raise `BenchError` if a result is wrong.
        """
        self._process.write("verify")
        _, _, median, last = self._process.line("verified", LONGEST_SECONDS).split()
        return float(median) / 1000, float(last) / 1000

    def cpu_seconds(self) -> float:
        return self._process.cpu_seconds()

    def end(self) -> None:
        self._process.end()
