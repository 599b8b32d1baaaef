"""Tests that the store `dbm` keeps nodekit's promises of stores, and survives crashes that `dbm.dumb` does not."""

import os
import resource
import subprocess
import sys
from collections.abc import AsyncIterator, Callable
from contextlib import suppress
from pathlib import Path

import anyio.to_thread
import pytest

from nodekit import EmbeddedStore, JobId, JobQuery, StoreFailed
from nodekit.testing import DurableJobStoreContract, JobTableContract, make_job
from nodekit_dbm import DbmTable


class TestDbmTable(JobTableContract):
    @pytest.fixture
    async def table(self, tmp_path: Path) -> AsyncIterator[DbmTable]:
        async with DbmTable(tmp_path / "jobs") as table:
            yield table


class TestDbmStore(DurableJobStoreContract):
    @pytest.fixture
    def open_store(self, tmp_path: Path) -> Callable[[], EmbeddedStore]:
        return lambda: EmbeddedStore(DbmTable(tmp_path / "jobs"))


async def kept(path: Path) -> list[JobId]:
    async with DbmTable(path) as table:
        return await table.find(JobQuery(limit=100))


@pytest.fixture
async def ids(tmp_path: Path) -> list[JobId]:
    """Store two jobs, one after the other, in a table that is then closed."""
    jobs = [make_job(), make_job()]
    async with DbmTable(tmp_path / "jobs") as table:
        for job in jobs:
            await table.add([job])
    return [job.id for job in jobs]


@pytest.mark.anyio
class TestAfterACrash:
    async def test_a_line_that_was_cut_short_is_forgotten(self, tmp_path: Path, ids: list[JobId]) -> None:
        with (tmp_path / "jobs.dir").open("a") as file:
            file.write("'2', (10")
        job = make_job()
        async with DbmTable(tmp_path / "jobs") as table:
            await table.add([job])
        assert await kept(tmp_path / "jobs") == [*ids, job.id]

    @pytest.mark.parametrize("lines", [None, 0, 1, 2])
    async def test_a_close_that_was_cut_short_loses_nothing(
        self, tmp_path: Path, ids: list[JobId], lines: int | None
    ) -> None:
        index = tmp_path / "jobs.dir"
        written = index.read_text().splitlines(keepends=True)
        index.replace(tmp_path / "jobs.bak")
        if lines is not None:
            index.write_text("".join(written[:lines]))
        assert await kept(tmp_path / "jobs") == ids

    async def test_a_last_value_that_is_not_on_the_disk_is_forgotten(self, tmp_path: Path, ids: list[JobId]) -> None:
        data = tmp_path / "jobs.dat"
        os.truncate(data, data.stat().st_size - 10)
        assert await kept(tmp_path / "jobs") == ids[:1]

    async def test_a_value_in_the_middle_that_is_damaged_is_an_error(self, tmp_path: Path, ids: list[JobId]) -> None:
        with (tmp_path / "jobs.dat").open("r+b") as file:
            file.write(b"\0\0\0")
        with pytest.raises(StoreFailed, match="malformed"):
            await kept(tmp_path / "jobs")
        with pytest.raises(StoreFailed, match="malformed"):  # and not StoreInUse
            await kept(tmp_path / "jobs")

    @pytest.mark.parametrize("name", ["jobs.dat", "jobs.dir"])
    async def test_what_did_not_fit_on_the_disk_is_not_kept(self, tmp_path: Path, ids: list[JobId], name: str) -> None:
        before = resource.getrlimit(resource.RLIMIT_FSIZE)
        refused, job = make_job(), make_job()
        async with DbmTable(tmp_path / "jobs") as table:
            resource.setrlimit(resource.RLIMIT_FSIZE, ((tmp_path / name).stat().st_size + 10, before[1]))
            try:
                with pytest.raises(StoreFailed, match="cannot write"):
                    await table.add([refused])
            finally:
                resource.setrlimit(resource.RLIMIT_FSIZE, before)
            with suppress(StoreFailed):
                await table.add([job])
            await table.add([job])
            assert await table.find(JobQuery(limit=9)) == [*ids, job.id]
        assert await kept(tmp_path / "jobs") == [*ids, job.id]

    async def test_what_was_reported_survives_a_kill_at_any_time(self, tmp_path: Path) -> None:
        reported: list[bytes] = []
        for number in range(8):
            with subprocess.Popen([sys.executable, "-c", WRITER, tmp_path / "jobs"], stdout=subprocess.PIPE) as process:
                assert process.stdout is not None
                reported.append(await anyio.to_thread.run_sync(process.stdout.readline))
                await anyio.sleep(number * 0.037)
                process.kill()
                reported += [line for line in process.stdout.readlines() if line.endswith(b"\n")]
        async with DbmTable(tmp_path / "jobs") as table:
            found = await table.find(JobQuery(limit=10**6))
        assert {line.decode().strip() for line in reported} <= set(found)


WRITER = """
import sys
import anyio
from nodekit.testing import make_job
from nodekit_dbm import DbmTable

async def main():
    while True:
        async with DbmTable(sys.argv[1]) as table:
            for _ in range(20):
                job = make_job()
                await table.add([job])
                print(job.id, flush=True)

anyio.run(main)
"""
