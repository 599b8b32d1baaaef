"""The C library's memory allocator, set up so that freed payloads go back to the system."""

import ctypes
import resource
from pathlib import Path

import anyio
import anyio.to_thread

_TRIM_THRESHOLD, _MMAP_THRESHOLD, _ARENA_MAX = -1, -3, -8
"""Parameters of glibc's `mallopt`."""
_LARGE_BYTES = 256 << 10
_KEPT_BYTES = 1 << 20
"""Size of the free end of the heap that stays for the next small blocks."""
_ARENAS = 2
TRIM_SECONDS = 15.0
SMALL_BYTES = 96 << 20
"""Size of a process that has nothing to give back: it holds a node without payloads."""


def return_freed_memory() -> None:
    """Have glibc give large blocks back as soon as they are freed. Other C libraries are left alone.

    By default, glibc raises its thresholds with each large block that is freed, up to 32 MiB: from then on payloads
    come from heaps, which keep their size, and each thread may have one.
    """
    set_up = getattr(ctypes.CDLL(None), "mallopt", None)
    if set_up is not None:
        for parameter, value in (
            (_MMAP_THRESHOLD, _LARGE_BYTES),
            (_TRIM_THRESHOLD, _KEPT_BYTES),
            (_ARENA_MAX, _ARENAS),
        ):
            set_up(parameter, value)


async def trim_now_and_then() -> None:
    """Give back what small blocks leave behind: many of them between two that are in use keep the heap large.

    It looks every `TRIM_SECONDS`, and does nothing while the process is small.
    """
    trim = getattr(ctypes.CDLL(None), "malloc_trim", None)
    while trim is not None:
        await anyio.sleep(TRIM_SECONDS)
        if _resident_bytes() > SMALL_BYTES:
            await anyio.to_thread.run_sync(trim, 0)  # it takes milliseconds, and needs no interpreter


def _resident_bytes() -> int:
    try:
        return int(Path("/proc/self/statm").read_text().split()[1]) * resource.getpagesize()
    except OSError:  # another system, or no descriptor left
        return 0
