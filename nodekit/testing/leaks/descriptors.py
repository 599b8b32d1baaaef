"""File descriptors that this process holds open, and their names."""

import os
import socket
import stat
from contextlib import suppress
from typing import NamedTuple

_FOLDERS = ("/proc/self/fd", "/dev/fd")


class Descriptor(NamedTuple):
    """An open file descriptor. If its number is reused for another file, that is another descriptor."""

    number: int
    device: int
    inode: int


def descriptors() -> set[Descriptor]:
    """Return the file descriptors that are open now. Return an empty set if the system does not list them."""
    folder = next((folder for folder in _FOLDERS if os.path.isdir(folder)), None)
    found: set[Descriptor] = set()
    for number in os.listdir(folder) if folder else ():
        with suppress(OSError):  # such as the descriptor that listed the others
            status = os.fstat(int(number))
            found.add(Descriptor(int(number), status.st_dev, status.st_ino))
    return found


def name_of(descriptor: Descriptor) -> str:
    """Describe a descriptor: a path, the addresses of a socket, or the text that the system gives."""
    try:
        mode = os.fstat(descriptor.number).st_mode
        if stat.S_ISSOCK(mode):
            return f"a socket{_addresses(descriptor.number)}"
        return os.readlink(f"{_FOLDERS[0]}/{descriptor.number}")
    except OSError:
        return "closed meanwhile"


def _addresses(number: int) -> str:
    with suppress(OSError), socket.socket(fileno=os.dup(number)) as one:
        text = f" at {one.getsockname()}"
        with suppress(OSError):
            text += f" to {one.getpeername()}"
        return text
    return ""
