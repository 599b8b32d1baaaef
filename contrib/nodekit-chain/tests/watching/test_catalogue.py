"""The catalogue: intervals begin by block time, and a fork takes back what its blocks have said."""

from msgspec.structs import replace

from nodekit_chain.protocol.subscription import CANCELLED_AT, Subscription
from nodekit_chain.watching.catalogue import Catalogue, Due

OWNER = "0x" + "11" * 20


def subscription(active_at: int = 100, period: int = 10, frequency: int = 3) -> Subscription:
    return Subscription(OWNER, active_at, period, frequency, 1, bytes(32))


def due(catalogue: Catalogue, timestamp: int) -> list[tuple[int, int]]:
    return [(one.id, one.interval) for one in catalogue.due(timestamp)]


def test_an_interval_is_due_from_its_first_second_until_it_is_taken() -> None:
    catalogue = Catalogue()
    catalogue.add(1, subscription(), 5)
    assert due(catalogue, 99) == []
    assert due(catalogue, 100) == due(catalogue, 109) == [(1, 1)]
    catalogue.taken(Due(1, subscription(), 1))
    assert due(catalogue, 109) == []
    assert due(catalogue, 110) == [(1, 2)]


def test_an_interval_that_was_not_taken_in_time_is_left_out() -> None:
    catalogue = Catalogue()
    catalogue.add(1, subscription(), 5)
    assert due(catalogue, 100) == [(1, 1)]
    assert due(catalogue, 125) == [(1, 3)]
    assert due(catalogue, 130) == []


def test_a_callback_is_due_once_and_has_no_end() -> None:
    catalogue = Catalogue()
    catalogue.add(1, callback := subscription(period=0, frequency=1), 5)
    assert due(catalogue, 10**9) == [(1, 1)]
    catalogue.taken(Due(1, callback, 1))
    assert due(catalogue, 10**9) == []


def test_a_cancelled_subscription_is_not_due() -> None:
    catalogue = Catalogue()
    catalogue.add(1, subscription(), 5)
    catalogue.add(2, subscription(active_at=CANCELLED_AT), 5)
    assert due(catalogue, 100) == [(1, 1)]
    catalogue.cancel(1, 6)
    catalogue.cancel(77, 6)
    assert due(catalogue, 100) == due(catalogue, CANCELLED_AT) == []
    assert catalogue.current(1) is None


def test_a_fork_takes_back_subscriptions_and_cancellations() -> None:
    catalogue = Catalogue()
    for id in (1, 2, 3):
        catalogue.add(id, subscription(), 5)
    catalogue.cancel(1, 6)
    catalogue.cancel(2, 9)
    assert catalogue.unwind(common=7, head=2) == [2]
    assert set(catalogue.known) == {1, 2}
    catalogue.add(2, subscription(), 7)
    assert due(catalogue, 100) == [(2, 1)]


def test_another_subscription_with_a_known_id_begins_at_the_start() -> None:
    catalogue = Catalogue()
    catalogue.add(1, subscription(), 5)
    catalogue.taken(next(iter(catalogue.due(100))))
    catalogue.add(1, replace(subscription(), lazy=True), 8)
    assert due(catalogue, 100) == [(1, 1)]


def test_what_was_decided_about_a_replaced_subscription_has_no_effect() -> None:
    catalogue = Catalogue()
    catalogue.add(1, subscription(), 5)
    [old] = catalogue.due(100)
    catalogue.add(1, replace(subscription(), lazy=True), 8)
    catalogue.taken(old)
    assert due(catalogue, 100) == [(1, 1)]


def test_a_subscription_that_is_set_aside_rests_until_it_is_resumed() -> None:
    catalogue = Catalogue()
    catalogue.add(1, subscription(), 5)
    assert due(catalogue, 100) == [(1, 1)]
    catalogue.set_aside(1, "unknown")
    assert due(catalogue, 115) == []
    catalogue.resume(1)
    assert due(catalogue, 115) == [(1, 2)]
    assert catalogue.aside == {}


def test_an_id_of_zeros_is_no_subscription() -> None:
    catalogue = Catalogue()
    catalogue.add(1, replace(subscription(), owner="0x" + "00" * 20), 5)
    assert catalogue.known == {}


def test_states_are_counted() -> None:
    catalogue = Catalogue()
    catalogue.add(1, subscription(), 5)
    catalogue.add(2, subscription(active_at=500), 5)
    catalogue.add(3, subscription(active_at=CANCELLED_AT), 5)
    catalogue.add(4, subscription(active_at=1), 5)
    catalogue.add(5, subscription(), 5)
    catalogue.set_aside(5, "unknown")
    catalogue.unread(6, "garbage")
    list(catalogue.due(100))
    assert catalogue.states(100) == {"active": 1, "waiting": 1, "cancelled": 1, "over": 1, "aside": 2}
