"""Fill a store: `python benchmarks/filled.py FILE FINISHED QUEUED` writes jobs of 127.0.0.1 into a file of sqlite."""

import asyncio
import sys
from collections.abc import Iterator
from pathlib import Path

from msgspec.structs import replace

from nodekit import Job, JobTable
from nodekit.model.ids import JobIds
from nodekit.testing import make_job, succeeded
from nodekit_sqlite import SqliteTable

BATCH = 5000


async def fill(table: JobTable, finished: int, queued: int = 0, payload: int = 10) -> None:
    """Add jobs with payloads and outputs of this many bytes; the queued ones are the newest."""
    waiting = make_job(data={"n": 1000000000, "pad": "x" * payload}, client="127.0.0.1")
    done, ids = succeeded(waiting), JobIds()

    def jobs() -> Iterator[Job]:
        for number in range(1, finished + 1):
            yield replace(done, id=ids.next(), finish_number=number)
        for _ in range(queued):
            yield replace(waiting, id=ids.next())

    batch: list[Job] = []
    for job in jobs():
        batch.append(job)
        if len(batch) == BATCH:
            await table.add(batch)
            batch = []
    await table.add(batch)


async def main(file: Path, finished: int, queued: int) -> None:
    async with SqliteTable(file, synchronous="OFF") as table:
        await fill(table, finished, queued)


if __name__ == "__main__":
    asyncio.run(main(Path(sys.argv[1]), int(sys.argv[2]), int(sys.argv[3])))
