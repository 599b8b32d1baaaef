"""The rescue of the jobs of a file that was deleted, or that lost its log, while it is still open."""

import logging
import os
import sqlite3

from nodekit_sqlite._file import DatabaseFile, Loss, saved_path

logger = logging.getLogger("nodekit.store")


class Rescue:
    """Looks after the file for the thread that writes, which acknowledges nothing while the file is lost."""

    def __init__(self, file: DatabaseFile) -> None:
        self._file = file
        self._saved: tuple[Loss, str] | None = None
        self.text = ""
        """Text for operators: the loss of the file, and the cure. Empty: the file is in its place."""

    def look(self, connection: sqlite3.Connection) -> str:
        """Return what is wrong with the file. Whatever was committed is brought to safety first."""
        loss = self._file.look()
        if loss is None:
            if self.text:
                logger.info("%s is in its place again", self._file.path)
            self._saved, self.text = None, ""
            return ""
        if self._saved is None or self._saved[0] != loss:
            if loss.kind == "deleted":  # saving may take a while
                logger.error("nothing is accepted: %s; its jobs are being saved", loss.text)
            self._saved = loss, self._save(connection, loss)
        text = "; ".join(filter(None, (loss.text, self._saved[1])))
        if text != self.text:
            logger.error("nothing is accepted: %s", text)
        self.text = text
        return text

    def _save(self, connection: sqlite3.Connection, loss: Loss) -> str:
        """Save what was committed. Return what was done, and what is to be done."""
        if loss.kind == "content":  # the log would be written over the new content
            return ""
        try:
            # a log that is not empty would be applied to whichever file takes the place of this one
            connection.execute("PRAGMA wal_checkpoint(TRUNCATE)").fetchall()
            if loss.kind == "log":
                return f"its jobs are in {self._file.path}: start the node again"
            return self._copy(connection) if loss.kind == "deleted" else ""
        except (OSError, sqlite3.Error) as error:
            place = self._file.place_of_a_copy
            return f"its jobs could not be saved ({error}); before the node ends, copy them from {place}"

    def _copy(self, connection: sqlite3.Connection) -> str:
        saved = first = saved_path(self._file.path)
        number = 1
        while os.path.exists(saved):
            number += 1
            saved = first.with_name(f"{first.name}-{number}")
        os.close(os.open(saved, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600))
        connection.execute("VACUUM INTO ?", (str(saved),))
        descriptor = os.open(saved, os.O_RDONLY | os.O_CLOEXEC)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)
        return f"its jobs were saved in {saved}: stop the node, move that file to {self._file.path}, and start the node"
