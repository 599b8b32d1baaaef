"""How many files the process may open, and what of that is for whom.

Past its limit a process fails at whatever it opens next: a container that is up would look as if it was not.
"""

import os
import resource

SPARE = 32
"""For what opens files now and then: a store, a log, a library."""


def descriptor_share() -> int | None:
    """A third of the descriptors that are free: one for calls of containers, one for connections that are kept open
    to them for a moment, one for connections of clients. None where there is no limit."""
    limit, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
    if limit == resource.RLIM_INFINITY:
        return None
    return max(1, (limit - _open_now() - SPARE) // 3)


def _open_now() -> int:
    try:
        return len(os.listdir("/proc/self/fd"))
    except OSError:  # no such folder, or no descriptor left to read it
        return SPARE
