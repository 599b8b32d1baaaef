"""Damage of the file: which errors mean it, and what becomes of a job that cannot be read."""

import errno
import logging
import math
import sqlite3
from collections.abc import Collection, Sequence
from contextlib import suppress
from typing import Any
from uuid import UUID

import msgspec

from nodekit import ContainerError, Job, JobId, JobRequest, JobStatus, Outcome, StoreFailed, counted
from nodekit_sqlite._sums import DamagedRecord

logger = logging.getLogger("nodekit.store")

DAMAGED = "the records of this job in the store are damaged and cannot be read"
"""Text that clients get. It says nothing of what was read, which may be data of somebody else."""
CURE = "restore a backup, or rescue what can be read into another store: nodekit store copy FROM TO"

_UNREADABLE = {sqlite3.SQLITE_IOERR_READ, sqlite3.SQLITE_IOERR_SHORT_READ, sqlite3.SQLITE_IOERR_CORRUPTFS}
_NAMED = 10_000
"""Number of damaged jobs that are remembered, so that each is logged once."""


def is_damage(error: Exception) -> bool:
    """Return True if a part of the file cannot be read, or is not as it was written. Others may read other parts."""
    if isinstance(error, sqlite3.Error):
        code = getattr(error, "sqlite_errorcode", None)
        if code is None:  # of the module itself, not of SQLite
            return "decode to UTF-8" in str(error)
        return code & 0xFF == sqlite3.SQLITE_CORRUPT or code in _UNREADABLE
    return isinstance(error, DamagedRecord | msgspec.MsgspecError)


_CURES_OF_SYSTEM = {
    errno.ENOENT: "correct the path; a node that starts makes the file, but no folder",
    errno.EACCES: "run this as the node's user, or give the file to this one",
    errno.EPERM: "run this as the node's user, or give the file to this one",
    errno.ENOSPC: "free some space on this disk",
    errno.EDQUOT: "free some space on this disk",
    errno.EROFS: "mount the file system for writing, or name another path",
    errno.EISDIR: "it is a folder; name a file",
    errno.ENOTDIR: "a part of the path is a file; name another path",
    errno.ELOOP: "it is a link to itself; name another path",
    errno.EMFILE: "allow more open files (ulimit -n)",
}
_CURES_OF_SQLITE = {
    sqlite3.SQLITE_NOTADB: f"if the path is right, its beginning is damaged: {CURE}",
    sqlite3.SQLITE_FULL: "free some space on this disk",
    sqlite3.SQLITE_BUSY: "another program has it open (`fuser FILE` names it); end that one",
    sqlite3.SQLITE_PERM: "run this as the node's user, or give the file to this one",
    sqlite3.SQLITE_READONLY: "run this as the node's user, or mount the file system for writing",
    sqlite3.SQLITE_CANTOPEN: "look who may read and write the file, those beside it, and its folder (ls -la)",
}
_LOOK_AT_THE_DISK = "look at the disk (df, dmesg)"


def cured(error: OSError | sqlite3.Error) -> str:
    """Return the text of an error of the system or SQLite, with a cure."""
    if isinstance(error, OSError):
        return f"{error.strerror or error}; {_CURES_OF_SYSTEM.get(error.errno or 0, _LOOK_AT_THE_DISK)}"
    code = getattr(error, "sqlite_errorcode", 0) & 0xFF
    cure = CURE if is_damage(error) else _CURES_OF_SQLITE.get(code, _LOOK_AT_THE_DISK)
    return f"{error}; {cure}"


def has_damage(error: StoreFailed) -> bool:
    """Return True for a failure whose cause is damage."""
    return isinstance(error.__cause__, Exception) and is_damage(error.__cause__)


def is_lasting(error: StoreFailed) -> bool:
    """Return True for a failure whose cause is damage of the file. A disk that cannot be read now may be read later."""
    code = getattr(error.__cause__, "sqlite_errorcode", 0) or 0
    return code & 0xFF == sqlite3.SQLITE_CORRUPT


class Damages:
    """The damage that was found since the file was opened. Any thread may report some."""

    def __init__(self) -> None:
        self._most: float = _NAMED
        self._level = logging.ERROR
        self._jobs: dict[str, None] = {}
        self._unsaved: set[JobId] = set()
        """Jobs that cannot be written. Those that the file says are unfinished count as failed."""
        self._parts: dict[str, None] = {}

    def remember_all(self) -> None:
        """Remember all damaged jobs, for a caller who names them: none may be taken for a job that failed."""
        self._most, self._level = math.inf, logging.DEBUG

    @property
    def jobs(self) -> Collection[JobId]:
        """The jobs that could not be read."""
        return self._jobs.keys()

    def of_job(self, id: JobId, error: Exception) -> None:
        """Report that a job cannot be read."""
        if id not in self._jobs and len(self._jobs) < self._most:
            self._jobs[id] = None
            logger.log(self._level, "job %s is damaged in the store and counts as failed: %s", id, error)

    def unsaved(self, id: JobId, error: Exception) -> None:
        """Report that a job cannot be written, because a page that it needs is damaged."""
        self._unsaved.add(id)
        self.of_job(id, error)

    def saved(self, id: JobId) -> None:
        """Report that a job was written."""
        if self._unsaved:
            self._unsaved.discard(id)

    def known(self, job: Job) -> Job:
        """Return a job that was read. One that cannot be written any more has failed."""
        if job.id not in self._unsaved or job.status.finished:
            return job
        return failed_job(job.id, job.request, {"accepted_at": job.accepted_at, "retry_of": job.retry_of}, None)

    def of_part(self, part: str, error: object) -> None:
        """Report that a part of the file, other than a job, cannot be read."""
        if part not in self._parts:
            self._parts[part] = None
            logger.error("%s of the store is damaged: %s", part, error)

    def problems(self) -> Sequence[str]:
        """Return what is wrong, for operators."""
        texts = [f"{part} of the store is damaged; {CURE}" for part in [*self._parts]]
        if number := len(self._jobs):
            jobs = counted(number, "job", "is", "are")
            some = ", ".join([*self._jobs][:3])
            texts.insert(0, f"{jobs} damaged in the store and failed ({some}{', …' * (number > 3)}); {CURE}")
        return texts


def failed_job(id: JobId, request: JobRequest, state: dict[str, Any], finish_number: Any) -> Job:
    """Return a job that cannot be read, as one that failed. `state` has the fields of it that could be read."""
    accepted_at = state.get("accepted_at") or _time_in(id)
    error = ContainerError(container="", error=DAMAGED, kind="internal")
    return Job(
        id=id,
        request=request,
        accepted_at=accepted_at,
        status=JobStatus.FAILED,
        outcome=Outcome(JobStatus.FAILED, error),
        finished_at=state.get("finished_at") or accepted_at,
        retry_of=state.get("retry_of"),
        finish_number=finish_number if isinstance(finish_number, int) else None,
    )


def _time_in(id: JobId) -> float:
    """Return the time in an id that a node made."""
    with suppress(ValueError):
        return (UUID(id).int >> 80) / 1000
    return 0.0
