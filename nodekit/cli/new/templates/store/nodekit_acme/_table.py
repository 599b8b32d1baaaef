"""A `JobTable`: the eight methods that a store for one node has to implement.

Jobs are in memory. Each change is a record at the end of a file, which is read again at the next start.

Where to go on: the file never shrinks, and `find` looks at every job. Both are fine for some ten thousand jobs. For
more, keep them in a database, as nodekit's own store `sqlite` does. The suites in `tests` stay the same.

For a table on another library, replace the methods below "the file": `_open` and `_read`, which load all jobs, and
`_append`, which returns once a change is on the disk. Find out when that library has written, because the suites kill
the process.
"""

import fcntl
import os
from collections import ChainMap
from collections.abc import Mapping, Sequence
from io import FileIO
from pathlib import Path
from struct import Struct
from types import TracebackType
from typing import Self
from zlib import crc32

import anyio
import anyio.to_thread
import msgspec

from nodekit import ClientId, Job, JobFields, JobId, JobQuery, StoreFailed, StoreInUse, Unfinished


class Change(msgspec.Struct, frozen=True, omit_defaults=True):
    """The contents of a record, which is kept whole or not at all."""

    kept: tuple[Job, ...] = ()
    deleted: tuple[JobId, ...] = ()


_HEADER = Struct(">II")
"""The header of a record: its length and a checksum."""
_encode = msgspec.json.Encoder().encode
_decode = msgspec.json.Decoder(Change).decode  # payloads are `Raw` in it: they come back byte for byte


class AcmeTable:
    """The jobs of one node. A change survives a crash once its method has returned.

    With `synchronous`, it also survives a crash of the machine.
    """

    def __init__(self, path: Path, *, synchronous: bool = True) -> None:
        self._path = path
        self._synchronous = synchronous
        self._jobs: dict[JobId, Job] = {}
        self._by_key: dict[tuple[ClientId, str | None], JobId] = {}
        self._writing = anyio.Lock()

    async def __aenter__(self) -> Self:
        self._file, self._end = await anyio.to_thread.run_sync(self._open)
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._file.close()

    # -- what is kept -----------------------------------------------------------------------------

    async def add(self, jobs: Sequence[Job]) -> list[Job]:
        async with self._writing:
            new: dict[JobId, Job] = {}
            new_keys: dict[tuple[ClientId, str | None], JobId] = {}
            known, by_key = ChainMap(new, self._jobs), ChainMap(new_keys, self._by_key)
            kept: list[Job] = []
            for job in jobs:
                id = by_key.get(_key(job), job.id)
                if id not in known:
                    known[id] = job
                    if job.request.idempotency_key is not None:
                        by_key[_key(job)] = id
                kept.append(known[id])
            if new:
                await self._write(Change(kept=tuple(new.values())))
            return kept

    async def save(self, job: Job) -> None:
        async with self._writing:
            await self._write(Change(kept=(job.over(self._jobs[job.id]),)))

    async def delete(self, ids: Sequence[JobId]) -> int:
        async with self._writing:
            gone = tuple(id for id in set(ids) if id in self._jobs and self._jobs[id].status.finished)
            if gone:
                await self._write(Change(deleted=gone))
            return len(gone)

    # -- what is asked ----------------------------------------------------------------------------

    async def get(
        self, ids: Sequence[JobId], *, client: ClientId | None = None, fields: JobFields = JobFields.ALL
    ) -> list[Job]:
        found = (self._jobs[id] for id in dict.fromkeys(ids) if id in self._jobs)
        return [job for job in found if client is None or job.client == client]

    async def find(self, query: JobQuery) -> list[JobId]:
        return query.choose(self._jobs.values())

    async def sizes(self, ids: Sequence[JobId]) -> Mapping[JobId, int]:
        return {id: self._jobs[id].payload_bytes for id in ids if id in self._jobs}

    async def last_surplus(self, keep: int) -> int | None:
        numbers = sorted(job.finish_number for job in self._jobs.values() if job.finish_number is not None)
        return numbers[-keep - 1] if len(numbers) > keep else None

    async def unfinished(self) -> Sequence[Unfinished]:
        return [Unfinished.of(job) for _, job in sorted(self._jobs.items()) if not job.status.finished]

    # -- the file ---------------------------------------------------------------------------------

    async def _write(self, change: Change) -> None:
        """Make a change durable, then visible. A thread waits for the disk, so that the node's loop goes on."""
        await anyio.to_thread.run_sync(self._append, _encode(change))
        self._apply(change)

    def _append(self, body: bytes) -> None:
        record = _HEADER.pack(len(body), crc32(body)) + body
        try:
            self._file.seek(self._end)
            self._file.truncate()  # the remains of a write that failed
            if self._file.write(record) != len(record):
                raise OSError("only a part of it was written")
            if self._synchronous:
                os.fsync(self._file.fileno())
        except OSError as error:
            raise StoreFailed(f"cannot write {self._path}: {error}") from error
        self._end += len(record)

    def _apply(self, change: Change) -> None:
        for job in change.kept:
            self._jobs[job.id] = job
            if job.request.idempotency_key is not None:
                self._by_key[_key(job)] = job.id
        for id in change.deleted:
            self._by_key.pop(_key(self._jobs.pop(id)), None)

    def _open(self) -> tuple[FileIO, int]:
        try:
            file = FileIO(os.open(self._path, os.O_RDWR | os.O_CREAT, 0o600), "r+")
            try:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)  # held until the file is closed or the process dies
                _sync_folder(self._path.parent)
                return file, self._read(file)
            except BaseException:
                file.close()
                raise
        except BlockingIOError as error:
            text = f"{self._path} is held by another node; stop it or name another path"
            raise StoreInUse(text) from error
        except (OSError, msgspec.DecodeError) as error:
            raise StoreFailed(f"cannot open {self._path}: {error}") from error

    def _read(self, file: FileIO) -> int:
        """Load the records, and return the position where they end."""
        end = 0
        while header := file.read(_HEADER.size):
            size, checksum = _HEADER.unpack(header.ljust(_HEADER.size, b"\0"))
            body = file.read(size)
            if len(header) < _HEADER.size or not body or crc32(body) != checksum:
                if file.read(1):
                    raise StoreFailed(f"{self._path} is damaged at byte {end}; put a copy of it in its place")
                break  # a crash cut it short, so its `_append` has not returned
            self._apply(_decode(body))
            end += len(header) + len(body)
        return end


def _key(job: Job) -> tuple[ClientId, str | None]:
    """Return the key by which a client's repeated request finds the job that exists already."""
    return job.client, job.request.idempotency_key


def _sync_folder(folder: Path) -> None:
    """Flush a folder. A new file survives a crash of the machine only if its folder is flushed, too."""
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
