"""The health of a node."""

import time
from collections.abc import Sequence

import msgspec

TROUBLE_SECONDS = 30.0


class Health(msgspec.Struct, frozen=True):
    """The ability of a node to work, and what is wrong, in part or in whole."""

    healthy: bool
    reasons: Sequence[str] = ()


class Trouble:
    """A recent failure. It is forgotten after a while, so that clients that avoid the node try it again."""

    def __init__(self) -> None:
        self._text = ""
        self._until = 0.0

    def happened(self, text: str) -> None:
        self._text, self._until = text, time.monotonic() + TROUBLE_SECONDS

    def is_over(self) -> None:
        self._until = 0.0

    @property
    def reasons(self) -> list[str]:
        return [self._text] if time.monotonic() < self._until else []
