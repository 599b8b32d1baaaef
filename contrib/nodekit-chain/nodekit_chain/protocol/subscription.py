"""A subscription, and the intervals in which its results are due."""

from collections.abc import Sequence
from typing import Any, Self

import msgspec
from eth_abi.abi import encode

from nodekit_chain.protocol.address import ZERO_ADDRESS, Address
from nodekit_chain.protocol.keccak import keccak256

SUBSCRIPTION_TYPE = "(address,uint32,uint32,uint32,uint16,bytes32,bool,address,uint256,address,address)"
"""Type of a subscription in the contracts' interface, in the order of the fields below."""

CANCELLED_AT = 2**32 - 1
"""`active_at` of a subscription that its owner has cancelled."""


class Subscription(msgspec.Struct, frozen=True):
    """An order for results, as the coordinator keeps it. An id that does not exist is a subscription of zeros.

    - `owner`: Contract that receives the results and supplies the input.
    - `active_at`: Second, since 1970, from which results are due.
    - `period`: Seconds from one result to the next; 0: one result, at any time (a callback).
    - `frequency`: Number of results.
    - `redundancy`: Number of nodes that each deliver every result.
    - `containers`: Hash of the pipeline, see `containers_hash`.
    - `lazy`: True if results are kept in the inbox rather than given to the owner.
    - `verifier`: Contract that checks proofs, or `ZERO_ADDRESS`.
    - `payment_amount`: Price of one result, in the smallest unit of `payment_token` (`ZERO_ADDRESS`: ether).
    - `wallet`: Contract that pays.
    """

    owner: Address
    active_at: int
    period: int
    frequency: int
    redundancy: int
    containers: bytes
    lazy: bool = False
    verifier: Address = ZERO_ADDRESS
    payment_amount: int = 0
    payment_token: Address = ZERO_ADDRESS
    wallet: Address = ZERO_ADDRESS

    @classmethod
    def from_row(cls, row: Sequence[Any]) -> Self:
        """Return the subscription of a tuple that was decoded as `SUBSCRIPTION_TYPE`."""
        return cls(*row)

    @property
    def row(self) -> tuple[Any, ...]:
        """The tuple that is encoded as `SUBSCRIPTION_TYPE`."""
        return msgspec.structs.astuple(self)

    @property
    def exists(self) -> bool:
        return self.owner != ZERO_ADDRESS

    @property
    def is_cancelled(self) -> bool:
        return self.active_at == CANCELLED_AT

    @property
    def needs_proof(self) -> bool:
        return self.verifier != ZERO_ADDRESS

    @property
    def expires_at(self) -> int | None:
        """The second from which no result is taken. None: there is no such second, as for a callback."""
        return self.active_at + self.period * self.frequency if self.period else None

    def is_active(self, timestamp: int) -> bool:
        """Return True if results are due from a block of that time on. A cancelled one never is."""
        return not self.is_cancelled and self.active_at <= timestamp

    def is_over(self, timestamp: int) -> bool:
        """Return True if no block from that time on takes a result."""
        return self.is_cancelled or (self.expires_at is not None and self.expires_at <= timestamp)

    def interval(self, timestamp: int) -> int:
        """Return the number, from 1, of the interval that a block of that time is in; 0 before the first.

        After the last one the numbers go on beyond `frequency`. A coordinator takes a result only in its interval.
        """
        if not self.is_active(timestamp):
            return 0
        return (timestamp - self.active_at) // self.period + 1 if self.period else 1

    def interval_starts_at(self, interval: int) -> int:
        """Return the first second of an interval."""
        return self.active_at + self.period * (interval - 1)

    def interval_ends_at(self, interval: int) -> int | None:
        """Return the first second after an interval; None for that of a callback, which does not end."""
        return self.active_at + self.period * interval if self.period else None


def containers_hash(containers: Sequence[str]) -> bytes:
    """Return the hash by which contracts know a pipeline: of the containers' ids, in their order."""
    return keccak256(encode(["string"], [",".join(containers)]))
