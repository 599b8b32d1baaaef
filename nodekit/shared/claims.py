"""Claims that end with a lease, for stores whose engine many nodes share. Pure but for the clock and the scopes."""

import logging
from collections.abc import Callable, Collection, Hashable
from typing import Generic, TypeVar

import anyio

from nodekit.concurrency.scopes import cancel_scope
from nodekit.errors import ClaimLost
from nodekit.model.container import JobId
from nodekit.model.job import Job

logger = logging.getLogger("nodekit.store")
Token = TypeVar("Token", bound=Hashable)


class LeasedClaim(Generic[Token]):
    """A `Claim`, as long as its token is the one that the engine has for the job.

    - `lost`: True once it is known to be invalid, or was used up.
    - `writing`: Taken while the job is written, since a claim has one writer at a time.
    """

    def __init__(self, job: Job, token: Token, takeovers: int = 0, age_seconds: float = 0.0) -> None:
        self.job, self.token = job, token
        self.takeovers, self.age_seconds = takeovers, age_seconds
        self.scope = cancel_scope()
        self.lost = False
        self.writing = anyio.Lock()

    def lose(self) -> None:
        """Cancel what runs under it."""
        self.lost = True
        self.scope.cancel()

    def check(self) -> None:
        """Raise `ClaimLost` if it is known to be invalid."""
        if self.lost:
            raise ClaimLost(f"job {self.job.id} is no longer this claim's")


class HeldClaims(Generic[Token]):
    """The claims that a store holds, each under the token of the call that made it.

    An answer of the engine may never come. So a call takes its token first, and a renewal of the lease compares what is
    held here with what the engine has: `differing`. Nothing here waits or asks the engine.

    - `lease_seconds`: Time for which a renewal keeps the claims. `clock` measures it, such as `time.monotonic`.
    """

    def __init__(self, lease_seconds: float, make_token: Callable[[], Token], clock: Callable[[], float]) -> None:
        self.lease_seconds = lease_seconds
        self._make_token, self._clock = make_token, clock
        self._claims: dict[tuple[JobId, Token], LeasedClaim[Token]] = {}
        self._asked: set[Token] = set()
        self._renewed_at = clock()

    @property
    def keys(self) -> set[tuple[JobId, Token]]:
        """Job and token of each claim that is held. Take them before a renewal is sent."""
        return set(self._claims)

    def ask(self) -> Token:
        """Return the token for a call that is about to make claims."""
        self._asked.add(token := self._make_token())
        return token

    def answered(self, token: Token, claims: Collection[LeasedClaim[Token]] = ()) -> None:
        """Hold the claims that a call has made, unless the lease is over."""
        self._claims.update({(claim.job.id, token): claim for claim in claims if not claim.lost})
        self._asked.discard(token)
        self.check_lease()

    def drop(self, claim: LeasedClaim[Token]) -> None:
        """Forget a claim that was used up."""
        claim.lost = True
        self._claims.pop((claim.job.id, claim.token), None)

    def lose(self, id: JobId, *, writing: bool = True) -> None:
        """Cancel the claims of a job that was ended elsewhere; without `writing`, not one that is being written."""
        for key in [key for key in self._claims if key[0] == id]:
            self._lose(key, writing=writing)

    def lose_all(self) -> None:
        """Cancel all claims."""
        for key in list(self._claims):
            self._lose(key)

    def _lose(self, key: tuple[JobId, Token], *, writing: bool = True) -> None:
        claim = self._claims.get(key)
        if claim is not None and (writing or not claim.writing.locked()):
            del self._claims[key]
            claim.lose()

    # -- the lease --------------------------------------------------------------------------------

    def renewed(self, sent_at: float) -> None:
        """Note a renewal of the lease that was sent at this time of the clock."""
        self._renewed_at = sent_at

    def check_lease(self) -> None:
        """Cancel the claims if the lease is over. Other nodes may have them then.

        Call this now and then, and whenever an answer has come: if this process stood still, it came long ago.
        """
        if self._claims and self._clock() - self._renewed_at > self.lease_seconds:
            logger.warning("the lease was not renewed for %g s; its jobs go to other nodes", self.lease_seconds)
            self.lose_all()

    def differing(self, before: set[tuple[JobId, Token]], there: set[tuple[JobId, Token]]) -> list[tuple[JobId, Token]]:
        """Compare with the claims that the engine has; `before` are the `keys` from before it was asked.

        Claims that it does not have are cancelled; one that is being written learns of it by that. Return those that it
        has and nobody here: give them back.
        """
        for key in before - there:
            self._lose(key, writing=False)
        return [key for key in there if key not in self._claims and key[1] not in self._asked]
