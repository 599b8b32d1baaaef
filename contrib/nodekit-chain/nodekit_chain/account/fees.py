"""Fees of transactions: what the chain asks for, within what the settings allow. Pure; amounts are in wei per gas."""

import msgspec

from nodekit import NodekitError

GWEI = 10**9
USUAL_PRIORITY_FEE = GWEI
"""Priority fee where no endpoint suggests one."""
GAS_MARGIN = 1.2
"""Factor on estimated gas, since other transactions come before."""


class FeesTooHigh(NodekitError):
    """The chain asks for more than the settings allow. Try again with a later block."""


class TooMuchGas(NodekitError):
    """A transaction needs more gas than the settings allow."""


class Fees(msgspec.Struct, frozen=True):
    """The fees of a transaction.

    - `max_fee`: Most that is paid in all; what the base fee leaves of it is not paid.
    - `priority_fee`: Part for whoever makes the block.
    """

    max_fee: int
    priority_fee: int


class FeeCaps(msgspec.Struct, frozen=True, kw_only=True):
    """The most that is paid.

    - `max_fee`: In all. It bounds what a transaction costs: its gas times this.
    - `max_priority_fee`: For whoever makes the block.
    """

    max_fee: int
    max_priority_fee: int


def gas_limit(estimated: int, most: int) -> int:
    """Return the limit of gas for a transaction: the estimate and a margin. Raise `TooMuchGas`."""
    if estimated > most:
        raise TooMuchGas(f"the transaction needs {estimated} gas, more than max_gas_limit allows ({most})")
    return min(most, int(estimated * GAS_MARGIN))


def first_fees(base_fee: int, suggested: int, caps: FeeCaps) -> Fees:
    """Return the fees of a new transaction: enough for a base fee that doubles, if the caps allow it.

    `suggested` is the priority fee that an endpoint proposes. Raise `FeesTooHigh` if not even the next block would take
    the transaction within the caps.
    """
    priority_fee = min(suggested, caps.max_priority_fee)
    if base_fee + priority_fee > caps.max_fee:
        raise _too_high(base_fee + priority_fee, caps)
    return Fees(min(2 * base_fee + priority_fee, caps.max_fee), priority_fee)


def next_fees(old: Fees, base_fee: int, suggested: int, caps: FeeCaps) -> Fees:
    """Return fees with which pools let a transaction replace that with the fees `old`: each an eighth more, at least.

    The priority fee may pass its cap where only that replaces the old one, but never the cap of the whole. Raise
    `FeesTooHigh`.
    """
    priority_fee = max(_raised(old.priority_fee), min(suggested, caps.max_priority_fee))
    max_fee = max(_raised(old.max_fee), base_fee + priority_fee)
    if max_fee > caps.max_fee:
        raise _too_high(max_fee, caps)
    return Fees(max(max_fee, min(2 * base_fee + priority_fee, caps.max_fee)), priority_fee)


def _raised(fee: int) -> int:
    """Return at least an eighth more. Pools ask for a tenth."""
    return fee + fee // 8 + 1


def _too_high(asked: int, caps: FeeCaps) -> FeesTooHigh:
    return FeesTooHigh(
        f"a transaction needs a fee of {asked / GWEI:.3g} gwei per gas, the cap is {caps.max_fee / GWEI:.3g}; "
        "wait, or raise max_fee_gwei"
    )
