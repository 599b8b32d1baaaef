"""The one owner of the account's nonce: transactions get nonces and fees, are signed, stored, and then sent."""

import logging
from collections.abc import Awaitable, Callable, Sequence

import anyio
import msgspec

from nodekit import NodekitError, PluginStorage, Write
from nodekit_chain.account.fees import USUAL_PRIORITY_FEE, FeeCaps, Fees, FeesTooHigh, first_fees, next_fees
from nodekit_chain.account.key import AccountKey
from nodekit_chain.account.transactions import SignedTransaction, Transaction, signed
from nodekit_chain.protocol.address import Address
from nodekit_chain.protocol.calls import UnreadableReply
from nodekit_chain.rpc.questions import Question, Refused, Rpc, quantity, result

logger = logging.getLogger("nodekit.chain")

ETHER = 10**18
KNOWN = ("already known", "already imported", "known transaction", "nonce too low")
"""Parts of the errors for a transaction that an endpoint has already, in its pool or in a block."""

Keep = Callable[[SignedTransaction, Sequence[Write]], Awaitable[object]]
"""Stores a signed transaction, and the writes with it, before anybody else gets it. If it raises, nobody gets it."""


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
    """Sends the transactions of an account, one after the other. Nobody else may use its key meanwhile.

    The next nonce is a record in the plugin's `storage`, and changes together with the record of the transaction that
    takes one. It is read each time. So two nodes never take the same nonce, and neither is one given to another
    transaction if the store has kept the first and reported a failure.
    """

    def __init__(self, storage: PluginStorage, rpc: Rpc, key: AccountKey, chain_id: int, caps: FeeCaps) -> None:
        self._storage, self._rpc, self._key, self._chain_id, self._caps = storage, rpc, key, chain_id, caps
        self._lock = anyio.Lock()

    @property
    def address(self) -> Address:
        return self._key.address

    async def next_nonce(self) -> int:
        """Return the first nonce that belongs to no stored transaction. Raise `StoreFailed`."""
        return (await self._nonce())[0]

    async def send(self, transaction: Transaction, keep: Keep) -> SignedTransaction:
        """Choose nonce and fees, sign, keep, broadcast. If nothing was kept, the nonce is free again.

        A broadcast that fails is not an error: the transaction is kept, and the caller calls `broadcast` until it is
        mined. Raise `FeesTooHigh`, and the errors of the RPC and the store before anything is signed.
        """
        async with self._lock:
            state = await account_state(self._rpc, self.address)
            fees = first_fees(state.base_fee, state.priority_fee, self._caps)
            stored, version = await self._nonce()
            nonce = max(stored, state.nonce)
            taken = Write(self._nonce_key, str(nonce + 1).encode(), version)
            made = await self._made(transaction, nonce, fees, state, keep, taken)
        await self.broadcast(made.raw)
        return made

    async def replace(self, transaction: Transaction, old: SignedTransaction, keep: Keep) -> SignedTransaction:
        """Sign once more under the nonce of `old`, with fees that replace it in the pools; keep, broadcast.

        Raise as `send` does.
        """
        async with self._lock:
            state = await account_state(self._rpc, self.address)
            fees = next_fees(old.fees, state.base_fee, state.priority_fee, self._caps)
            made = await self._made(transaction, old.nonce, fees, state, keep)
        await self.broadcast(made.raw)
        return made

    @property
    def _nonce_key(self) -> str:
        return f"nonce/{self.address}"

    async def _nonce(self) -> tuple[int, int]:
        """Return the next nonce, and the version of its record."""
        record = await self._storage.get(self._nonce_key)
        return (0, 0) if record is None else (int(record.value), record.version)

    async def _made(
        self, transaction: Transaction, nonce: int, fees: Fees, state: AccountState, keep: Keep, *writes: Write
    ) -> SignedTransaction:
        """Sign and keep a transaction. A signature exists only if it is stored."""
        cost = transaction.gas * fees.max_fee + transaction.value
        if state.balance < cost:
            raise BalanceTooLow(
                f"the account {self.address} has {state.balance / ETHER:.6g} ether, and a transaction may cost "
                f"{cost / ETHER:.6g}; send it more"
            )
        made = signed(transaction, nonce, fees, self._key, self._chain_id)
        await keep(made, writes)
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
