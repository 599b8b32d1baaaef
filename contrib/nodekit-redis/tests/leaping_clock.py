"""A wall clock under a Redis that leaps when a test says so, as when an operator or NTP sets the clock of a machine.

A small library in C is loaded into the server. It stands before the functions that read the time. The clock that only
measures how long something took does not leap.
"""

from pathlib import Path

import pytest
from preloaded import preload

SOURCE = r"""
#define _GNU_SOURCE
#include <dlfcn.h>
#include <fcntl.h>
#include <stdlib.h>
#include <sys/mman.h>
#include <sys/time.h>
#include <time.h>
#include <unistd.h>

static volatile long *leap;

__attribute__((constructor)) static void begin(void) {
    int file = open(getenv("LEAPING_CLOCK"), O_RDONLY);
    leap = mmap(NULL, sizeof *leap, PROT_READ, MAP_SHARED, file, 0);
    if (leap == MAP_FAILED) abort();
    close(file);
}

int clock_gettime(clockid_t clock, struct timespec *now) {
    static int (*real)(clockid_t, struct timespec *);
    if (!real) real = dlsym(RTLD_NEXT, "clock_gettime");
    int done = real(clock, now);
    if (leap && (clock == CLOCK_REALTIME || clock == CLOCK_REALTIME_COARSE)) now->tv_sec += *leap;
    return done;
}

int gettimeofday(struct timeval *now, void *zone) {
    struct timespec exact;
    int done = clock_gettime(CLOCK_REALTIME, &exact);
    now->tv_sec = exact.tv_sec;
    now->tv_usec = exact.tv_nsec / 1000;
    return done;
}

time_t time(time_t *now) {
    struct timespec exact;
    clock_gettime(CLOCK_REALTIME, &exact);
    if (now) *now = exact.tv_sec;
    return exact.tv_sec;
}
"""
LONG_BYTES = 8


class LeapingClock:
    """The clock of the servers that are started once it is made."""

    def __init__(self, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        self._file = folder / "leap"
        self.leap(0)
        preload(folder, monkeypatch, SOURCE, {"LEAPING_CLOCK": str(self._file)})

    def leap(self, seconds: int) -> None:
        """Set the clock of the servers that run so many seconds ahead of that of the machine, or behind it."""
        with self._file.open("r+b" if self._file.exists() else "w+b") as file:
            file.write(seconds.to_bytes(LONG_BYTES, "little", signed=True))
