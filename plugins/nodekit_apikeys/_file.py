"""The file of keys: a line of JSON for each key, behind a first line that says what it is.

It belongs to the operator. Only commands write it; the node reads it. Neither follows a link there.
"""

import fcntl
import os
import stat
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from errno import EACCES, EPERM
from pathlib import Path

import msgspec

from nodekit import NodekitError, folder_problem, printable
from nodekit_apikeys._key import Key

MAX_BYTES = 256 << 20
LOCK_SECONDS = 10.0
LINES_AT_ONCE = 200
"""Lines that are decoded in one go. Decoding holds the interpreter, and other threads have their turn in between."""

_HEAD = b'{"nodekit_keys":1}'
_MODE = 0o600
_SAFELY = os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC
"""Flags for a file that somebody else may have put there: a link is not followed, and a pipe does not wait."""
_PAUSE_SECONDS = 0.02

_keys: msgspec.json.Decoder[list[Key]] = msgspec.json.Decoder(list[Key])
_key: msgspec.json.Decoder[Key] = msgspec.json.Decoder(Key)
_encode = msgspec.json.Encoder().encode_lines


class KeyFileProblem(NodekitError):
    """A file of keys cannot be read or written. The message names the file and the cure."""


class Signature(msgspec.Struct, frozen=True):
    """The facts about a file that differ once it has changed."""

    device: int
    inode: int
    size: int
    modified: int
    changed: int


def signature_of(path: Path) -> Signature | None:
    """Return the signature of the file as it is. Return None if there is none."""
    try:
        return _signature(os.stat(path, follow_symlinks=False))
    except FileNotFoundError:
        return None
    except OSError as error:
        raise _refused(path, "read", error) from error


def read_keys(path: Path) -> tuple[Sequence[Key], Signature | None]:
    """Return the keys of a file, none if there is no file. Raise `KeyFileProblem`."""
    if (found := read_private(path)) is None:
        return (), None
    data, facts = found
    return _decoded(path, data), _signature(facts)


def read_private(path: Path) -> tuple[bytes, os.stat_result] | None:
    """Return the content of a file that only its owner can use. Return None if there is none.

    Raise `KeyFileProblem` also for what is no file, or is that of another user.
    """
    try:
        descriptor = os.open(path, os.O_RDONLY | _SAFELY)
    except FileNotFoundError:
        return None
    except OSError as error:
        if os.path.islink(path):
            raise _problem(path, "is a link; name the file itself in `path`") from error
        raise _refused(path, "read", error) from error
    try:
        facts = os.fstat(descriptor)
        _check(path, facts)
        with os.fdopen(descriptor, "rb", closefd=False) as file:
            data = file.read(MAX_BYTES + 1)
    except OSError as error:
        raise _refused(path, "read", error) from error
    finally:
        os.close(descriptor)
    if len(data) > MAX_BYTES:
        raise _problem(path, f"is larger than {MAX_BYTES} bytes; is it the right file?")
    return data, facts


@contextmanager
def changing(path: Path) -> Iterator["KeyChange"]:
    """Lock the file against other commands, and yield its keys for a change. Raise `KeyFileProblem`."""
    with locked(path):
        keys, _ = read_keys(path)
        yield KeyChange(path, {key.name: key for key in keys})


class KeyChange:
    """The keys of a file by name, while it is locked. `save` writes them."""

    def __init__(self, path: Path, keys: dict[str, Key]) -> None:
        self.keys = keys
        self._path = path

    def save(self) -> None:
        """Replace the file: after a crash it is the old or the new one. Raise `KeyFileProblem`; the old one stays."""
        replace_file(self._path, _HEAD + b"\n" + _encode(list(self.keys.values())))


