"""A disk under a PostgreSQL that loses what was not synced, as when a machine loses power.

A small library in C is loaded into the server. It stands before `fsync` and `fdatasync`, and copies the file to another
folder: what is there has reached the disk. Names of files are kept as a journal of the file system keeps them.
"""

import shutil
import subprocess

from postgres_server import PostgresServer
from postgres_stores import unavailable

SOURCE = r"""
#define _GNU_SOURCE
#include <dlfcn.h>
#include <fcntl.h>
#include <limits.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#define BLOCK 8192
#define REAL(name) ((int (*)())dlsym(RTLD_NEXT, name))

static int on_disk(const char *path, char *copy) {
    const char *data = getenv("LOSSY_DATA");
    size_t length = strlen(data);
    if (path[0] == '/' && strncmp(path, data, length)) return 0;
    snprintf(copy, PATH_MAX, "%s/%s", getenv("LOSSY_DISK"), path[0] == '/' ? path + length : path);
    return 1;
}

static void keep(int fd) {
    char link[64], path[PATH_MAX], copy[PATH_MAX], new[BLOCK], old[BLOCK];
    struct stat file;
    snprintf(link, sizeof link, "/proc/self/fd/%d", fd);
    ssize_t length = readlink(link, path, sizeof path - 1);
    if (length < 0 || fstat(fd, &file) || !S_ISREG(file.st_mode) || !file.st_nlink) return;
    path[length] = 0;
    if (!on_disk(path, copy)) return;
    int from = open(link, O_RDONLY), to = open(copy, O_RDWR | O_CREAT, 0600);
    if (from < 0 || to < 0) abort();
    off_t at = 0;
    for (ssize_t got; (got = pread(from, new, BLOCK, at)) > 0; at += got)
        if (pread(to, old, got, at) != got || memcmp(old, new, got))
            if (pwrite(to, new, got, at) != got) abort();
    if (ftruncate(to, at)) abort();
    close(from);
    close(to);
}

static int synced(int fd, const char *name) {
    while (access(getenv("LOSSY_HOLD"), F_OK) == 0) usleep(1000);
    keep(fd);
    return REAL(name)(fd);
}

int fsync(int fd) { return synced(fd, "fsync"); }
int fdatasync(int fd) { return synced(fd, "fdatasync"); }

static int both(const char *name, const char *one, const char *other) {
    char copy[PATH_MAX], copy_of_other[PATH_MAX];
    int done = REAL(name)(one, other);
    if (done == 0 && on_disk(one, copy) && on_disk(other, copy_of_other)) REAL(name)(copy, copy_of_other);
    return done;
}

int rename(const char *one, const char *other) { return both("rename", one, other); }
int link(const char *one, const char *other) { return both("link", one, other); }

int unlink(const char *path) {
    char copy[PATH_MAX];
    int done = REAL("unlink")(path);
    if (done == 0 && on_disk(path, copy)) REAL("unlink")(copy);
    return done;
}
"""


class LossyDisk:
    """The disk of a server, which it has from now on. All that it has written before is there."""

    def __init__(self, server: PostgresServer) -> None:
        """Start the server again on this disk. Without a compiler, the test is `unavailable`."""
        compiler = shutil.which("cc")
        if compiler is None:
            unavailable("cc: not found; what stands before fsync is in C")
        self._server = server
        self._disk, self._hold, library = (server.folder / name for name in ("disk", "hold", "lossy.so"))
        command = [compiler, "-w", "-shared", "-fPIC", "-x", "c", "-", "-o", library, "-ldl"]
        subprocess.run(command, input=SOURCE, text=True, check=True)
        server.stop()
        subprocess.run(["cp", "-a", server.data, self._disk], check=True)
        names = {"LOSSY_DATA": server.data, "LOSSY_DISK": self._disk, "LOSSY_HOLD": self._hold}
        server.environment = {**{name: str(path) for name, path in names.items()}, "LD_PRELOAD": str(library)}
        server.start()

    def hold(self) -> None:
        """Let no sync end from now on."""
        self._hold.touch()

    def lose_power(self) -> None:
        """Kill the server, and take away what was not synced. It can be started again, on a usual disk."""
        self._server.kill()
        self._server.environment = {}
        shutil.rmtree(self._server.data)
        self._disk.rename(self._server.data)
