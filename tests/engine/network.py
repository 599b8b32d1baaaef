"""A network for one process: loopback and nothing else, so that a second engine finds no bridge of the first."""

import ctypes
import fcntl
import os
import socket
import struct

_NEW_NETWORK = 0x40000000  # CLONE_NEWNET, see unshare(2)
_READ_FLAGS, _WRITE_FLAGS, _UP = 0x8913, 0x8914, 1  # see netdevice(7)


def leave_network() -> None:
    """Give this thread, and everything it starts from now on, a network of its own. Raise OSError."""
    libc = ctypes.CDLL(None, use_errno=True)
    if libc.unshare(_NEW_NETWORK):
        raise OSError(ctypes.get_errno(), os.strerror(ctypes.get_errno()))
    with socket.socket() as anything:
        interface = struct.pack("16sh14x", b"lo", 0)
        (flags,) = struct.unpack("16xh14x", fcntl.ioctl(anything, _READ_FLAGS, interface))
        fcntl.ioctl(anything, _WRITE_FLAGS, struct.pack("16sh14x", b"lo", flags | _UP))
