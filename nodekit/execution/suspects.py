"""Jobs that were taken over from another node. They may have ended it, so they run one at a time."""

from nodekit.interfaces.store import Claim


class Suspects:
    """The suspects that a node runs: at most one, so that a poison job fails no other suspect with it."""

    def __init__(self, max_takeovers: int) -> None:
        self.max_takeovers = max_takeovers
        """Number of claims that may be lost in a row before a job fails as poison."""
        self._running: set[Claim] = set()
        self.claims = self.poison = 0
        """Numbers of claims of suspects, and of jobs that failed because they were lost too often."""

    @property
    def welcome(self) -> bool:
        """True if a suspect may be claimed now."""
        return not self._running

    def begin(self, claim: Claim) -> None:
        """Count the claim of a suspect."""
        self._running.add(claim)
        self.claims += 1

    def end(self, claim: Claim) -> None:
        """Forget a suspect: its run has ended, or a step of it is stored."""
        if claim.takeovers:
            self._running.discard(claim)
