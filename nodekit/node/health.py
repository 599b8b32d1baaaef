"""The health of a node."""

import math
from collections.abc import Callable, Sequence

import msgspec

TROUBLE_SECONDS = 30.0


class Health(msgspec.Struct, frozen=True):
    """The ability of a node to work, and what is wrong, in part or in whole."""

    healthy: bool
    reasons: Sequence[str] = ()


class Trouble:
    """A recent failure. It is forgotten after a while, so that clients that avoid the node try it again."""

    def __init__(self, monotonic: Callable[[], float]) -> None:
        self._monotonic = monotonic
        self._text = ""
        self._until = -math.inf

    def happened(self, text: str) -> None:
        self._text, self._until = text, self._monotonic() + TROUBLE_SECONDS

    def is_over(self) -> None:
        self._until = -math.inf

    @property
    def reasons(self) -> list[str]:
        return [self._text] if self._monotonic() < self._until else []
