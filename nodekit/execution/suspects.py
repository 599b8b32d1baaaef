"""Jobs that were taken over from another node. They may have ended it, so they run one at a time."""

from nodekit.interfaces.store import Claim


class Suspects:
    """The suspects that a node runs: at most one, so that a poison job fails no other suspect with it."""

    def __init__(self, max_takeovers: int) -> None:
        self._max_takeovers = max_takeovers
        self._running = 0
        self.taken_over = self.poison = 0
        """Numbers of jobs that were taken over from another node, and of those that failed as that was too often."""

    @property
    def welcome(self) -> bool:
        """True if a suspect may be claimed now."""
        return not self._running

    def begin(self, claim: Claim) -> None:
        """Count a claim, if its job is a suspect."""
        if claim.takeovers:
            self._running += 1
            self.taken_over += 1
            self.poison += claim.takeovers >= self._max_takeovers

    def end(self, claim: Claim) -> None:
        """Forget the claim; its run has ended."""
        self._running -= claim.takeovers > 0
