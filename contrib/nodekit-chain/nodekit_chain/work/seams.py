"""Protocols of what work needs from the rest of the plugin: the account that signs, and the rules of payment."""

from typing import Protocol

from nodekit_chain.account.fees import FeesTooHigh
from nodekit_chain.account.sender import Keep
from nodekit_chain.account.transactions import SignedTransaction, Transaction
from nodekit_chain.protocol.address import Address
from nodekit_chain.protocol.subscription import Subscription

__all__ = ["FeesTooHigh", "Keep", "Rules", "Sender", "SignedTransaction", "Transaction"]


class Sender(Protocol):
    """The one owner of the account's nonce."""

    @property
    def address(self) -> Address: ...

    async def begin(self, first_nonce: int) -> None:
        """Begin to send. Nonces below `first_nonce` belong to transactions that are stored, mined or not."""
        ...

    async def send(self, transaction: Transaction, keep: Keep) -> SignedTransaction:
        """Choose nonce and fees, sign, keep, broadcast. One call at a time. If `keep` raises, the nonce is free again.

        A broadcast that fails is not an error: the transaction is kept, and `broadcast` is called with each block.
        Raise `FeesTooHigh`, and the errors of the RPC before anything is signed.
        """
        ...

    async def replace(self, transaction: Transaction, old: SignedTransaction, keep: Keep) -> SignedTransaction:
        """Sign once more under the nonce of `old`, with fees that replace it in the pools; keep, broadcast."""
        ...

    async def broadcast(self, raw: bytes) -> None:
        """Send a signed transaction. One that is known already, or mined, is no error."""
        ...


class Rules(Protocol):
    """The rules of payment."""

    async def objection(self, subscription: Subscription, containers: tuple[str, ...]) -> str | None:
        """Return why a subscription is not served, or None. Raise the errors of the RPC."""
        ...

    async def reserve(self, key: str, subscription: Subscription) -> str | None:
        """Reserve what a proof's delivery locks in the node's wallet, once for each key of a record.

        Return why that is not possible now, or None. Raise the errors of the RPC.
        """
        ...

    async def release(self, key: str) -> None:
        """Free what was reserved under a key, if anything was."""
        ...
