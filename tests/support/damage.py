"""Random damage of a file, as a disk does it."""

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
