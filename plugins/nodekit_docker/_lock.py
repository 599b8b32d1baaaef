"""A node's name is one node's: a lock that the kernel gives back however its holder ends."""

import hashlib
import socket
import sys

from nodekit import NodekitError


class NameTaken(NodekitError):
    """Another node on this machine has this name, on the same engine."""


def hold_name(node: str, host: str) -> socket.socket | None:
    """Hold the name for one engine until what is returned is closed. Raises `NameTaken`.

    It is a socket in Linux's abstract namespace: no file that could be left behind, the same for all users.
    """
    if sys.platform != "linux":
        return None
    key = hashlib.sha256(f"{node}\0{host}".encode()).hexdigest()[:32]
    lock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    try:
        lock.bind(f"\0nodekit-docker-{key}")
    except OSError as error:
        lock.close()
        raise NameTaken(
            f"another node named {node!r} runs on this machine with the engine {host}: give each [node] a name of its "
            "own, and put all containers of a node under one docker runner"
        ) from error
    return lock
