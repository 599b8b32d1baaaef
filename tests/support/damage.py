"""Random damage of a file, as a disk does it."""

import os
import sqlite3
from contextlib import closing
from pathlib import Path
from random import Random

PAGE = 4096


class Damage:
    """Random damage of a file, as a disk does it."""

    def __init__(self, path: Path, chance: Random) -> None:
        self._data = bytearray(path.read_bytes())
        self._chance = chance
        kinds = (self.bit, self.bits, self.bytes, self.sector, self.zeros, self.noise, self.swap, self.copy)
        chance.choice(kinds)()
        path.write_bytes(self._data)

    def _page(self) -> slice:
        start = self._chance.randrange(len(self._data) // PAGE) * PAGE
        return slice(start, start + PAGE)

    def bit(self) -> None:
        self._data[self._chance.randrange(len(self._data))] ^= 1 << self._chance.randrange(8)

    def bits(self) -> None:
        for _ in range(40):
            self.bit()

    def bytes(self) -> None:
        start = self._chance.randrange(len(self._data) - 64)
        self._data[start : start + 64] = self._chance.randbytes(64)

    def sector(self) -> None:
        start = self._chance.randrange(len(self._data) // 512) * 512
        self._data[start : start + 512] = bytes(512)

    def zeros(self) -> None:
        self._data[self._page()] = bytes(PAGE)

    def noise(self) -> None:
        self._data[self._page()] = self._chance.randbytes(PAGE)

    def swap(self) -> None:
        one, other = self._page(), self._page()
        self._data[one], self._data[other] = self._data[other], self._data[one]

    def copy(self) -> None:
        self._data[self._page()] = self._data[self._page()]


def ruin(path: Path, part: str) -> None:
    """Overwrite the root page of a table or index, or, for the part ``all``, each page but the first."""
    with closing(sqlite3.connect(path)) as connection:
        connection.execute("PRAGMA wal_checkpoint(TRUNCATE)").fetchall()
        pages = dict(connection.execute("SELECT name, rootpage FROM sqlite_master"))
    with path.open("r+b") as file:
        file.seek(PAGE if part == "all" else (pages[part] - 1) * PAGE)
        file.write(os.urandom(path.stat().st_size - PAGE if part == "all" else PAGE))
