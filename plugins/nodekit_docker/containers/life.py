"""A container from the moment it answers to its end."""

from collections.abc import Sequence

import anyio

from nodekit_docker.containers.state import State
from nodekit_remote import Endpoint

LINES_IN_ERROR = 3
CHARACTERS_IN_ERROR = 500


class Life:
    """Calls go to its endpoint; one whose connection breaks casts doubt on it, which is cleared up for all of them."""

    def __init__(self, state: State, endpoint: Endpoint) -> None:
        self.state = state
        self.endpoint = endpoint
        self.ending = ""
        """``was killed by SIGKILL``, with what it printed last; for clients to read. Empty: it has not ended."""
        self._doubt: anyio.Event | None = None

    @property
    def doubted(self) -> bool:
        return self._doubt is not None

    def doubt(self) -> anyio.Event:
        """Does it still answer? What is returned is set once that is known."""
        if self._doubt is None:
            self._doubt = anyio.Event()
        return self._doubt

    def settle(self) -> None:
        """It is known now."""
        if self._doubt is not None:
            self._doubt.set()
            self._doubt = None

    def end(self, ending: str) -> None:
        self.ending = ending
        self.settle()


def with_lines(ending: str, lines: Sequence[str]) -> str:
    """The ending, and the last lines that say something."""
    said = " | ".join(line for line in lines[-LINES_IN_ERROR:] if line.strip())
    return f"{ending}; it printed last: {said[-CHARACTERS_IN_ERROR:]}" if said else ending
