"""A container's life, from its first answer to its end."""

import anyio

from nodekit_docker.containers.state import State
from nodekit_remote import Endpoint


class Life:
    """One life of a container. A call whose connection breaks casts doubt on it; one check answers for all calls."""

    def __init__(self, state: State, endpoint: Endpoint) -> None:
        self.state = state
        self.endpoint = endpoint
        self.ending = ""
        """Text for clients, such as ``was killed by SIGKILL``. Empty until the end."""
        self._doubt: anyio.Event | None = None

    @property
    def doubted(self) -> bool:
        return self._doubt is not None

    def doubt(self) -> anyio.Event:
        """Ask for a check whether it still answers. The returned event is set once that is known."""
        if self._doubt is None:
            self._doubt = anyio.Event()
        return self._doubt

    def settle(self) -> None:
        """Clear the doubt: the answer is known."""
        if self._doubt is not None:
            self._doubt.set()
            self._doubt = None

    def end(self, ending: str) -> None:
        self.ending = ending
        self.settle()
