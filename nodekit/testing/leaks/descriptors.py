"""The file descriptors that this process holds open, and what they are."""

import os
import socket
import stat
from contextlib import suppress
from typing import NamedTuple

_FOLDERS = ("/proc/self/fd", "/dev/fd")


class Descriptor(NamedTuple):
    """One that is open; a number that is used again is another one."""

    number: int
    device: int
    inode: int


def descriptors() -> set[Descriptor]:
    """Those that are open right now; none where the system does not tell."""
    folder = next((folder for folder in _FOLDERS if os.path.isdir(folder)), None)
    found: set[Descriptor] = set()
    for number in os.listdir(folder) if folder else ():
        with suppress(OSError):  # such as the one that listed the others
            status = os.fstat(int(number))
            found.add(Descriptor(int(number), status.st_dev, status.st_ino))
    return found


def name_of(descriptor: Descriptor) -> str:
    """What it is: a path, the addresses of a socket, or what the system says."""
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
