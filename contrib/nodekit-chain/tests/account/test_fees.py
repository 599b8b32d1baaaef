"""Fees: enough for the next blocks, enough to replace, and never above the caps."""

import pytest
from hypothesis import assume, given
from hypothesis import strategies as some

from nodekit_chain.account.fees import GWEI, FeeCaps, Fees, FeesTooHigh, TooMuchGas, first_fees, gas_limit, next_fees

CAPS = FeeCaps(max_fee=100 * GWEI, max_priority_fee=3 * GWEI)
amounts = some.integers(0, 10**13)


def test_first_fees_outlast_a_base_fee_that_doubles() -> None:
    assert first_fees(10 * GWEI, GWEI, CAPS) == Fees(21 * GWEI, GWEI)


def test_first_fees_stay_within_both_caps() -> None:
    assert first_fees(60 * GWEI, 50 * GWEI, CAPS) == Fees(100 * GWEI, 3 * GWEI)


def test_a_base_fee_above_the_cap_is_refused_with_the_cure() -> None:
    with pytest.raises(FeesTooHigh, match=r"needs a fee of 99\.5 gwei per gas, the cap is 99; wait, or raise"):
        first_fees(98 * GWEI, 3 * GWEI // 2, FeeCaps(max_fee=99 * GWEI, max_priority_fee=3 * GWEI))


@given(amounts, amounts, amounts, amounts)
def test_next_fees_replace_the_old_ones(max_fee: int, priority_fee: int, base_fee: int, suggested: int) -> None:
    assume(priority_fee <= max_fee)
    old = Fees(max_fee, priority_fee)
    try:
        new = next_fees(old, base_fee, suggested, CAPS)
    except FeesTooHigh:
        tip = max(priority_fee * 9 // 8 + 1, min(suggested, CAPS.max_priority_fee))
        assert max(base_fee + tip, max_fee * 9 // 8 + 1) >= CAPS.max_fee
        return
    assert new.max_fee * 10 >= old.max_fee * 11
    assert new.priority_fee * 10 >= old.priority_fee * 11
    assert new.max_fee > old.max_fee
    assert new.priority_fee > old.priority_fee
    assert base_fee + new.priority_fee <= new.max_fee <= CAPS.max_fee


def test_a_replacement_may_pass_the_priority_cap_and_never_the_whole() -> None:
    assert next_fees(Fees(50 * GWEI, 3 * GWEI), GWEI, GWEI, CAPS).priority_fee > CAPS.max_priority_fee
    with pytest.raises(FeesTooHigh):
        next_fees(Fees(95 * GWEI, GWEI), GWEI, GWEI, CAPS)


def test_a_limit_of_gas_has_room_for_other_transactions_up_to_the_most() -> None:
    assert [gas_limit(estimated, 110) for estimated in (50, 100, 110)] == [60, 110, 110]
    with pytest.raises(TooMuchGas, match=r"needs 111 gas, more than max_gas_limit allows \(110\)"):
        gas_limit(111, 110)
