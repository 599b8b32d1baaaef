"""Processes that may hang, crash and leave others behind. Each gets a time limit, and its session is ended."""

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path

import msgspec

_LOOK_SECONDS = 0.05
_END_SECONDS = 5.0
_LAST_LINES = 8
_LAST_LETTERS = 1000
_DROPPED = ("PYTHONWARNINGS", "PYTEST_ADDOPTS", "PYTEST_PLUGINS", "PYTEST_CURRENT_TEST")
"""Environment variables that are removed because they would change which tests run, or how."""


class Finished(msgspec.Struct, frozen=True):
    """The end of a process.

    - `exit_code`: None if it showed no sign of life for too long and was killed.
    """

    exit_code: int | None
    last_lines: str


def run(
    arguments: Sequence[str],
    *,
    folder: Path,
    life: Callable[[], object],
    start_seconds: float,
    seconds: float = _END_SECONDS,
    cwd: Path | None = None,
    **env: str,
) -> Finished:
    """Run Python with these arguments until it ends, or until `life` returns the same value for `seconds`.

    Until the value changes for the first time, the limit is `start_seconds`. All that the process leaves in its session
    is killed. Its temporary files go into `folder`.
    """
    output = folder / "output.log"
    with output.open("wb") as log, _started(arguments, log.fileno(), cwd, _environment(folder, env)) as process:
        ended = _ends(process, life, start_seconds, seconds)
    lines = output.read_text(encoding="utf-8", errors="replace").splitlines()
    return Finished(process.returncode if ended else None, "\n".join(lines[-_LAST_LINES:])[-_LAST_LETTERS:])


def _ends(process: "subprocess.Popen[bytes]", life: Callable[[], object], start_seconds: float, seconds: float) -> bool:
    """Return True if the process ends by itself in time.

    The process is not reaped here, so that its id is not reused before its group is killed.
    """
    seen, since, limit = life(), time.monotonic(), start_seconds
    while not os.waitid(os.P_PID, process.pid, os.WEXITED | os.WNOHANG | os.WNOWAIT):
        time.sleep(_LOOK_SECONDS)
        if (now := life()) != seen:
            seen, since, limit = now, time.monotonic(), seconds
        elif time.monotonic() - since > limit:
            return False
    return True


@contextmanager
def _started(
    arguments: Sequence[str], log: int, cwd: Path | None, env: Mapping[str, str]
) -> "Iterator[subprocess.Popen[bytes]]":
    process = subprocess.Popen(  # noqa: S603 - this Python, and modules of ours
        [sys.executable, *arguments],
        stdin=subprocess.DEVNULL,
        stdout=log,
        stderr=subprocess.STDOUT,
        env=env,
        cwd=cwd,
        start_new_session=True,
    )
    try:
        yield process
    finally:
        with suppress(ProcessLookupError, PermissionError):
            os.killpg(process.pid, signal.SIGKILL)  # also the processes that it has left behind
        process.wait()


def _environment(folder: Path, more: Mapping[str, str]) -> dict[str, str]:
    kept = {name: value for name, value in os.environ.items() if name not in _DROPPED}
    fresh = {"TMPDIR": str(folder), "PYTHONDONTWRITEBYTECODE": "1", "HYPOTHESIS_STORAGE_DIRECTORY": str(folder)}
    return {**kept, **fresh, **more}
