"""Job ids: UUIDs of version 7 (RFC 9562), each greater than the last, whatever the clock does."""

from random import Random

from nodekit.model.clock import NodeClock
from nodekit.model.container import JobId

_RANDOM_BITS = 74
_RANDOM_MASK = (1 << _RANDOM_BITS) - 1
_STEP_BITS = 32


class JobIds:
    """A source of ids. Each is greater than every id it has given or seen."""

    def __init__(self, clock: NodeClock | None = None, random: Random | None = None) -> None:
        """Give ids with the time of `clock` and bits from `random`; by default, those of this machine."""
        self._milliseconds = (NodeClock() if clock is None else clock).milliseconds
        self._last = 0
        self._random = (Random() if random is None else random).getrandbits

    def next(self) -> JobId:
        milliseconds = self._milliseconds()
        number = milliseconds << _RANDOM_BITS | self._random(_RANDOM_BITS)
        if number <= self._last or milliseconds == self._last >> _RANDOM_BITS:
            number = self._last + 1 + self._random(_STEP_BITS)
        self._last = number
        return _text(number)

    def now(self) -> JobId:
        """Return the greatest id that the clock would give now. Ids of the future sort behind it."""
        return _text(self._milliseconds() << _RANDOM_BITS | _RANDOM_MASK)

    def seen(self, id: JobId) -> None:
        """Give only ids greater than this from now on."""
        self._last = max(self._last, _number(id))


def _text(number: int) -> JobId:
    milliseconds, random = number >> _RANDOM_BITS, number & _RANDOM_MASK
    high, low = random >> 62, random & (1 << 62) - 1
    digits = f"{milliseconds << 80 | 7 << 76 | high << 64 | 2 << 62 | low:032x}"
    return f"{digits[:8]}-{digits[8:12]}-{digits[12:16]}-{digits[16:20]}-{digits[20:]}"


def _number(id: JobId) -> int:
    bits = int(id.replace("-", ""), 16)
    return bits >> 80 << _RANDOM_BITS | (bits >> 64 & 0xFFF) << 62 | bits & (1 << 62) - 1
