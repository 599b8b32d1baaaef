"""Deliveries: checked by a simulation, signed, stored, and only then sent."""

import logging
from collections.abc import Sequence
from functools import partial

from msgspec.structs import replace

from nodekit import NodekitError, Write
from nodekit_chain.account.fees import FeesTooHigh, TooMuchGas, gas_limit
from nodekit_chain.account.transactions import SignedTransaction, Transaction, data_of, empty_transfer
from nodekit_chain.protocol.contracts import Coordinator
from nodekit_chain.protocol.reverts import Remedy, Revert, is_tolerated, revert_of
from nodekit_chain.rpc.questions import Question, Refused, quantity
from nodekit_chain.watching.watcher import View
from nodekit_chain.work.context import Context
from nodekit_chain.work.ledger import Entry
from nodekit_chain.work.records import Sent, State, Work

logger = logging.getLogger("nodekit.chain")


class Simulated(NodekitError):
    """A simulated delivery was reverted."""

    def __init__(self, revert: Revert) -> None:
        self.revert = revert
        super().__init__(str(revert))


class Deliveries:
    """Sends what records have to deliver."""

    def __init__(self, context: Context) -> None:
        self._context = context
        self._held_up = "", ""
        """Key of the record whose transaction could not be sent last, and the reason."""

    @property
    def problem(self) -> str:
        """The reason why nothing can be sent now; empty if it can, or if nobody waits for it any more."""
        key, reason = self._held_up
        return f"nothing is sent: {reason}" if key in self._context.entries else ""

    async def deliver(self, entry: Entry, view: View) -> None:
        """Simulate the delivery of a record; sign, store and send it."""
        context, work = self._context, entry.work
        if work.with_proof and (reason := await context.rules.reserve(work.key, work.subscription)):
            pause = context.settings.retry_seconds
            await context.change(entry, work.waiting(reason, context.node.now(), pause))
            return
        data = self.data(work)
        try:
            gas = await self._gas(data)
        except Simulated as simulated:
            if simulated.revert.name == "IntervalMismatch":  # the endpoint is behind this view, or a block ahead
                await context.change(entry, work.waiting(simulated.revert.name, context.node.now(), 0.0))
            else:
                await self.refused(entry, simulated.revert, view)
            return
        except TooMuchGas as problem:
            await context.end(entry, State.FAILED, str(problem))
            return
        await self._send(entry, view, data, gas, closing=False)

    async def close(self, entry: Entry, view: View) -> None:
        """End a proof that nobody has judged in time. It is tried again with the next block if that fails."""
        data = self.closing_data(entry.work)
        try:
            gas = await self._gas(data)
        except (Simulated, TooMuchGas) as problem:
            logger.warning("the proof of %s cannot be ended: %s", entry.work.key, problem)
        else:
            await self._send(entry, view, data, gas, closing=True)

    async def _send(self, entry: Entry, view: View, data: bytes, gas: int, *, closing: bool) -> None:
        context = self._context
        transaction = Transaction(context.coordinator, data, gas)
        try:
            await context.sender.send(transaction, partial(self._keep, entry, view, closing=closing))
        except FeesTooHigh as problem:
            self._held_up = entry.work.key, str(problem)
            await context.change(entry, entry.work.waiting(str(problem), context.node.now(), 0.0))
        else:
            self._held_up = "", ""

    def data(self, work: Work) -> bytes:
        """Return the data of a record's transaction."""
        if work.closing:
            return self.closing_data(work)
        return delivery_data(work, self._context.settings.payment_address)

    def closing_data(self, work: Work) -> bytes:
        """Return the data of the transaction that ends a proof in the node's favour, after its time."""
        arguments = (work.id, work.interval, self._context.sender.address, True)
        return Coordinator.finalize_proof_verification.encode(*arguments)

    async def replace(self, entry: Entry, view: View, *, giving_up: bool) -> None:
        """Sign a transaction again with higher fees; or, `giving_up`, an empty transfer under its nonce."""
        context, newest = self._context, entry.work.sent[-1]
        if giving_up:
            transaction = empty_transfer(context.sender.address)
        else:
            transaction = Transaction(context.coordinator, data_of(newest.raw), newest.gas)
        keep = partial(self._keep, entry, view, closing=entry.work.closing, giving_up=giving_up)
        await context.sender.replace(transaction, newest, keep)

    async def fill(self, nonce: int, before: SignedTransaction | None) -> SignedTransaction:
        """Send an empty transfer under a nonce that was given out, and whose transaction is lost.

        It replaces `before`, the transfer that was sent under this nonce last. Raise `FeesTooHigh`.
        """
        nothing = SignedTransaction(nonce=nonce, hash="", raw=b"", gas=0, max_fee=0, priority_fee=0)

        async def keep(signed: SignedTransaction, writes: Sequence[Write]) -> None:
            """Keep nothing: if it is lost, another one fills the gap."""

        sender = self._context.sender
        return await sender.replace(empty_transfer(sender.address), before or nothing, keep)

    async def _keep(
        self,
        entry: Entry,
        view: View,
        signed: SignedTransaction,
        writes: Sequence[Write],
        *,
        closing: bool,
        giving_up: bool = False,
    ) -> None:
        context, sent = self._context, Sent.of(signed, view.latest.number)
        account, now = context.sender.address, context.node.now()
        await context.change(entry, entry.work.signed(account, sent, now, closing=closing, giving_up=giving_up), writes)

    async def refused(self, entry: Entry, revert: Revert, view: View) -> None:
        """Store what becomes of a record whose delivery was reverted, simulated or mined."""
        context = self._context
        if revert.remedy is Remedy.DELIVERED:
            known = replace(entry.work, block=entry.work.block or view.latest.number)  # a fork below it opens it again
            await context.end(Entry(known, entry.version), State.DONE, "an earlier transaction has delivered it")
        elif revert.remedy is Remedy.NEXT:
            await context.past(entry, revert.name, view.latest.timestamp)
        elif revert.remedy is Remedy.FINAL:
            await context.end(entry, State.FAILED, revert.name)
        else:
            await context.failed(entry, State.OUTPUT, revert.name)

    async def _gas(self, data: bytes) -> int:
        """Return the limit of gas for a delivery. Raise `Simulated` or `TooMuchGas`, or the errors of the RPC."""
        context, most = self._context, self._context.settings.max_gas_limit
        message = {"from": context.sender.address, "to": context.coordinator, "data": f"0x{data.hex()}"}
        simulated, estimated = await context.rpc.batch(
            [Question("eth_call", (message, "latest")), Question("eth_estimateGas", (message,))]
        )
        for reply in (simulated, estimated):
            if isinstance(reply, Refused):
                revert = revert_of(reply.data)
                if is_tolerated(revert, str(reply), context.settings.allowed_sim_errors):
                    return most
                if reply.is_fault:
                    raise reply
                raise Simulated(revert)
        return gas_limit(quantity(estimated), most)


def delivery_data(work: Work, wallet: str) -> bytes:
    """Return the data of the transaction that delivers a record's output."""
    assert work.payload is not None
    payload = work.payload.input, work.payload.output, work.payload.proof
    if work.delegation is None:
        return Coordinator.deliver_compute.encode(work.id, work.interval, *payload, wallet)
    grant = work.delegation
    request = (grant.nonce, grant.expiry, work.subscription.row, *grant.signature.row)
    return Coordinator.deliver_compute_delegatee.encode(*request, work.interval, *payload, wallet)
