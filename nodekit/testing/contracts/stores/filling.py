"""A disk that is full, for this process: its files can grow no more, until they can again."""

import os
import resource
import stat
from collections.abc import Collection, Iterator, Sequence
from contextlib import contextmanager

from nodekit import Job, JobId, JobStore, StoreFailed
from nodekit.testing.builders.jobs import make_job
from nodekit.testing.leaks.descriptors import Descriptor

_ROOM_BYTES = 50_000
"""How much a file may still grow, or hold, while the disk is full."""
_TOO_MUCH_BYTES = 1_000_000


@contextmanager
def full_disk(files: Collection[Descriptor]) -> Iterator[None]:
    """No file grows to more than the largest of these is, plus a little. Python ignores the signal of it (SIGXFSZ)."""
    sizes = [status.st_size for file in files if stat.S_ISREG((status := os.fstat(file.number)).st_mode)]
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (max(sizes, default=0) + _ROOM_BYTES, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)


def too_much() -> Sequence[Job]:
    """Jobs of which the second does not fit, compressed or not."""
    large = make_job(data={"text": os.urandom(_TOO_MUCH_BYTES // 2).hex()})
    return [make_job(idempotency_key="refused"), large, make_job()]


async def is_refused(store: JobStore, jobs: Sequence[Job]) -> bool:
    """Whether the store does not take these jobs; it then has to raise what is promised."""
    try:
        await store.add(jobs)
    except StoreFailed:
        return True
    except Exception as error:
        raise AssertionError(f"`add` raises {error!r} where it cannot write, and not StoreFailed") from error
    return False


async def is_there(store: JobStore, kept: Sequence[Job], refused: Sequence[Job]) -> None:
    """Those that are kept are there as they are, and those that were refused are not, however one asks."""
    ids: list[JobId] = [job.id for job in kept]
    assert await store.get([*ids, *(job.id for job in refused)]) == kept, "`get` gives something else than was kept"
    assert await store.find(limit=100) == ids, "`find` tells of something else than was kept"
    assert await store.find(client="alice", idempotency_key="refused", limit=1) == [], "`find` by key tells of it"
    assert (await store.pending()).total == len(kept), "`pending` counts something else than was kept"
