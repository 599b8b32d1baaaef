"""Sizes as people write them: ``512MiB``."""

import re

SIZE = "a size such as 512MiB or 2GiB"

_SIZE = re.compile(r"(\d+(?:\.\d+)?)\s*([KMGT]?i?B?)", re.IGNORECASE)
_POWERS = {"": 0, "k": 1, "m": 2, "g": 3, "t": 4}
_UNITS = ("bytes", "KiB", "MiB", "GiB", "TiB")


def size_in_bytes(text: str) -> int | None:
    """Parse ``2GiB``, or ``2g`` and ``2GB`` as Docker's own tools write it; all units are powers of 1024.

    Return None if the text is no size, or if the size is zero or more than an engine can count.
    """
    found = _SIZE.fullmatch(text.strip())
    if found is None:
        return None
    power = _POWERS[found[2].lower().rstrip("b").rstrip("i")]
    size = float(found[1]) * 1024**power
    return int(size) or None if size < 2**63 else None


def shown_size(size: float) -> str:
    """Format a number of bytes, such as ``1.5 GiB``."""
    power = 0
    while size >= 1024 and power < len(_UNITS) - 1:
        size, power = size / 1024, power + 1
    return f"{size:.0f} {_UNITS[power]}" if size == int(size) else f"{size:.1f} {_UNITS[power]}"
