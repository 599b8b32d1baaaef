"""The world outside, which simulated code cannot reach: real waits, threads, sockets and other processes."""

import socket
import subprocess
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from functools import wraps
from threading import Thread, get_ident
from typing import Any, NoReturn

NO_SOCKETS = "a simulated process has no sockets; it connects by `Machine.connect`"
_CLOSED: Sequence[tuple[Any, str, str]] = (
    (time, "sleep", "a simulated process cannot wait in real time; it waits by `anyio.sleep`"),
    (Thread, "start", "a simulated process has no threads"),
    (socket.socket, "__init__", NO_SOCKETS),
    (socket, "getaddrinfo", NO_SOCKETS),
    (subprocess.Popen, "__init__", "a simulated process starts no others"),
)


@contextmanager
def closed(refuse: Callable[[str], NoReturn]) -> Iterator[None]:
    """Call `refuse` in place of functions that reach outside, if the code of this thread calls them."""
    with ExitStack() as stack:
        for owner, name, text in _CLOSED:
            before = getattr(owner, name)
            setattr(owner, name, _guarded(before, text, refuse, get_ident()))
            stack.callback(setattr, owner, name, before)
        yield


def _guarded(function: Callable[..., Any], text: str, refuse: Callable[[str], NoReturn], thread: int) -> Any:
    @wraps(function)
    def guarded(*args: Any, **kwargs: Any) -> Any:
        return refuse(text) if get_ident() == thread else function(*args, **kwargs)

    return guarded
