"""The standing of records: wanted, too late, cancelled, or of a subscription that has left the chain."""

import msgspec
from msgspec.structs import replace

from nodekit_chain.protocol.delegated import Signature
from nodekit_chain.protocol.subscription import Subscription
from nodekit_chain.watching.catalogue import Catalogue
from nodekit_chain.work.records import Delegation, State, Work
from nodekit_chain.work.standing import Standing, standing

OWNER = "0x" + "11" * 20
SUBSCRIPTION = Subscription(OWNER, 100, 10, 3, 1, bytes(32))
WORK = Work(coordinator=OWNER, subscription=SUBSCRIPTION, id=7, interval=2)
DELEGATED = replace(
    WORK, id=0, delegation=Delegation(nonce=1, expiry=105, signature=Signature(27, 1, 1), data=msgspec.Raw(b"{}"))
)


def catalogue() -> Catalogue:
    known = Catalogue()
    known.add(7, SUBSCRIPTION, 5)
    known.read_to = 5
    return known


def test_a_record_is_wanted_until_its_interval_is_over() -> None:
    assert standing(WORK, catalogue(), 119).standing is Standing.WANTED
    assert standing(WORK, catalogue(), 120).standing is Standing.PAST


def test_the_record_of_a_callback_is_wanted_for_ever() -> None:
    callback = replace(SUBSCRIPTION, period=0, frequency=1)
    known = Catalogue()
    known.add(7, callback, 5)
    assert standing(replace(WORK, subscription=callback, interval=1), known, 10**9).standing is Standing.WANTED


def test_the_record_of_a_cancelled_subscription_is_not_wanted() -> None:
    known = catalogue()
    known.cancel(7, 6)
    judged = standing(WORK, known, 115)
    assert (judged.standing, judged.reason) == (Standing.PAST, "the subscription was cancelled")


def test_the_record_of_a_subscription_that_is_not_on_the_chain_is_gone() -> None:
    gone, replaced = catalogue(), catalogue()
    gone.drop(7)
    replaced.add(7, replace(SUBSCRIPTION, lazy=True), 5)
    for known in (gone, replaced):
        assert standing(WORK, known, 115).standing is Standing.GONE


def test_a_subscription_that_was_read_in_a_later_block_is_not_missed() -> None:
    """An endpoint is behind another one, or the node has stood still while others went on."""
    behind, later = catalogue(), replace(WORK, id=8, read_at=6)
    assert standing(later, behind, 119).standing is Standing.UNREAD
    assert standing(later, behind, 120).standing is Standing.PAST
    behind.read_to = 6
    assert standing(later, behind, 119).standing is Standing.GONE


def test_what_blocks_of_a_fork_have_said_is_not_missed_while_others_are_read() -> None:
    known, work = catalogue(), replace(WORK, read_at=5)
    known.unwind(4, 6)
    assert standing(work, known, 115).standing is Standing.UNREAD
    known.read_to = 5
    assert standing(work, known, 115).standing is Standing.GONE


def test_a_delegated_subscription_is_wanted_until_its_signature_expires() -> None:
    assert standing(replace(DELEGATED, interval=0), Catalogue(), 104).standing is Standing.WANTED
    assert standing(replace(DELEGATED, interval=0), Catalogue(), 105).standing is Standing.PAST
    assert standing(replace(DELEGATED, state=State.OUTPUT), Catalogue(), 115).standing is Standing.WANTED
    assert standing(replace(DELEGATED, state=State.OUTPUT), Catalogue(), 120).standing is Standing.PAST
    assert standing(replace(DELEGATED, interval=0), Catalogue(), 130).standing is Standing.PAST


def test_an_expired_signature_is_good_for_a_subscription_that_was_created_before() -> None:
    assert standing(replace(DELEGATED, id=7, interval=0), Catalogue(), 105).standing is Standing.WANTED
