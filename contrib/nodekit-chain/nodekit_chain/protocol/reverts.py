"""Reverts of contracts: their names, and what a node does about each."""

from collections.abc import Iterable, Mapping
from enum import StrEnum

import msgspec
from eth_abi.abi import decode
from eth_abi.exceptions import DecodingError

from nodekit import printable
from nodekit_chain.protocol.calls import selector

MOST_CHARACTERS = 200
"""Characters of a contract's own text that a name shows."""


class Remedy(StrEnum):
    """Treatment of a result that the coordinator refuses.

    - `DELIVERED`: Nothing: this node has delivered it already.
    - `FINAL`: Nothing: no later attempt can succeed.
    - `NEXT`: Nothing for this interval; later ones are served.
    - `RETRY`: Another attempt later, since others may change what is wrong: fund a wallet, repair a consumer.
    """

    DELIVERED = "delivered"
    FINAL = "final"
    NEXT = "next"
    RETRY = "retry"


class Revert(msgspec.Struct, frozen=True):
    """A call that a contract has reverted.

    - `name`: Name of the error, or the text of a `require`, or the bytes that nobody knows.
    """

    name: str
    remedy: Remedy
    data: bytes = b""

    def __str__(self) -> str:
        return self.name


REMEDIES: Mapping[str, Remedy] = {
    "SubscriptionNotFound": Remedy.RETRY,  # an endpoint may be behind
    "SubscriptionNotActive": Remedy.RETRY,  # not yet, if it is not cancelled
    "IntervalMismatch": Remedy.NEXT,
    "SubscriptionCompleted": Remedy.FINAL,
    "IntervalCompleted": Remedy.NEXT,
    "NodeRespondedAlready": Remedy.DELIVERED,
    "InvalidWallet": Remedy.FINAL,
    "UnsupportedVerifierToken": Remedy.RETRY,
    "InsufficientAllowance": Remedy.RETRY,
    "InsufficientFunds": Remedy.RETRY,
    "TransferFailed": Remedy.RETRY,
    "ETHTransferFailed": Remedy.RETRY,
    "SignatureExpired": Remedy.FINAL,
    "InvalidSignature": Remedy.FINAL,
    "SignerMismatch": Remedy.FINAL,
    "NotSubscriptionOwner": Remedy.FINAL,
    "UnauthorizedVerifier": Remedy.RETRY,
    "ProofRequestNotFound": Remedy.FINAL,
    "NodeNotAllowed": Remedy.FINAL,
    "InsufficientBalance": Remedy.RETRY,
    "Reentrancy": Remedy.RETRY,
}
"""The errors of the coordinator and of wallets, in the order in which the coordinator checks."""

BY_SELECTOR: Mapping[bytes, str] = {selector(f"{name}()"): name for name in REMEDIES}

_REASON = selector("Error(string)")
_PANIC = selector("Panic(uint256)")


def revert_of(data: bytes) -> Revert:
    """Return the revert with these bytes. One that is not the coordinator's is the consumer's, and worth a retry."""
    if name := BY_SELECTOR.get(data[:4]):
        return Revert(name, REMEDIES[name], data)
    return Revert(_foreign(data), Remedy.RETRY, data)


def _foreign(data: bytes) -> str:
    """Return a name for an error that is not in the list."""
    if not data:
        return "reverted without a reason"
    try:
        if data[:4] == _REASON:
            return printable(decode(["string"], data[4:])[0])[:MOST_CHARACTERS]
        if data[:4] == _PANIC:
            return f"Panic({decode(['uint256'], data[4:])[0]:#x})"
    except (DecodingError, OverflowError, UnicodeDecodeError):
        pass
    shown = data.hex()
    return f"0x{shown[:72]}…" if len(shown) > 72 else f"0x{shown}"


def is_tolerated(revert: Revert, message: str, tolerated: Iterable[str]) -> bool:
    """Return True if a simulation may fail like this: `allowed_sim_errors` has a part of its name, bytes or message."""
    texts = (revert.name, f"0x{revert.data.hex()}", message)
    return any(part.lower() in text.lower() for part in tolerated for text in texts)
