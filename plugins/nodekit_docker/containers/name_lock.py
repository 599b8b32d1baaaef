"""A node's name is one node's: a lock that the kernel gives back however its holder ends."""

import errno
import hashlib
import socket
import sys

from nodekit_docker.engine.errors import NameTaken


def hold_name(node: str, engine: str) -> socket.socket | None:
    """Hold the name on an engine, named by its id, until what is returned is closed. Raises `NameTaken`.

    It is a socket in Linux's abstract namespace: no file that could be left behind, the same for all users.
    """
    if sys.platform != "linux":
        return None
    key = hashlib.sha256(f"{node}\0{engine}".encode()).hexdigest()[:32]
    lock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    try:
        lock.bind(f"\0nodekit-docker-{key}")
    except OSError as error:
        lock.close()
        if error.errno != errno.EADDRINUSE:
            raise
        raise NameTaken(
            f"another node named {node!r} runs on this machine with the same engine: give each [node] a name of its "
            "own, and put all containers of a node on one engine under one docker runner"
        ) from error
    return lock
