"""The files that a node keeps for its containers: a secret by which it knows them again, and a lock for its name."""

import fcntl
import hashlib
import logging
import os
import re
import secrets
import stat
import tempfile
from contextlib import suppress
from pathlib import Path

from nodekit import NodekitError
from nodekit_docker.engine.errors import NameTaken

logger = logging.getLogger("nodekit.docker")

FOLDER = ".nodekit"
"""Name of the folder beside the node file, unless the node file names another one."""
SECRET_BYTES = 32

_SECRET = re.compile(rb"[0-9a-f]{64}\n")
_FILE_NAME = re.compile(r"docker-.+\.key")


class StateUnusable(NodekitError):
    """The files of a node's state cannot be read or written; the message says why, and what to do."""


class StateFolder:
    """The files of one node. They are its user's alone; nothing is made before it is needed."""

    def __init__(self, folder: Path, node: str) -> None:
        self.folder = folder
        self.secret_path = folder / f"docker-{node}.key"
        self._node = node

    def hold_name(self, engine: str) -> int:
        """Hold the node's name on an engine, given by its id. Return a descriptor; the name is free once it is closed.

        The kernel releases it however the process ends. Raise `NameTaken` if another process holds it.
        """
        path = self.folder / f"docker-{self._node}-{hashlib.sha256(engine.encode()).hexdigest()[:12]}.lock"
        try:
            self.folder.mkdir(mode=0o700, parents=True, exist_ok=True)
            lock = os.open(path, os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600)
        except OSError as error:
            raise _unusable(path, error) from error
        try:
            self._lock(path, lock)
        except BaseException:
            os.close(lock)
            raise
        return lock

    def _lock(self, path: Path, lock: int) -> None:
        _check(path, lock)  # the owner of a file can always open it, and keep it locked
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            raise NameTaken(
                f"another node named {self._node!r} runs on this machine with the same engine ({path} is locked): give "
                "each [node] a name of its own, and put all containers of a node on one engine under one docker runner"
            ) from error
        except OSError as error:
            raise _unusable(path, error) from error

    def secret(self) -> bytes:
        """Return the node's secret, which is made the first time. Raise `StateUnusable`.

        If others could read or write the file, they no longer can.
        """
        if (found := self.found_secret(closes=True)) is not None:
            return found
        try:
            self.folder.mkdir(mode=0o700, parents=True, exist_ok=True)
            _make(self.secret_path)
        except OSError as error:
            raise _unusable(self.secret_path, error) from error
        logger.info("a secret for the containers of %s was made: %s", self._node, self.secret_path)
        made = self.found_secret()
        if made is None:
            raise StateUnusable(f"{self.secret_path} was made and is gone again")
        return made

    def found_secret(self, *, closes: bool = False) -> bytes | None:
        """Return the node's secret, or None if there is no file. Raise `StateUnusable` if it cannot be used."""
        try:
            return read_secret(self.secret_path, closes=closes)
        except FileNotFoundError:
            return None
        except OSError as error:
            raise _unusable(self.secret_path, error) from error


def read_secret(path: Path, *, closes: bool = False) -> bytes:
    """Read a secret. Raise `OSError`, or `StateUnusable` if the file is none that `StateFolder` makes.

    `closes` takes the rights of others to the file.
    """
    file = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)
    try:
        _check(path, file)
        if closes:
            _close_to_others(path, file)
        text = os.read(file, 2 * SECRET_BYTES + 2)
    finally:
        os.close(file)
    if not _SECRET.fullmatch(text):
        raise StateUnusable(
            f"{path} is not whole: put it back from a backup, or remove it; then the node makes another one, and "
            "leaves what it has made before (`nodekit doctor` lists that)"
        )
    return bytes.fromhex(text.decode())


def is_secret_path(text: str) -> bool:
    """Return True if a label names a file that could be a node's secret."""
    return os.path.isabs(text) and _FILE_NAME.fullmatch(os.path.basename(text)) is not None


def _check(path: Path, file: int) -> None:
    """Raise `StateUnusable` if the file is somebody else's, or no file."""
    status = os.fstat(file)
    if not stat.S_ISREG(status.st_mode):
        raise StateUnusable(f"{path} is no file: remove it")
    if os.geteuid() and status.st_uid not in (0, os.geteuid()):
        raise StateUnusable(f"{path} belongs to another user (id {status.st_uid}): remove it, or name another `state`")


def _close_to_others(path: Path, file: int) -> None:
    mode = stat.S_IMODE(os.fstat(file).st_mode)
    if others := mode & 0o077:
        os.fchmod(file, mode & 0o700)
        logger.warning(
            "%s could be used by others (mode %03o), who may know this secret; it is the node's alone now", path, others
        )


def _make(path: Path) -> None:
    """Write a secret, all or nothing, also if the machine fails. Keep one that another process has just written."""
    made, name = tempfile.mkstemp(dir=path.parent, prefix=".docker-")
    try:
        with os.fdopen(made, "wb") as file:  # mode 0600
            file.write(secrets.token_hex(SECRET_BYTES).encode() + b"\n")
            file.flush()
            os.fsync(made)
        _publish(name, path)
    finally:
        with suppress(FileNotFoundError):
            os.unlink(name)
    folder = os.open(path.parent, os.O_RDONLY | os.O_CLOEXEC)
    try:
        os.fsync(folder)
    finally:
        os.close(folder)


def _publish(name: str, path: Path) -> None:
    with suppress(FileExistsError):
        try:
            os.link(name, path)
        except FileExistsError:
            raise
        except OSError:  # a file system without links, on which two processes must not begin at once
            os.replace(name, path)


def _unusable(path: Path, error: OSError) -> StateUnusable:
    reason = (error.strerror or str(error)).lower()
    return StateUnusable(
        f"{path}, by which the node knows its containers, cannot be used: {reason}; the runner's `state` names another "
        "folder"
    )
