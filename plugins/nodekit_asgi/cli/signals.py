"""Signals that end a command: those of a service manager and of a closed terminal count as Ctrl-C does."""

import signal
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager

from nodekit_asgi.cli.problems import INTERRUPTED

ENDING = ("SIGTERM", "SIGHUP")


@contextmanager
def interrupted_by_signals() -> Iterator[None]:
    """Raise `KeyboardInterrupt` for a signal that would end the process, which then exits with 128 and its number.

    A signal that is ignored, as `nohup` does, stays ignored.
    """
    received: list[int] = []

    def interrupt(number: int, frame: object) -> None:
        received.append(number)
        raise KeyboardInterrupt

    numbers = [number for name in ENDING if (number := getattr(signal, name, None)) is not None]
    ours = [number for number in numbers if signal.getsignal(number) is signal.SIG_DFL]
    if threading.current_thread() is not threading.main_thread():
        ours = []
    for number in ours:
        signal.signal(number, interrupt)
    try:
        yield
    except SystemExit as ended:
        if received and ended.code == INTERRUPTED:
            sys.exit(128 + received[0])
        raise
    finally:
        for number in ours:
            signal.signal(number, signal.SIG_DFL)
