"""Threads that last until a test is over, however long that takes."""

import threading

_over = threading.Event()


def start_thread(name: str) -> None:
    """Start one that `end_threads` ends."""
    threading.Thread(target=_over.wait, name=name).start()


def end_threads() -> None:
    global _over  # noqa: PLW0603 - they wait for the event that there was when they were started
    _over.set()
    _over = threading.Event()
