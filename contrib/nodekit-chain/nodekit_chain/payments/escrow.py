"""Reservations in the node's wallet while verifiers judge proofs, and the allowance that they need."""

from collections.abc import Sequence
from functools import partial

import anyio
import msgspec

from nodekit import NodekitError, PluginStorage, VersionConflict, Write
from nodekit_chain.account.fees import FeesTooHigh, TooMuchGas, gas_limit
from nodekit_chain.account.sender import AccountSender
from nodekit_chain.account.transactions import SignedTransaction, Transaction, data_of
from nodekit_chain.payments.paying import balance, balance_question
from nodekit_chain.protocol.address import Address
from nodekit_chain.protocol.calls import UnreadableReply
from nodekit_chain.protocol.contracts import Wallet, WalletFactory
from nodekit_chain.protocol.reverts import revert_of
from nodekit_chain.protocol.subscription import Subscription
from nodekit_chain.rpc.questions import Question, Refused, Rpc, call, quantity, result_bytes
from nodekit_chain.work.ledger import Ledger, scanned

UNLIMITED = 2**256 - 1
"""The allowance that is set. The account owns the wallet, and may spend all of it with or without one."""
ENOUGH = 2**255
"""Allowance below which it is set again: one transaction is enough for longer than the node lasts."""
PATIENCE = 4
"""Number of blocks in which a transaction is sent with the same fees, before it is replaced."""

_HELD, _APPROVAL = "escrow/", "approval/"


class Reservation(msgspec.Struct, frozen=True):
    """An amount that a proof holds back, or may."""

    token: Address
    amount: int


class Approval(msgspec.Struct, frozen=True):
    """The transaction that sets the allowance of a token. It was stored before it was sent.

    - `sent`: Number of blocks in which it was sent with these fees.
    - `head`: Number of the newest block when it was sent last. Proofs that wait together send it once for each block.
    """

    transaction: SignedTransaction
    head: int
    sent: int = 1


