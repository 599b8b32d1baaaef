"""Forked copies of this process that are killed; data that they report as kept must exist afterwards."""

import math
import os
import select
import signal
import time
import traceback
import warnings
from collections.abc import Callable
from typing import NoReturn, TypeAlias

Report: TypeAlias = Callable[[bytes], None]
"""Sends a line without a newline to the process that kills."""

_FAILED = b"failed "


def reported_until_killed(
    live: Callable[[Report], object], *, lines: int, seconds: float, later_seconds: float = 0.0
) -> list[bytes]:
    """Fork a child, kill it `later_seconds` after it has sent `lines` lines, and return all lines that it sent.

    Raises `AssertionError` if the child fails, ends by itself, or takes longer than `seconds`.
    """
    ears, mouth = os.pipe()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)  # about a fork with threads; the child needs none
        child = os.fork()
    if child == 0:
        os.close(ears)
        _live(live, mouth)
    os.close(mouth)
    try:
        try:
            heard = _listen(ears, lines, seconds)
            if later_seconds and heard.count(b"\n") >= lines:
                heard += _listen(ears, math.inf, later_seconds)
        finally:
            os.kill(child, signal.SIGKILL)  # not waited for yet, so its id still belongs to it
            os.waitpid(child, 0)
        heard += _listen(ears, math.inf, 0)
    finally:
        os.close(ears)
    reported = heard.split(b"\n")[:-1]  # the last line may be incomplete
    if failed := [line for line in reported if line.startswith(_FAILED)]:
        text = failed[0].removeprefix(_FAILED).decode(errors="replace").replace("\0", "\n")
        raise AssertionError(f"the process ended by itself before it was killed:\n{text}")
    if len(reported) < lines:
        raise AssertionError(
            f"before it was killed, the process did {len(reported)} of {lines} things in {seconds:g} s"
        )
    return reported


def _listen(ears: int, lines: float, seconds: float) -> bytes:
    """Return the input until a limit is reached; with 0 seconds, what is there. Others may hold the pipe open, so do
    not wait for its end."""
    heard = b""
    until = time.monotonic() + seconds
    ready = select.poll()
    ready.register(ears, select.POLLIN | select.POLLHUP)
    while heard.count(b"\n") < lines and ready.poll(max(0.0, until - time.monotonic()) * 1000):
        if not (piece := os.read(ears, 1 << 16)):
            break
        heard += piece
    return heard


def _live(live: Callable[[Report], object], mouth: int) -> NoReturn:
    """Run the child. Never return into the parent's code: neither to pytest nor to its exit handlers."""

    def report(line: bytes) -> None:
        os.write(mouth, line + b"\n")  # fails once the parent is gone

    try:
        live(report)
        report(_FAILED + b"it had nothing left to do")
    except BaseException:
        lines = traceback.format_exc(limit=-8)
        try:
            report(_FAILED + lines.replace("\n", "\0").encode())
        finally:
            os._exit(1)
    finally:
        os._exit(0)