def replace_file(path: Path, data: bytes, *, durable: bool = True) -> None:
    """Replace a file, for its owner alone. Root makes it for the owner of the old one, or else of the folder.

    If it need not be `durable`, it does not wait for the disk.
    """
    new = path.with_name(f".{path.name}.new")
    try:
        with suppress(FileNotFoundError):
            new.unlink()  # left by a command that was killed
        descriptor = os.open(new, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC, _MODE)
        try:
            with os.fdopen(descriptor, "wb") as file:
                os.fchmod(descriptor, _MODE)
                if os.geteuid() == 0:
                    os.fchown(descriptor, *_owner(path))
                file.write(data)
                file.flush()
                if durable:
                    os.fsync(descriptor)
            new.replace(path)
        except BaseException:
            new.unlink(missing_ok=True)
            raise
        if not durable:
            return
        folder = os.open(path.parent, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        try:
            os.fsync(folder)
        finally:
            os.close(folder)
    except OSError as error:
        raise _refused(path, "written", error, writes=True) from error


def _owner(path: Path) -> tuple[int, int]:
    try:
        facts = os.stat(path, follow_symlinks=False)
    except FileNotFoundError:
        facts = path.parent.stat()
    return facts.st_uid, facts.st_gid


def _check(path: Path, facts: os.stat_result) -> None:
    """Raise `KeyFileProblem` if others could have written the file, or may read it."""
    if not stat.S_ISREG(facts.st_mode):
        raise _problem(path, "is no file; name a file in `path`")
    user = os.geteuid()
    owner_of_folder = path.parent.stat().st_uid if user == 0 else user
    if facts.st_uid not in (user, 0, owner_of_folder):
        raise _problem(path, f"belongs to the user {facts.st_uid}, who could let anybody in; chown it to {user}")
    if facts.st_mode & 0o077:
        raise _problem(path, f"is open to others (mode {facts.st_mode & 0o777:o}); run: chmod 600 on it")


def _signature(facts: os.stat_result) -> Signature:
    return Signature(facts.st_dev, facts.st_ino, facts.st_size, facts.st_mtime_ns, facts.st_ctime_ns)


def _decoded(path: Path, data: bytes) -> Sequence[Key]:
    """Decode the lines, a few at a time. Raise `KeyFileProblem` with the number of the line that is wrong."""
    lines = data.split(b"\n")
    if lines[0].strip() != _HEAD or lines.pop().strip():
        raise _problem(path, "is no file of keys, or is cut off; restore it, or name another in `path`")
    keys: list[Key] = []
    for start in range(1, len(lines), LINES_AT_ONCE):
        some = lines[start : start + LINES_AT_ONCE]
        try:
            keys += _keys.decode(b"[" + b",".join(some) + b"]")
        except (msgspec.DecodeError, UnicodeDecodeError):
            keys += _one_by_one(path, some, start)
    if len({key.name for key in keys}) < len(keys) or len({key.id for key in keys}) < len(keys):
        raise _problem(path, "has two keys of one name, or of one id; remove one of them")
    return keys


def _one_by_one(path: Path, lines: Sequence[bytes], start: int) -> Iterator[Key]:
    for number, line in enumerate(lines, start + 1):
        if not line.strip():
            continue
        try:
            yield _key.decode(line)
        except (msgspec.DecodeError, UnicodeDecodeError) as error:
            text = f"line {number} is no key: {printable(str(error))}; restore the file, or correct the line"
            raise _problem(path, text) from error


@contextmanager
def locked(path: Path) -> Iterator[None]:
    """Hold the lock of all that change the file: a file beside it, which only its owner can open, and so lock.

    Raise `KeyFileProblem` if it is held for too long.
    """
    lock = path.with_name(f"{path.name}.lock")
    try:
        descriptor = os.open(lock, os.O_RDWR | os.O_CREAT | _SAFELY, _MODE)
    except OSError as error:
        raise _refused(path, f"written: {lock.name}", error, writes=True) from error
    try:
        _check(lock, os.fstat(descriptor))
        if os.geteuid() == 0:  # the node has to open it, too
            os.fchown(descriptor, *_owner(path))
        until = time.monotonic() + LOCK_SECONDS
        while True:
            try:
                fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
                break
            except BlockingIOError as error:
                if time.monotonic() >= until:
                    raise _problem(path, "is being changed by another command; try again") from error
                time.sleep(_PAUSE_SECONDS)
            except OSError as error:
                raise _problem(path, f"cannot be locked: {error.strerror}") from error
        yield
    finally:
        os.close(descriptor)


def _refused(path: Path, done: str, error: OSError, *, writes: bool = False) -> KeyFileProblem:
    """Return the problem of a file that cannot be `done`, such as read."""
    if problem := folder_problem(path.parent, write=writes):
        return _problem(path, f"cannot be {done}: {problem}")
    cure = "look at its disk (df, dmesg)"
    if error.errno in (EACCES, EPERM):
        cure = "run this as the user of the node, or give the file to this one"
    return _problem(path, f"cannot be {done}: {error.strerror}; {cure}")


def _problem(path: Path, text: str) -> KeyFileProblem:
    return KeyFileProblem(f"{printable(str(path))} {text}")
