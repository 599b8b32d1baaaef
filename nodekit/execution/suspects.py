"""Jobs that were taken over from another node. They may have ended it, so they run one at a time."""

from nodekit.interfaces.store import Claim


class Suspects:
    """The suspects that a node runs: at most one, so that a poison job fails no other suspect with it."""

    def __init__(self, max_takeovers: int) -> None:
        self._max_takeovers = max_takeovers
        self._running = 0
        self.claims = self.poison = 0
        """Numbers of claims of suspects, and of jobs that failed because they were lost too often."""

    @property
    def welcome(self) -> bool:
        """True if a suspect may be claimed now."""
        return not self._running

    def begin(self, claim: Claim) -> None:
        """Count the claim of a suspect."""
        self._running += 1
        self.claims += 1
        self.poison += claim.takeovers >= self._max_takeovers

    def end(self) -> None:
        """Forget a suspect; its run has ended."""
        self._running -= 1
