"""Processes that may hang, crash and leave others behind: each is given a limit, and an end."""

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
"""What would make the tests others than those of the package."""


class Finished(msgspec.Struct, frozen=True):
    """How a process ended."""

    exit_code: int | None
    """None: it showed no sign of life for too long, and was ended."""
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
    """Run Python with these arguments until it ends, or `life` gives the same for `seconds`.

    At first, that is `start_seconds`.
    Whatever it leaves in its session is ended with it. `folder` is where it has its temporary files.
    """
    output = folder / "output.log"
    with output.open("wb") as log, _started(arguments, log.fileno(), cwd, _environment(folder, env)) as process:
        ended = _ends(process, life, start_seconds, seconds)
    lines = output.read_text(encoding="utf-8", errors="replace").splitlines()
    return Finished(process.returncode if ended else None, "\n".join(lines[-_LAST_LINES:])[-_LAST_LETTERS:])


def _ends(process: "subprocess.Popen[bytes]", life: Callable[[], object], start_seconds: float, seconds: float) -> bool:
    """Whether it does by itself. It is not waited for, so that its id is no other's until its group was ended."""
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
            os.killpg(process.pid, signal.SIGKILL)  # also those that it has left behind
        process.wait()


def _environment(folder: Path, more: Mapping[str, str]) -> dict[str, str]:
    kept = {name: value for name, value in os.environ.items() if name not in _DROPPED}
    fresh = {"TMPDIR": str(folder), "PYTHONDONTWRITEBYTECODE": "1", "HYPOTHESIS_STORAGE_DIRECTORY": str(folder)}
    return {**kept, **fresh, **more}
