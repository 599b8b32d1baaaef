"""Jobs that were taken over from another node. They may have ended it, so they run one at a time."""

from nodekit.interfaces.store import Claim


class Suspects:
    """The suspects that a node runs: at most one, so that a poison job fails no other suspect with it."""

    def __init__(self, max_takeovers: int) -> None:
        self._max_takeovers = max_takeovers
        self._running = 0
        self.welcome = True
        """True if a suspect may be claimed now."""
        self.taken_over = self.poison = 0
        """Numbers of jobs that were taken over from another node, and of those that failed as that was too often."""

    def begin(self, claim: Claim) -> None:
        """Count the claim of a suspect."""
        self.taken_over += 1
        self.poison += claim.takeovers >= self._max_takeovers
        self._count(+1)

    def end(self) -> None:
        """Forget a suspect; its run has ended."""
        self._count(-1)

    def _count(self, by: int) -> None:
        self._running += by
        self.welcome = not self._running
