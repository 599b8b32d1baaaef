"""Stores and tables that leave something, block, or forget. `tests/kit/test_caught.py` runs the suites on them."""

import asyncio
import os
import threading
import time
from collections.abc import AsyncIterator, Callable, Sequence
from dbm import dumb
from pathlib import Path
from typing import Any

import msgspec
import pytest

from nodekit import EmbeddedStore, Job, JobStore, StoreFailed
from nodekit.testing import DurableJobStoreContract, JobTableContract
from nodekit_memory import MemoryTable


class Sound(MemoryTable):
    """A table in a file, which is written anew with each change."""

    def __init__(self, path: Path) -> None:
        super().__init__()
        self.path = path

    async def __aenter__(self) -> "Sound":
        self.read()
        return self

    def read(self) -> None:
        if self.path.exists():
            for job in msgspec.json.decode(self.path.read_bytes(), type=list[Job]):
                self._insert(job)

    def write(self) -> None:
        new = self.path.with_suffix(".new")
        try:
            new.write_bytes(msgspec.json.encode(list(self._jobs.values())))
        except OSError as error:
            self.forget()
            raise StoreFailed(f"cannot write {new}: {error}") from error
        new.replace(self.path)

    def forget(self) -> None:
        """Be again as the file is."""
        MemoryTable.__init__(self)
        self.read()

    async def add(self, jobs: Sequence[Job]) -> list[Job]:
        kept = await super().add(jobs)
        self.write()
        return kept

    async def save(self, job: Job) -> None:
        await super().save(job)
        self.write()

    async def delete(self, ids: Sequence[str]) -> int:
        deleted = await super().delete(ids)
        self.write()
        return deleted


class WritesAtItsEnd(Sound):
    """All is there after an exit, and nothing after a kill."""

    async def __aexit__(self, *error: Any) -> None:
        super().write()

    def write(self) -> None:
        pass


class WritesABitLater(WritesAtItsEnd):
    """A kill loses the last moment."""

    written_at = 0.0

    def write(self) -> None:
        if time.monotonic() > self.written_at + 0.2:
            Sound.write(self)
            self.written_at = time.monotonic()


class WritesWhenItAdds(WritesAtItsEnd):
    """What happened to a job later comes to the disk with the next one that is added."""

    async def add(self, jobs: Sequence[Job]) -> list[Job]:
        kept = await super().add(jobs)
        Sound.write(self)
        return kept


class SetsKeysAgain(Sound):
    """A key for each job, set again with each change, in a file whose index is renamed and rewritten each time."""

    async def __aenter__(self) -> "SetsKeysAgain":
        self.database = dumb.open(str(self.path), "c")  # noqa: SIM115
        for id in self.database.keys():  # noqa: SIM118
            self._insert(msgspec.json.decode(self.database[id], type=Job))
        self.written = dict(self._jobs)
        return self

    async def __aexit__(self, *error: Any) -> None:
        self.database.close()

    def write(self) -> None:
        for id, job in self._jobs.items():
            if self.written.get(id) is not job:
                self.database[id] = msgspec.json.encode(job)
        for id in self.written.keys() - self._jobs.keys():
            del self.database[id]
        self.written = dict(self._jobs)
        self.database.sync()


class ShowsWhatItRefused(Sound):
    """It has taken in what it then could not write."""

    def forget(self) -> None:
        pass


class RaisesWhatTheDiskSays(Sound):
    """Whoever asked is told of `OSError`."""

    def write(self) -> None:
        try:
            super().write()
        except StoreFailed as error:
            raise error.__cause__ or error from None


class LeavesATask(Sound):
    async def __aenter__(self) -> "LeavesATask":
        self.task = asyncio.create_task(asyncio.sleep(60), name="compacting")
        await super().__aenter__()
        return self


class LeavesADescriptor(Sound):
    async def __aenter__(self) -> "LeavesADescriptor":
        self.lock = os.open(self.path.parent, os.O_RDONLY)
        await super().__aenter__()
        return self


class LeavesAThread(Sound):
    async def __aenter__(self) -> "LeavesAThread":
        threading.Thread(target=time.sleep, args=(4,), name="writer").start()
        await super().__aenter__()
        return self


class BlocksTheLoop(Sound):
    async def add(self, jobs: Sequence[Job]) -> list[Job]:
        time.sleep(0.005 * len(jobs))  # a slow disk
        return await super().add(jobs)


def durable(broken: Callable[[Path], Sound]) -> type[DurableJobStoreContract]:
    class Suite(DurableJobStoreContract):
        backends = ("asyncio",)
        exclusive = False

        @pytest.fixture
        def open_store(self, tmp_path: Path) -> Callable[[], JobStore]:
            return lambda: EmbeddedStore(broken(tmp_path / "jobs.json"))

    return Suite


def table(broken: Callable[[Path], Sound]) -> type[JobTableContract]:
    class Suite(JobTableContract):
        backends = ("asyncio",)

        @pytest.fixture
        async def table(self, tmp_path: Path) -> AsyncIterator[Sound]:
            async with broken(tmp_path / "jobs.json") as table:
                yield table

    return Suite


TestSound = durable(Sound)
TestWritesAtItsEnd = durable(WritesAtItsEnd)
TestWritesABitLater = durable(WritesABitLater)
TestWritesWhenItAdds = durable(WritesWhenItAdds)
TestSetsKeysAgain = durable(SetsKeysAgain)
TestShowsWhatItRefused = durable(ShowsWhatItRefused)
TestRaisesWhatTheDiskSays = durable(RaisesWhatTheDiskSays)
TestLeavesATask = durable(LeavesATask)
TestLeavesADescriptor = durable(LeavesADescriptor)
TestLeavesAThread = durable(LeavesAThread)
TestBlocksTheLoop = durable(BlocksTheLoop)
TestTableSound = table(Sound)
TestTableLeavesADescriptor = table(LeavesADescriptor)
TestTableBlocksTheLoop = table(BlocksTheLoop)
