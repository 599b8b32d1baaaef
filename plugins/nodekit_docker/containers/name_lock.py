"""A lock for a node's name, so that one node has it. The kernel releases it however its holder ends."""

import errno
import hashlib
import socket
import sys

from nodekit_docker.engine.errors import NameTaken


def hold_name(node: str, engine: str) -> socket.socket | None:
    """Hold the node's name on an engine, given by its id, until the returned socket is closed.

    The lock is a socket in Linux's abstract namespace: it leaves no file behind, and it is the same for all users.
    Return None on other systems. Raise `NameTaken` if another node on this machine holds the name.
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
