"""Claims under a lease: what is held, what the engine has, and a lease that is over."""

from itertools import count

import pytest

from nodekit import Claim, ClaimLost, HeldClaims, LeasedClaim
from nodekit.testing import make_job

pytestmark = pytest.mark.anyio


class Held(HeldClaims[int]):
    """Claims whose tokens are numbers, on a clock that a test moves."""

    def __init__(self) -> None:
        self.now = 100.0
        numbers = count(1)
        super().__init__(5.0, lambda: next(numbers), lambda: self.now)

    def hold(self) -> LeasedClaim[int]:
        token = self.ask()
        claim = LeasedClaim(make_job(), token)
        self.answered(token, [claim])
        return claim


def key(claim: LeasedClaim[int]) -> tuple[str, int]:
    return claim.job.id, claim.token


async def test_a_claim_that_is_lost_is_cancelled_and_says_so() -> None:
    held = Held()
    claim: Claim = (lost := held.hold())
    lost.check()
    held.lose(claim.job.id)
    assert claim.scope.cancel_called
    assert held.keys == set()
    with pytest.raises(ClaimLost, match=claim.job.id):
        lost.check()


async def test_a_claim_that_was_used_up_is_lost_without_a_cancellation() -> None:
    held = Held()
    claim = held.hold()
    held.drop(claim)
    assert (claim.lost, claim.scope.cancel_called, held.keys) == (True, False, set())


async def test_a_lease_that_is_not_renewed_takes_all_claims_with_it(caplog: pytest.LogCaptureFixture) -> None:
    held = Held()
    claims = [held.hold(), held.hold()]
    held.now += 4
    held.renewed(held.now - 1)  # it counts from when it was sent
    held.now += 4
    held.check_lease()
    assert not any(claim.lost for claim in claims)
    held.now += 0.5
    held.check_lease()
    assert all(claim.scope.cancel_called for claim in claims)
    assert "the lease was not renewed for 5 s" in caplog.text


async def test_claims_whose_answer_comes_after_the_lease_are_lost_at_once() -> None:
    held = Held()
    held.now += 6
    assert held.hold().scope.cancel_called


async def test_claims_that_the_engine_does_not_have_are_cancelled_unless_they_are_being_written() -> None:
    held = Held()
    gone, written, new = held.hold(), held.hold(), None
    before = held.keys
    new = held.hold()  # after the engine was asked: it may not be in the answer
    async with written.writing:
        assert held.differing(before, set()) == []
        held.lose(written.job.id, writing=False)
    assert (gone.lost, written.lost, new.lost) == (True, False, False)
    assert held.keys == {key(written), key(new)}


async def test_what_the_engine_has_and_nobody_here_is_to_be_given_back() -> None:
    held = Held()
    kept, cancelled = held.hold(), held.hold()
    before = held.keys
    under_way = held.ask()
    held.lose(cancelled.job.id)
    there = {key(kept), key(cancelled), ("of a call that nobody waits for", 77), ("of a call under way", under_way)}
    found = {key(cancelled), ("of a call that nobody waits for", 77)}
    assert set(held.differing(before, there)) == found
    held.answered(under_way)
    assert set(held.differing(before, there)) == {*found, ("of a call under way", under_way)}
