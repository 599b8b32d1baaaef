"""Subscriptions: their container hash, and the intervals in which results are due."""

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as some
from local_chain import Contracts
from msgspec.structs import replace

from nodekit_chain.protocol.contracts import Coordinator
from nodekit_chain.protocol.subscription import CANCELLED_AT, Subscription, containers_hash

OWNER = "0x" + "ab" * 20
CALLBACK = Subscription(OWNER, 1000, 0, 1, 1, containers_hash(["a"]))
RECURRING = Subscription(OWNER, 1000, 60, 3, 1, containers_hash(["a"]))


@pytest.mark.parametrize(
    ("containers", "expected"),
    [
        (["a", "b"], "0deeac3a841600829c99f8116bb997da266d4c47a720b00e6ace9594de82dd54"),
        (["hello-world"], "5768661526084c7b4d30f7224ed6c74ade98db3c6c395c55400a17f34a547e22"),
    ],
)
def test_the_hash_is_that_of_the_contracts(containers: list[str], expected: str) -> None:
    assert containers_hash(containers).hex() == expected


def test_the_order_of_containers_matters() -> None:
    assert containers_hash(["a", "b"]) != containers_hash(["b", "a"])


@pytest.mark.parametrize(
    ("timestamp", "interval"), [(0, 0), (999, 0), (1000, 1), (1059, 1), (1060, 2), (1179, 3), (1180, 4)]
)
def test_a_block_is_in_one_interval(timestamp: int, interval: int) -> None:
    assert RECURRING.interval(timestamp) == interval


def test_a_callback_has_one_interval_without_an_end() -> None:
    assert [CALLBACK.interval(timestamp) for timestamp in (999, 1000, 2**32 - 2)] == [0, 1, 1]
    assert (CALLBACK.expires_at, CALLBACK.interval_ends_at(1)) == (None, None)
    assert not CALLBACK.is_over(2**32 - 2)


def test_a_recurring_subscription_is_over_after_its_last_interval() -> None:
    assert RECURRING.expires_at == 1180
    assert [RECURRING.is_over(timestamp) for timestamp in (1179, 1180)] == [False, True]


def test_a_cancelled_subscription_takes_nothing() -> None:
    cancelled = replace(RECURRING, active_at=CANCELLED_AT)
    assert cancelled.is_cancelled
    assert cancelled.is_over(0)
    assert not cancelled.is_active(CANCELLED_AT)


def test_rows_of_zeros_do_not_exist() -> None:
    zeros = Subscription.from_row(Coordinator.get_subscription.decode_one(bytes(11 * 32)))
    assert not zeros.exists


@given(some.integers(1, 2**31), some.integers(1, 10**6), some.integers(1, 1000), some.integers(0, 2**32 - 2))
def test_intervals_have_no_gaps(active_at: int, period: int, frequency: int, timestamp: int) -> None:
    subscription = Subscription(OWNER, active_at, period, frequency, 1, bytes(32))
    interval = subscription.interval(timestamp)
    if interval:
        ends_at = subscription.interval_ends_at(interval)
        assert ends_at is not None
        assert subscription.interval_starts_at(interval) <= timestamp < ends_at
        assert (interval <= frequency) == (not subscription.is_over(timestamp))


def test_a_subscription_survives_json_with_all_its_bits() -> None:
    subscription = replace(RECURRING, payment_amount=2**256 - 1)
    assert msgspec.json.decode(msgspec.json.encode(subscription), type=Subscription) == subscription


def test_the_coordinator_shows_it_as_it_was_made(contracts: Contracts) -> None:
    consumer = contracts.consumer()
    id = consumer.subscribe(["a", "b"], frequency=3, period=60, redundancy=2, lazy=True, amount=2**255, wallet=OWNER)
    data = Coordinator.get_subscription.encode(id)
    reply = contracts.chain.rpc("eth_call", {"to": contracts.coordinator.address, "data": "0x" + data.hex()}, "latest")
    found = Subscription.from_row(Coordinator.get_subscription.decode_one(bytes.fromhex(reply[2:])))
    expected = Subscription(
        consumer.address, contracts.chain.timestamp + 60, 60, 3, 2, containers_hash(["a", "b"]), lazy=True,
        payment_amount=2**255, wallet=OWNER
    )  # fmt: skip
    assert found == expected
