"""The engines that a cluster can run on. Each is a context manager that runs one server, with data of its own."""

from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Protocol, TypeAlias


class NoEngine(Exception):
    """An engine cannot run here. The message says what is missing, and how to get it."""


class Engine(Protocol):
    """A running engine. Its data survive `kill` and `start`, and its address stays the same."""

    remembers: bool
    """False if a restart makes it forget the nodes. A node that starts then knows no others until they announce
    themselves again, and refuses requests for their containers."""

    @property
    def address(self) -> tuple[str, int]:
        """Host and port at which the server listens."""
        ...

    def kill(self) -> None:
        """Kill the server and all of its processes (SIGKILL)."""
        ...

    def start(self) -> None:
        """Start it again, and return when clients can connect."""
        ...

    def store(self, host: str, port: int, lease_seconds: float) -> str:
        """Return the table `[store]` of a node that reaches the server at this address: its own, or a proxy's."""
        ...


OpenEngine: TypeAlias = Callable[[Path, float], AbstractContextManager[Engine]]
"""Runs an engine: given a folder, which is also on the `PYTHONPATH` of nodes, and the seconds of a lease."""


def engines() -> Mapping[str, OpenEngine]:
    """Return the engines by name."""
    from cluster.engines import kit, postgres, redis

    return {"kit": kit.running, "postgres": postgres.running, "redis": redis.running}
