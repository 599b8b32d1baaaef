"""Stores that forget, leave something, block, or choke on a disk. `tests/kit/test_caught.py` runs the suite on them."""

import fcntl
import os
import time
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import Any, BinaryIO

import msgspec
import pytest
from msgspec.structs import replace

from nodekit import EmbeddedStore, Job, JobStore, StoreFailed, StoreInUse, Unfinished
from nodekit.testing import DurableJobStoreContract
from nodekit_memory import MemoryTable


class Sound(MemoryTable):
    """A table in a file, which is written anew with each change, and locked."""

    def __init__(self, path: Path) -> None:
        super().__init__()
        self.path = path

    async def __aenter__(self) -> "Sound":
        with ExitStack() as stack:
            self.lock(stack)
            self.read()
            self._left = stack.pop_all()
        return self

    async def __aexit__(self, *error: Any) -> None:
        self._left.close()

    def lock(self, stack: ExitStack) -> None:
        file = stack.enter_context(self.path.with_suffix(".lock").open("w"))
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            raise StoreInUse(f"{self.path} is held by another node") from error

    def read(self) -> None:
        if self.path.exists():
            for job in msgspec.json.decode(self.path.read_bytes(), type=list[Job]):
                self._insert(job)

    def write(self) -> None:
        new = self.path.with_suffix(".new")
        try:
            new.write_bytes(self.encoded())
        except OSError as error:
            self.forget()
            raise StoreFailed(f"cannot write {new}: {error}") from error
        new.replace(self.path)

    def encoded(self) -> bytes:
        return msgspec.json.encode(list(self._jobs.values()))

    def forget(self) -> None:
        """Return to the state of the file."""
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


# -- that are left, and opened again ---------------------------------------------------------------


class KeepsNothing(Sound):
    def read(self) -> None:
        pass


class LosesNumbers(Sound):
    def read(self) -> None:
        super().read()
        self._jobs = {id: replace(job, finish_number=None) for id, job in self._jobs.items()}


class LosesSteps(Sound):
    def read(self) -> None:
        super().read()
        self._jobs = {id: replace(job, steps=()) for id, job in self._jobs.items()}


class LosesKeys(Sound):
    def read(self) -> None:
        super().read()
        self._keys.clear()


class ForgetsStreams(Sound):
    async def unfinished(self) -> list[Unfinished]:
        return [replace(entry, streams=False) for entry in await super().unfinished()]


class ForgetsDelays(Sound):
    async def unfinished(self) -> list[Unfinished]:
        return [replace(entry, not_before=None) for entry in await super().unfinished()]


class RunsFinishedAgain(Sound):
    async def unfinished(self) -> list[Unfinished]:
        return [Unfinished.of(job) for job in self._jobs.values()]


class LetsAnotherIn(Sound):
    def lock(self, stack: ExitStack) -> None:
        pass


# -- that are killed -------------------------------------------------------------------------------


class WritesAtItsEnd(Sound):
    """Writes only at its exit, so that a kill loses everything."""

    async def __aexit__(self, *error: Any) -> None:
        Sound.write(self)
        await super().__aexit__(*error)

    def write(self) -> None:
        pass


class WritesNowAndThen(WritesAtItsEnd):
    """Writes now and then, so that a kill loses the last changes."""

    changes = 0

    def write(self) -> None:
        self.changes += 1
        if self.changes % 10 == 0:
            Sound.write(self)


class WritesWhenItAdds(WritesAtItsEnd):
    """Writes changes of a job only with the next job that is added."""

    async def add(self, jobs: Sequence[Job]) -> list[Job]:
        kept = await super().add(jobs)
        Sound.write(self)
        return kept


class WritesThroughABuffer(Sound):
    """Keeps the last bytes of the file in this process until the next write."""

    file: BinaryIO | None = None

    async def __aexit__(self, *error: Any) -> None:
        self.close()
        await super().__aexit__(*error)

    def close(self) -> None:
        if self.file:
            self.file.close()

    def write(self) -> None:
        self.close()
        whole = self.encoded()
        self.file = self.path.open("wb")
        self.file.write(whole[:-1])
        self.file.flush()
        self.file.write(whole[-1:])


# -- on a full disk --------------------------------------------------------------------------------


class WritesInPlace(Sound):
    """Truncates the file before it writes the new content."""

    def write(self) -> None:
        try:
            self.path.write_bytes(self.encoded())
        except OSError as error:
            raise StoreFailed(f"cannot write {self.path}: {error}") from error


class ShowsWhatItRefused(Sound):
    """Shows a change that it then failed to write."""

    def forget(self) -> None:
        pass


class RaisesWhatTheDiskSays(Sound):
    """Raises `OSError` to the caller."""

    def write(self) -> None:
        try:
            super().write()
        except StoreFailed as error:
            raise error.__cause__ or error from None


# -- that are no good neighbours -------------------------------------------------------------------


class LeavesADescriptor(Sound):
    async def __aenter__(self) -> "LeavesADescriptor":
        self.folder = os.open(self.path.parent, os.O_RDONLY)
        await super().__aenter__()
        return self


class BlocksTheLoop(Sound):
    async def add(self, jobs: Sequence[Job]) -> list[Job]:
        time.sleep(0.005 * len(jobs))  # a slow disk
        return await super().add(jobs)


class Suite(DurableJobStoreContract):
    subject: type[Sound]

    @pytest.fixture
    def open_store(self, tmp_path: Path) -> Callable[[], JobStore]:
        return lambda: EmbeddedStore(self.subject(tmp_path / "jobs.json"))


HURRIED = {"timeout_seconds": 0.5, "quiet_seconds": 0.02}
