"""A disk under a Redis: syncs can be held up, and what was not synced can be lost, as when a machine loses power.

A small library in C is loaded into the server. It stands before `fdatasync`.
"""

from pathlib import Path

import pytest
from preloaded import preload
from redis_server import RedisServer

SOURCE = r"""
#define _GNU_SOURCE
#include <dlfcn.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/stat.h>
#include <unistd.h>

int fdatasync(int fd) {
    static int (*sync)(int);
    char path[4096], line[64];
    struct stat file;
    if (!sync) sync = dlsym(RTLD_NEXT, "fdatasync");
    snprintf(path, sizeof path, "%s/hold", getenv("SLOW_DISK"));
    while (access(path, F_OK) == 0) usleep(1000);
    if (fstat(fd, &file)) return -1;
    int done = sync(fd);
    if (done == 0) {
        snprintf(path, sizeof path, "%s/synced", getenv("SLOW_DISK"));
        int log = open(path, O_WRONLY | O_APPEND | O_CREAT, 0600);
        int length = snprintf(line, sizeof line, "%lu %lu\n", (unsigned long)file.st_ino, (unsigned long)file.st_size);
        if (write(log, line, length) != length) abort();
        close(log);
    }
    return done;
}
"""


class SlowDisk:
    """The disk of the servers that are started while it is entered in the environment."""

    def __init__(self, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        self._folder, self._monkeypatch = folder, monkeypatch

    def enter(self) -> None:
        """Have servers load the library."""
        preload(self._folder, self._monkeypatch, SOURCE, {"SLOW_DISK": str(self._folder)})

    def hold(self) -> None:
        """Let no sync end from now on."""
        (self._folder / "hold").touch()

    def release(self) -> None:
        (self._folder / "hold").unlink(missing_ok=True)

    def _synced(self) -> dict[int, int]:
        """Return the number of bytes of each file that are on the disk, by its inode."""
        lines = (self._folder / "synced").read_text().splitlines()
        return {int(inode): int(size) for inode, size in (line.split() for line in lines)}

    def is_synced(self, server: RedisServer) -> bool:
        """Return True if all that the server has written is on the disk."""
        synced = self._synced()
        files = [path.stat() for path in logs(server)]
        return all(synced.get(file.st_ino, 0) >= file.st_size for file in files)

    def lose_power(self, server: RedisServer) -> None:
        """Kill the server, and take away what was not synced. It can be started again."""
        server.kill()
        synced = self._synced()
        for path in logs(server):
            with path.open("r+b") as file:
                file.truncate(min(path.stat().st_size, synced.get(path.stat().st_ino, 0)))
        self.release()


def logs(server: RedisServer) -> list[Path]:
    return list(server.folder.glob("appendonlydir/*.incr.aof"))
