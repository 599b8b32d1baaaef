"""A log file of bounded size."""

import os
from pathlib import Path

from nodekit.cli.serve.log.line_writer import BATCH_BYTES

FILE_MODE = 0o640
"""Mode of log files: they may hold what containers print, so only the operator's group reads them."""


class LogFile:
    """A file as a place for lines. It is opened by `reopen` or the first line, and again after it has refused one.

    It is written without a buffer of Python, which the end of the process would wait for if a disk hangs.
    """

    blocked = "was not written in time"

    def __init__(self, path: Path, max_file_bytes: int, backups: int) -> None:
        """Limit the file to `max_file_bytes`, unless these are 0. Keep `backups` renamed files."""
        self._path = path
        self._most = max_file_bytes
        self._backups = backups
        self._file: int | None = None
        self._size = 0

    @property
    def room(self) -> int:
        """Number of bytes until the file is renamed. Somebody else may write to it, or empty it."""
        if not self._most:
            return BATCH_BYTES
        if self._file is not None:
            self._size = os.fstat(self._file).st_size
        return min(BATCH_BYTES, max(0, self._most - self._size))

    def write(self, data: bytes) -> int:
        try:
            if self._most and self._size and self._size + len(data) > self._most:
                self._begin_anew()
            if self._file is None:
                self._open(os.O_APPEND)
                if self._most and self._size and self._size + len(data) > self._most:
                    self._begin_anew()
            assert self._file is not None
            written = os.write(self._file, data)
        except OSError:
            self._close()
            raise
        self._size += written
        return written

    def reopen(self) -> None:
        """Close the file and open it by its name. Raise `OSError` if that fails; then the next line tries it again."""
        self._close()
        self._open(os.O_APPEND)

    def _close(self) -> None:
        if self._file is not None:
            file, self._file, self._size = self._file, None, 0
            os.close(file)

    def _open(self, how: int) -> None:
        """Open the file. One that is made here may be read by the owner and the group only."""
        self._file = os.open(self._path, os.O_WRONLY | os.O_CREAT | os.O_CLOEXEC | how, FILE_MODE)
        self._size = os.fstat(self._file).st_size

    def _begin_anew(self) -> None:
        """Rename the file and those before it, and begin a new one."""
        self._close()
        if not self._backups:
            self._open(os.O_APPEND | os.O_TRUNC)
            return
        for number in range(self._backups - 1, -1, -1):
            older = Path(f"{self._path}.{number}") if number else self._path
            if os.path.exists(older):
                older.replace(f"{self._path}.{number + 1}")
        self._open(os.O_APPEND)
