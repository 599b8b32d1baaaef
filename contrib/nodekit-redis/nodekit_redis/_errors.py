"""Failures of the server and of the connection in words, with the cure."""

from redis.exceptions import (
    AskError,
    AuthenticationError,
    BusyLoadingError,
    ClusterCrossSlotError,
    ClusterDownError,
    MasterDownError,
    NoPermissionError,
    OutOfMemoryError,
    ReadOnlyError,
)

from nodekit import StoreFailed

_BY_CLASS: tuple[tuple[type[Exception] | tuple[type[Exception], ...], str], ...] = (
    (BusyLoadingError, "Redis is loading its data after a start; it takes calls when that is done"),
    (ReadOnlyError, "this server is a replica, which takes no writes; name the primary in url"),
    (OutOfMemoryError, "Redis has reached its maxmemory; raise it, or delete finished jobs (keep_finished_seconds)"),
    (
        (AskError, ClusterDownError, ClusterCrossSlotError, MasterDownError),
        "the Redis cluster cannot take this now; name the server that has the slot of the prefix in url",
    ),
    (
        NoPermissionError,
        "the user in url may not do this; allow it all commands on the keys and channels of the prefix",
    ),
    (AuthenticationError, "Redis does not accept the user or password in url"),
)
_BY_WORD = {
    "BUSY": "Redis runs a long script of somebody else's; it takes calls when that has ended",
    "MISCONF": "Redis cannot write to its disk; make room there, or see its log",
    "NOREPLICAS": "Redis takes no writes, because too few replicas follow it (min-replicas-to-write)",
    "OOM": "Redis has reached its maxmemory; raise it, or delete finished jobs (keep_finished_seconds)",
    "LOADING": "Redis is loading its data after a start; it takes calls when that is done",
    "READONLY": "this server is a replica, which takes no writes; name the primary in url",
    "UNKILLABLE": "Redis runs a long script of somebody else's; it takes calls when that has ended",
}
CURE = "look whether the server runs, and at `url` of the store"
TAKES_NO_WRITES = ("MISCONF", "NOREPLICAS")


def said(error: BaseException) -> str:
    """Return what went wrong, in one line, with the cure if it is known."""
    text = " ".join(str(error).split())[:300]
    for kind, cure in _BY_CLASS:
        if isinstance(error, kind):
            return f"{cure} ({text})" if text else cure
    word = text.partition(" ")[0]
    return f"{_BY_WORD[word]} ({text})" if word in _BY_WORD else text or type(error).__name__


def refused(error: BaseException) -> StoreFailed:
    """Return the error for a command that the server refused."""
    return Refused(f"Redis refused: {said(error)}", no_writes=str(error).startswith(TAKES_NO_WRITES))


class Lost(StoreFailed):
    """The connection was lost before the reply came."""

    def __init__(self, trouble: str, *, sent: bool) -> None:
        text = f"the connection to Redis is lost: {trouble}"
        super().__init__(f"{text}; it may have done what was asked" if sent else text)


class Unconfirmed(StoreFailed):
    """The server has done a call, and too few replicas have what it wrote or read."""

    def __init__(self, trouble: str) -> None:
        text = f"Redis has done it, but too few replicas have it ({trouble}); see `replicas` of the store"
        super().__init__(text)


class Refused(StoreFailed):
    """The server refused a command. `no_writes` is true if it refuses all writes, of all nodes."""

    def __init__(self, text: str, *, no_writes: bool = False) -> None:
        super().__init__(text)
        self.no_writes = no_writes
