"""Calls that fail because their container is stopped together with the node."""

from collections.abc import Awaitable, Callable

from msgspec.structs import replace

from nodekit.errors import FailureKind
from nodekit.execution.container_calls import Called
from nodekit.model.container import ContainerError
from nodekit.model.job import Attempt

STOPPED: tuple[FailureKind, str] = "interrupted", "the node stopped"
"""End of a call that the end of the node cuts short."""

NOTICE_SECONDS = 0.5
"""Time after the death of a container in which its node may hear that it is to stop, too.

Whoever stops a whole unit or machine signals the node and its containers at once, and a container may be the first to
act.
"""
UNAVAILABLE = 503


async def left_with_the_node(called: Called, stops: Callable[[float], Awaitable[bool]]) -> bool:
    """Return True if a call failed while the node stops: its container is being stopped, too, and is not to blame.

    `stops` says if the node stops, now or within some seconds.
    """
    error = called.result
    if not isinstance(error, ContainerError):
        return False
    if error.kind == "died":
        return await stops(NOTICE_SECONDS)
    return (error.kind == "connection" or error.status == UNAVAILABLE) and await stops(0)


def interrupted(called: Called) -> Attempt:
    """Return the attempt of such a call for the history of its job. It is not counted."""
    kind, text = STOPPED
    return replace(called.attempt, kind=kind, failure=f"{text}: {called.attempt.failure}")
