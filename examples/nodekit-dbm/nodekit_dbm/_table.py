"""A `JobTable` on `dbm.dumb`, the only dbm that every Python has, used in the only way that survives a crash.

A new key is appended: its value to `.dat`, then a line to `.dir`. Everything else is unsafe, even closing, which
renames `.dir` to `.bak` and writes a new one. So each change has its own key, the longer of `.dir` and `.bak` counts,
and an incomplete end is cut off. Jobs are read from memory.
"""

import fcntl
import os
from collections.abc import Mapping, Sequence
from contextlib import ExitStack, suppress
from dbm import dumb
from pathlib import Path
from typing import Any, Self

import msgspec
from anyio import CancelScope, Lock
from anyio.to_thread import run_sync
from nodekit_memory import MemoryTable

from nodekit import Job, JobId, JobQuery, StoreFailed, StoreInUse

Change = dict[JobId, Job | None]  # None: the job is deleted


class DbmTable:
    """A table of jobs. A change is visible only once no crash can undo it."""

    def __init__(self, path: Path) -> None:
        self._dat, self._dir, self._bak = (Path(f"{path}.{suffix}") for suffix in ("dat", "dir", "bak"))
        self._path, self._turn, self._opened, self._jobs = path, Lock(), ExitStack(), (own := MemoryTable())
        self.get, self.find, self.sizes = own.get, own.find, own.sizes
        self.unfinished, self.last_surplus = own.unfinished, own.last_surplus

    async def __aenter__(self) -> Self:
        await self._jobs.add(await run_sync(self._open))
        return self

    async def __aexit__(self, kind: Any, error: Any, trace: Any) -> None:
        with CancelScope(shield=True), suppress(OSError):  # the next start repairs an incomplete write
            await run_sync(self._opened.close)

    async def add(self, jobs: Sequence[Job]) -> list[Job]:
        async with self._turn:
            trial = MemoryTable()  # shows which of the jobs are new
            keys = [(job.client, job.request.idempotency_key) for job in jobs if job.request.idempotency_key]
            queries = [JobQuery(client=client, idempotency_key=key, limit=1) for client, key in keys]
            ids = [id for query in queries for id in await self.find(query)]
            known = {job.id: job for job in await self.get([*ids, *(job.id for job in jobs)])}
            await trial.add(list(known.values()))
            kept = await trial.add(jobs)
            new = {job.id: job for job in kept if job.id not in known}
            if new:
                await run_sync(self._append, new)
            await self._jobs.add(kept)
            return kept

    async def save(self, job: Job) -> None:
        async with self._turn:
            job = job.over((await self.get([job.id]))[0])
            await run_sync(self._append, {job.id: job})
            await self._jobs.save(job)

    async def delete(self, ids: Sequence[JobId]) -> int:
        async with self._turn:
            gone = [job.id for job in await self.get(ids) if job.status.finished]
            await run_sync(self._append, dict.fromkeys(gone))
            return await self._jobs.delete(gone)

    def _load(self, end: int | None = None) -> None:
        """Open the database as it was when `.dir` had the size `end`, or by default with every complete line."""
        self._dir.touch(0o600)
        if self._bak.exists() and self._bak.stat().st_size >= _sync(self._dir):
            self._bak.replace(self._dir)
        self._bak.unlink(missing_ok=True)
        os.truncate(self._dir, self._dir.read_bytes()[:end].rfind(b"\n") + 1)
        self._end = _sync(self._dir)
        _sync(self._dir.parent)
        self._db = dumb.open(str(self._path), "w", 0o600)  # noqa: SIM115

    def _append(self, change: Mapping[JobId, Job | None]) -> None:
        try:
            self._db[str(len(self._db))] = msgspec.json.encode(change)
            _sync(self._dat)
            self._end = _sync(self._dir)
        except OSError as error:
            with suppress(OSError):  # if this fails too, the next change also fails and tries this again
                self._db.close()
                self._load(self._end)
            raise StoreFailed(f"cannot write {self._path}: {error}") from error

    def _open(self) -> list[Job]:
        try:
            self._dat.touch(0o600)
            lock = self._opened.enter_context(self._dat.open("ab"))
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)  # the lock ends with the process, however that ends
            self._load()
            self._opened.callback(lambda: self._db.close())
            return self._read()
        except BlockingIOError as error:
            self._opened.close()
            raise StoreInUse(f"{self._path} is held by another node; stop it or name another path") from error
        except (OSError, SyntaxError, ValueError, KeyError, msgspec.DecodeError) as error:
            self._opened.close()
            raise StoreFailed(f"cannot open {self._path}: {error!r}; put a copy of its files in their place") from error

    def _read(self) -> list[Job]:
        jobs: Change = {}
        for number in range(len(self._db)):
            try:
                jobs.update(msgspec.json.decode(self._db[str(number)], type=Change))
            except msgspec.DecodeError as error:
                if number + 1 < len(self._db) or isinstance(error, msgspec.ValidationError):
                    raise
                self._load(self._end - 1)  # the machine crashed when the line was on disk, but not the value
        return [job for job in jobs.values() if job is not None]


def _sync(path: Path) -> int:
    """Write a file to the disk, and return its size."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
        return os.fstat(descriptor).st_size
    finally:
        os.close(descriptor)