class Escrow:
    """The reservations in the node's wallet.

    The coordinator locks a payment in the node's wallet while a verifier judges the proof for it. Reservations are
    stored, so that another node of the cluster, or a later life of this one, goes on with them.
    """

    def __init__(
        self,
        storage: PluginStorage,
        rpc: Rpc,
        sender: AccountSender,
        *,
        wallet: Address,
        factory: Address,
        max_gas_limit: int,
    ) -> None:
        self._storage, self._rpc, self._sender = storage, rpc, sender
        self._wallet, self._factory, self._max_gas_limit = wallet, factory, max_gas_limit
        self._lock = anyio.Lock()

    async def reserve(self, key: str, subscription: Subscription) -> str | None:
        """Reserve the payment of a subscription under a key, once. Return why that is not possible now, or None.

        Raise the errors of the RPC and of the store.
        """
        token, amount = subscription.payment_token, subscription.payment_amount
        async with self._lock:
            reserved = await self._reserved()
            others = sum(one.amount for held, one in reserved.items() if held != key and one.token == token)
            replies = await self._rpc.batch(
                [
                    call(self._factory, WalletFactory.is_valid_wallet.encode(self._wallet)),
                    call(self._wallet, Wallet.owner.encode()),
                    call(self._wallet, Wallet.allowance.encode(self._sender.address, token)),
                    balance_question(token, self._wallet),
                ]
            )
            try:
                valid = WalletFactory.is_valid_wallet.decode_one(result_bytes(replies[0]))
                owner = Wallet.owner.decode_one(result_bytes(replies[1]))
                allowance = Wallet.allowance.decode_one(result_bytes(replies[2]))
                has = balance(token, replies[3])
            except (Refused, UnreadableReply) as error:
                return f"payment_address {self._wallet} is no wallet of this chain: {error}"
            if not valid:
                return f"payment_address {self._wallet} was not made by the chain's wallet factory"
            if owner != self._sender.address:
                return f"the wallet {self._wallet} belongs to {owner}, not to the node's account; proofs need its own"
            if has < others + amount:
                free = max(0, has - others)
                return f"the wallet {self._wallet} has {free} of {token} free, and a proof holds back {amount}; fund it"
            if key not in reserved:
                await self._storage.put(f"{_HELD}{key}", msgspec.json.encode(Reservation(token, amount)))
            return None if allowance >= ENOUGH else await self._approve(token)

    async def release(self, key: str) -> None:
        """Free what was reserved under a key, if anything was."""
        await self._storage.delete(f"{_HELD}{key}")

    async def _reserved(self) -> dict[str, Reservation]:
        """Return what open records hold back.

        A node may die before it frees what a record held, or be stopped and reserve it when the record has ended.
        """
        found = {
            record.key.removeprefix(_HELD): msgspec.json.decode(record.value, type=Reservation)
            async for record in scanned(self._storage, _HELD)
        }
        open = await Ledger(self._storage).open_keys() if found else []
        for key in found.keys() - set(open):
            await self.release(key)
            del found[key]
        return found

    # -- the allowance ----------------------------------------------------------------------------

    async def _approve(self, token: Address) -> str | None:
        """Send the transaction that sets the allowance, or send it again. Return what is waited for."""
        key = f"{_APPROVAL}{token}"
        record = await self._storage.get(key)
        waiting = f"the allowance of {token} in the wallet {self._wallet} is being set"
        used, head = await self._position()
        if record is not None:
            approval = msgspec.json.decode(record.value, type=Approval)
            if used <= approval.transaction.nonce:  # else the allowance was set, and used up or taken back
                if head > approval.head:
                    await self._again(key, record.version, msgspec.structs.replace(approval, head=head))
                return waiting
        version = 0 if record is None else record.version
        data = Wallet.approve.encode(self._sender.address, token, UNLIMITED)
        try:
            transaction = Transaction(self._wallet, data, await self._gas(data))
            await self._sender.send(transaction, partial(self._keep, key, version, head))
        except (FeesTooHigh, TooMuchGas, _Reverted) as problem:
            return f"{waiting}: {problem}"
        return waiting

    async def _position(self) -> tuple[int, int]:
        """Return the number of the account's mined transactions, and that of the newest block."""
        used, head = await self._rpc.batch(
            [Question("eth_getTransactionCount", (self._sender.address, "latest")), Question("eth_blockNumber")]
        )
        return quantity(used), quantity(head)

    async def _again(self, key: str, version: int, approval: Approval) -> None:
        """Send it again in a new block, at last with higher fees."""
        old = approval.transaction
        if approval.sent < PATIENCE:
            again = msgspec.structs.replace(approval, sent=approval.sent + 1)
            await self._storage.put(key, msgspec.json.encode(again), expect=version)
            await self._sender.broadcast(old.raw)
            return
        try:
            transaction = Transaction(self._wallet, data_of(old.raw), old.gas)
            await self._sender.replace(transaction, old, partial(self._keep, key, version, approval.head))
        except FeesTooHigh:
            await self._sender.broadcast(old.raw)

    async def _keep(
        self, key: str, version: int, head: int, signed: SignedTransaction, writes: Sequence[Write]
    ) -> None:
        write = Write(key, msgspec.json.encode(Approval(signed, head)), version)
        try:
            await self._storage.batch([write, *writes])
        except VersionConflict as conflict:
            raise NodekitError("another node signs for the account at the same time") from conflict

    async def _gas(self, data: bytes) -> int:
        message = {"from": self._sender.address, "to": self._wallet, "data": f"0x{data.hex()}"}
        (reply,) = await self._rpc.batch([Question("eth_estimateGas", (message,))])
        if isinstance(reply, Refused):
            raise _Reverted(f"the wallet refuses it: {revert_of(reply.data) if reply.data else reply}")
        return gas_limit(quantity(reply), self._max_gas_limit)


class _Reverted(NodekitError):
    """The wallet refuses to set an allowance."""
