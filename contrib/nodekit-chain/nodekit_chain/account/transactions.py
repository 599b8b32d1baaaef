"""Transactions with a base fee (EIP-1559): their bytes and their hash. Pure."""

import msgspec

from nodekit_chain.account.fees import Fees
from nodekit_chain.account.key import AccountKey
from nodekit_chain.protocol.address import Address, address_bytes
from nodekit_chain.protocol.keccak import keccak256
from nodekit_chain.protocol.rlp import Item, encode_rlp, items_of

TYPE = b"\x02"
TRANSFER_GAS = 21_000
"""Gas of a transaction without data to an account."""


class Transaction(msgspec.Struct, frozen=True):
    """A transaction that is not signed yet. `gas` is its limit; `value` is in wei."""

    to: Address
    data: bytes
    gas: int
    value: int = 0


class SignedTransaction(msgspec.Struct, frozen=True, kw_only=True):
    """A signed transaction. Fees are in wei per gas.

    - `hash`: Hash of the transaction, with 0x.
    - `raw`: Signed bytes, as `eth_sendRawTransaction` takes them.
    """

    nonce: int
    hash: str
    raw: bytes
    gas: int
    max_fee: int
    priority_fee: int

    @property
    def fees(self) -> Fees:
        return Fees(self.max_fee, self.priority_fee)


def empty_transfer(account: Address) -> Transaction:
    """Return a transaction that does nothing. It takes a nonce of the account that sends it to itself."""
    return Transaction(account, b"", TRANSFER_GAS)


def signed(transaction: Transaction, nonce: int, fees: Fees, key: AccountKey, chain_id: int) -> SignedTransaction:
    """Sign a transaction. The same arguments give the same bytes."""
    fields: list[Item] = [
        chain_id,
        nonce,
        fees.priority_fee,
        fees.max_fee,
        transaction.gas,
        address_bytes(transaction.to),
        transaction.value,
        transaction.data,
        [],  # no access list
    ]
    signature = key.sign(keccak256(TYPE + encode_rlp(fields)))
    raw = TYPE + encode_rlp([*fields, signature.parity, signature.r, signature.s])
    return SignedTransaction(
        nonce=nonce,
        hash=f"0x{keccak256(raw).hex()}",
        raw=raw,
        gas=transaction.gas,
        max_fee=fees.max_fee,
        priority_fee=fees.priority_fee,
    )


def data_of(raw: bytes) -> bytes:
    """Return the data of a signed transaction."""
    return items_of(raw.removeprefix(TYPE))[7]
