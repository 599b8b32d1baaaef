"""Limits on open files, and how they are shared out.

A process at its limit fails when it opens anything else. A container that is up would then look as if it were down.
"""

import os
import resource

SPARE = 32
"""Descriptors left free for what opens files now and then: a store, a log, a library."""


def descriptor_share() -> int | None:
    """Return a third of the free descriptors, or None if there is no limit.

    One third is for calls of containers, one for kept-alive connections to them, one for connections of clients.
    """
    limit, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
    if limit == resource.RLIM_INFINITY:
        return None
    return max(1, (limit - _open_now() - SPARE) // 3)


def _open_now() -> int:
    try:
        return len(os.listdir("/proc/self/fd"))
    except OSError:  # no such folder, or no descriptor left to read it
        return SPARE
