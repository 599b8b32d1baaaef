"""Counters of a process: what Python, its event loop and SQLite do, and what the system is asked for."""

import asyncio
import gc
import re
import signal
import sqlite3
import subprocess
import sys
import threading
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from shutil import which
from types import CodeType, FrameType
from typing import Any

CALLBACK = asyncio.Handle._run.__code__
TASK = asyncio.BaseEventLoop.create_task.__code__
WAKE_UP = asyncio.BaseEventLoop.call_soon_threadsafe.__code__

OF_THE_SCHEDULER = {
    *("futex", "sched_yield", "clock_nanosleep", "restart_syscall", "rt_sigreturn"),
    *("brk", "mmap", "munmap", "mremap", "madvise", "mprotect", "getpid", "gettid"),
}
"""System calls of threads that wait for each other, and of memory. Their number depends on chance."""


class Counting:
    """Counts while `active`. Made before the threads that it has to count, since a thread is watched from its start."""

    def __init__(self) -> None:
        self.active = False
        self._calls: dict[tuple[int, CodeType | str], int] = {}
        self._statements: list[str] = []
        threading.setprofile(self._called)
        sys.setprofile(self._called)
        self._connect = sqlite3.connect
        sqlite3.connect = self._connected

    def _called(self, frame: FrameType, event: str, arg: Any) -> None:
        if not self.active or event not in ("call", "c_call"):
            return
        # by thread, so that no thread adds to a number that another one has just read
        what = frame.f_code if event == "call" else getattr(arg, "__qualname__", str(arg))
        key = threading.get_ident(), what
        self._calls[key] = self._calls.get(key, 0) + 1

    def _connected(self, *arguments: Any, **named: Any) -> sqlite3.Connection:
        connection: sqlite3.Connection = self._connect(*arguments, **named)
        connection.set_trace_callback(self._statements.append)  # no function of Python, so it adds no call
        return connection

    @contextmanager
    def counted(self) -> Iterator[dict[str, int]]:
        """Yield figures that are there when the block has ended."""
        figures: dict[str, int] = {}
        self._calls.clear()
        self._statements.clear()
        gc.collect()
        gc.disable()  # so that it leaves cycles for the count
        self.active = True
        try:
            yield figures
        finally:
            self.active = False
            figures |= self._figures() | {"cycles": gc.collect()}
            gc.enable()

    def _figures(self) -> dict[str, int]:
        by_code = self.by_code()
        commits = sum(text.upper().startswith("COMMIT") for text in self._statements)
        return {
            "calls": sum(by_code.values()),
            "callbacks": by_code[CALLBACK],
            "tasks": by_code[TASK],
            "wake-ups": by_code[WAKE_UP],
            "statements": len(self._statements),
            "commits": commits,
        }

    def by_code(self) -> Counter[CodeType | str]:
        """Return the number of calls of each function, in all threads."""
        found: Counter[CodeType | str] = Counter()
        for (_, what), number in self._calls.items():
            found[what] += number
        return found


class SystemCalls:
    """strace, attached to this process and all of its threads. It is there if `attached`; `why` says why it is not."""

    def __init__(self, pid: int, file: Path) -> None:
        self._file, self._strace = file, None
        self.why = ""
        if not which("strace"):
            self.why = "strace is not installed"
            return
        command = ["strace", "-f", "-qq", "-c", "-U", "name,calls", "-o", str(file), "-p", str(pid)]
        self._strace = subprocess.Popen(command, stderr=subprocess.PIPE, text=True)
        self._wait_until_traced(pid)

    def _wait_until_traced(self, pid: int) -> None:
        assert self._strace
        tasks = Path(f"/proc/{pid}/task")
        while not all(re.search(r"TracerPid:\s+[1-9]", (task / "status").read_text()) for task in tasks.iterdir()):
            try:
                self._strace.wait(0.01)
            except subprocess.TimeoutExpired:
                continue
            self.why = f"strace: {self._strace.communicate()[1].strip()}"
            return

    def ended(self) -> dict[str, int]:
        """Detach; return the number of calls of each kind, or none if they cannot be watched."""
        if self._strace is None or self.why:
            return {}
        self._strace.send_signal(signal.SIGINT)
        self._strace.communicate()
        rows = re.findall(r"^(\w+)\s+(\d+)$", self._file.read_text(), re.MULTILINE)
        return {name: int(number) for name, number in rows if name not in OF_THE_SCHEDULER and name != "total"}
