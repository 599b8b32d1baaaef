"""Simulation of a full disk for this process: its files cannot grow until the block ends."""

import os
import resource
import stat
from collections.abc import Collection, Iterator, Sequence
from contextlib import contextmanager

from nodekit import Job, JobId, JobQuery, JobStore, StoreFailed
from nodekit.testing.builders.jobs import make_job
from nodekit.testing.leaks.descriptors import Descriptor

_ROOM_BYTES = 50_000
"""Number of bytes by which a file may still grow, or that a new file may hold, while the disk is full."""
_TOO_MUCH_BYTES = 1_000_000


@contextmanager
def full_disk(files: Collection[Descriptor]) -> Iterator[None]:
    """Let no file grow beyond the largest of `files`, plus a little. Python ignores the signal for it (SIGXFSZ)."""
    sizes = [status.st_size for file in files if stat.S_ISREG((status := os.fstat(file.number)).st_mode)]
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (max(sizes, default=0) + _ROOM_BYTES, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)


def too_much() -> Sequence[Job]:
    """Make jobs; the second one does not fit on the disk, compressed or not."""
    large = make_job(data={"text": os.urandom(_TOO_MUCH_BYTES // 2).hex()})
    return [make_job(idempotency_key="refused"), large, make_job()]


async def is_refused(store: JobStore, jobs: Sequence[Job]) -> bool:
    """Return True if the store refuses these jobs. Raise AssertionError if it raises anything but `StoreFailed`."""
    try:
        await store.add(jobs)
    except StoreFailed:
        return True
    except Exception as error:
        raise AssertionError(f"`add` raises {error!r} where it cannot write, and not StoreFailed") from error
    return False


async def is_there(store: JobStore, kept: Sequence[Job], refused: Sequence[Job]) -> None:
    """Assert that every query gives the kept jobs unchanged, and none of the refused ones."""
    ids: list[JobId] = [job.id for job in kept]
    assert await store.get([*ids, *(job.id for job in refused)]) == kept, "`get` returns something else than was kept"
    assert await store.find(JobQuery(limit=100)) == ids, "`find` returns something else than was kept"
    assert await store.find(JobQuery(client="alice", idempotency_key="refused", limit=1)) == [], (
        "`find` by key returns it"
    )
    assert (await store.pending()).total == len(kept), "`pending` counts something else than was kept"
