"""The one owner of the account's nonce: transactions get nonces and fees, are signed, stored, and then sent."""

import logging
from collections.abc import Awaitable, Callable

import anyio
import msgspec

from nodekit import NodekitError
from nodekit_chain.account.fees import (
    USUAL_PRIORITY_FEE,
    FeeCaps,
    Fees,
    FeesTooHigh,
    first_fees,
    next_fees,
)
from nodekit_chain.account.key import AccountKey
from nodekit_chain.account.transactions import SignedTransaction, Transaction, signed
from nodekit_chain.protocol.address import Address
from nodekit_chain.protocol.calls import UnreadableReply
from nodekit_chain.rpc.questions import Question, Refused, Rpc, quantity, result

logger = logging.getLogger("nodekit.chain")

ETHER = 10**18
KNOWN = ("already known", "already imported", "known transaction", "nonce too low")
"""Parts of the errors for a transaction that an endpoint has already, in its pool or in a block."""

Keep = Callable[[SignedTransaction], Awaitable[None]]
"""Stores a signed transaction, before anybody else gets it. If it raises, the transaction was never made."""


class BalanceTooLow(FeesTooHigh):
    """The account cannot pay for a transaction. Try again with a later block."""


class AccountState(msgspec.Struct, frozen=True):
    """The account as the newest block has it.

    - `balance`: In wei.
    - `nonce`: Number of its mined transactions, which is the nonce of the next one.
    - `base_fee`: Base fee of the block, in wei per gas.
    - `priority_fee`: Priority fee that the endpoint suggests.
    """

    balance: int
    nonce: int
    base_fee: int
    priority_fee: int


async def account_state(rpc: Rpc, address: Address) -> AccountState:
    """Read an account. Raise the errors of the RPC, and `UnreadableReply`."""
    block, suggested, nonce, balance = await rpc.batch(
        [
            Question("eth_getBlockByNumber", ("latest", False)),
            Question("eth_maxPriorityFeePerGas"),
            Question("eth_getTransactionCount", (address, "latest")),
            Question("eth_getBalance", (address, "latest")),
        ]
    )
    found = result(block)
    if not isinstance(found, dict) or "baseFeePerGas" not in found:
        raise UnreadableReply("the newest block has no base fee; only chains with EIP-1559 can be used")
    priority_fee = USUAL_PRIORITY_FEE if isinstance(suggested, Refused) else quantity(suggested)
    return AccountState(quantity(balance), quantity(nonce), quantity(found["baseFeePerGas"]), priority_fee)


class AccountSender:
    """Sends the transactions of an account, one after the other. Nobody else may use its key meanwhile."""

    def __init__(self, rpc: Rpc, key: AccountKey, chain_id: int, caps: FeeCaps | None = None) -> None:
        self._rpc, self._key, self._chain_id, self._caps = rpc, key, chain_id, caps or FeeCaps()
        self._lock = anyio.Lock()
        self.next_nonce = 0

    @property
    def address(self) -> Address:
        return self._key.address

    async def begin(self, first_nonce: int) -> None:
        """Begin to send. Nonces below `first_nonce` belong to transactions that are stored, mined or not."""
        async with self._lock:
            self.next_nonce = first_nonce

    async def send(self, transaction: Transaction, keep: Keep) -> SignedTransaction:
        """Choose nonce and fees, sign, keep, broadcast. One call at a time. If `keep` raises, the nonce is free again.

        A broadcast that fails is not an error: the transaction is kept, and the caller calls `broadcast` until it is
        mined. Raise `FeesTooHigh`, and the errors of the RPC before anything is signed.
        """
        async with self._lock:
            state = await account_state(self._rpc, self.address)
            nonce = max(self.next_nonce, state.nonce)
            fees = first_fees(state.base_fee, state.priority_fee, self._caps)
            made = await self._made(transaction, nonce, fees, state, keep)
            self.next_nonce = nonce + 1
        await self.broadcast(made.raw)
        return made

    async def replace(self, transaction: Transaction, old: SignedTransaction, keep: Keep) -> SignedTransaction:
        """Sign once more under the nonce of `old`, with fees that replace it in the pools; keep, broadcast.

        Raise as `send` does.
        """
        async with self._lock:
            state = await account_state(self._rpc, self.address)
            before = Fees(old.max_fee, old.priority_fee)
            fees = next_fees(before, state.base_fee, state.priority_fee, self._caps)
            made = await self._made(transaction, old.nonce, fees, state, keep)
        await self.broadcast(made.raw)
        return made

    async def _made(
        self, transaction: Transaction, nonce: int, fees: Fees, state: AccountState, keep: Keep
    ) -> SignedTransaction:
        """Sign and keep a transaction. A signature exists only if it is stored."""
        cost = transaction.gas * fees.max_fee + transaction.value
        if state.balance < cost:
            raise BalanceTooLow(
                f"the account {self.address} has {state.balance / ETHER:.6g} ether, and a transaction may cost "
                f"{cost / ETHER:.6g}; send it more"
            )
        made = signed(transaction, nonce, fees, self._key, self._chain_id)
        await keep(made)
        return made

    async def broadcast(self, raw: bytes) -> None:
        """Send a signed transaction. One that is known already, or mined, is no error; others are logged."""
        try:
            [reply] = await self._rpc.batch([Question("eth_sendRawTransaction", (f"0x{raw.hex()}",))])
        except NodekitError as error:
            logger.warning("a transaction could not be sent; it is sent again with the next block: %s", error)
            return
        if isinstance(reply, Refused) and not any(part in str(reply).lower() for part in KNOWN):
            logger.warning("a transaction was not taken; it is sent again with the next block: %s", reply)
